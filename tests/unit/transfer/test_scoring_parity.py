"""Our figures are those of pycocotools, on real annotations and where torchmetrics alone differs."""

from __future__ import annotations

import contextlib
import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from tests.unit.transfer.coco_split import SIDE, coco_mini, guesses, small_split, square, xyxy

from patchmix.transfer.annotations import AnnotatedImage, Annotations, Object
from patchmix.transfer.coco_results import Record, read_results, to_records, write_results
from patchmix.transfer.scoring import Scorer, score_records, true_masks

NAMES = [
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
]
"""In the order of COCOeval's statistics."""


def pycocotools_figures(annotations: Annotations, results: list[Record], iou_type: str) -> tuple[list[float], COCO]:
    """COCOeval's twelve statistics, in per cent, and the evaluator.

    Masks are scored without `bbox`, which would give their area.
    """
    if iou_type == "segm":
        results = [{key: value for key, value in record.items() if key != "bbox"} for record in results]
    truth = COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": each.id, "width": each.width, "height": each.height} for each in annotations.images],
        "categories": [{"id": each.id, "name": each.name} for each in annotations.categories],
        "annotations": [
            {
                "id": each.id,
                "image_id": image.id,
                "category_id": each.category,
                "bbox": list(each.box),
                "area": each.area,
                "iscrowd": int(each.is_crowd),
                "segmentation": each.segmentation,
            }
            for image in annotations.images
            for each in image.objects
        ],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        evaluator = COCOeval(truth, truth.loadRes(results), iou_type)
        evaluator.evaluate()
        evaluator.accumulate()
        evaluator.summarize()
    return (100 * evaluator.stats).tolist(), evaluator


def assert_equal_to_pycocotools(annotations: Annotations, scorer: Scorer, results: list[Record]) -> None:
    figures = scorer.metrics()
    for kind, iou_type in (("box", "bbox"), ("mask", "segm")):
        expected, evaluator = pycocotools_figures(annotations, results, iou_type)
        for name, value in zip(NAMES, expected, strict=True):
            if value < 0:
                assert f"{kind}_{name}" not in figures
            else:
                assert figures[f"{kind}_{name}"] == pytest.approx(value, abs=1e-6), (kind, name)
        precision = evaluator.eval["precision"][..., 0, -1]  # [t, r, k]
        per_category = scorer.per_category()
        for place, category in enumerate(annotations.categories):
            if precision[0, 0, place] < 0:
                assert f"{kind}_ap" not in per_category.get(category.name, {})
            else:
                expected_ap = 100 * precision[:, :, place].mean()
                assert per_category[category.name][f"{kind}_ap"] == pytest.approx(expected_ap, abs=1e-6)
        at_50 = precision[0][:, precision[0, 0] > -1].mean(axis=1)
        np.testing.assert_allclose(scorer.curves()[kind].precision, 100 * at_50, atol=1e-6)


def extracted(shared_data: Path, folder: Path) -> Path:
    name = "coco-mini/annotations/instances_val2017.json"
    with zipfile.ZipFile(shared_data / "coco-mini.zip") as archive:
        return Path(archive.extract(name, folder))


@pytest.mark.parametrize(
    ("num_images", "num_crowds"),
    [(25, 70), pytest.param(100, 0, marks=pytest.mark.slow), pytest.param(100, 70, marks=pytest.mark.slow)],
)
def test_figures_equal_pycocotools_on_real_annotations(
    shared_data: Path, tmp_path: Path, num_images: int, num_crowds: int
) -> None:
    annotations = coco_mini(extracted(shared_data, tmp_path), num_crowds=num_crowds, num_images=num_images)
    generator = np.random.Generator(np.random.Philox(7))
    scorer, records = Scorer(annotations, masks=True), []
    for image in generator.permutation(np.array(annotations.images, dtype=object))[:-5]:  # five never added
        found = guesses(image, annotations, generator)
        scorer.add(image.id, found.boxes, found.scores, found.labels, found.masks)
        records += to_records(image.id, found, annotations)
    write_results(tmp_path / "found.json", records)
    results = json.loads((tmp_path / "found.json").read_text())
    assert 20 < scorer.metrics()["box_ap"] < 90
    assert 20 < scorer.metrics()["mask_ap"] < 90
    assert_equal_to_pycocotools(annotations, scorer, results)
    again = score_records(read_results(tmp_path / "found.json", annotations), annotations, masks=True)
    assert again.metrics() == scorer.metrics()


@pytest.mark.parametrize("seed", range(5))
def test_figures_equal_pycocotools_with_crowds_sizes_and_gaps_in_ids(seed: int) -> None:
    annotations = small_split()
    generator = np.random.Generator(np.random.Philox(seed))
    scorer, records = Scorer(annotations, masks=True), []
    for image in annotations.images:
        found = guesses(image, annotations, generator)
        scorer.add(image.id, found.boxes, found.scores, found.labels, found.masks)
        records += to_records(image.id, found, annotations)
    assert_equal_to_pycocotools(annotations, scorer, records)


def test_recall_at_a_hundredth_is_counted_as_coco_does() -> None:
    """A hundred objects, some of them found: recalls are exactly 0.01, 0.02, …, where float32 thresholds err."""
    objects = tuple(
        Object(n + 1, 3, (n, n, 20.0, 20.0), 400.0, False, [[n, n, n + 20, n, n + 20, n + 20]]) for n in range(100)
    )
    images = tuple(AnnotatedImage(each.id, None, SIDE, SIDE, (each,)) for each in objects)
    annotations = Annotations("val", small_split().categories, images, {})
    scorer, records = Scorer(annotations, masks=False), []
    for image in images[:57]:
        wrong = image.id % 3 == 0
        box = torch.tensor([[0.0, 0.0, 5.0, 5.0]]) if wrong else xyxy(*image.objects)
        score = torch.tensor([1 - image.id / 200])
        scorer.add(image.id, box, score, torch.tensor([1]))
        x1, y1, x2, y2 = box[0].tolist()
        bbox = [x1, y1, x2 - x1, y2 - y1]
        records.append({"image_id": image.id, "category_id": 3, "bbox": bbox, "score": score.item()})
    expected, _ = pycocotools_figures(annotations, records, "bbox")
    assert scorer.metrics()["box_ap"] == pytest.approx(expected[0], abs=1e-6)


def test_an_object_of_area_zero_is_small_as_for_coco() -> None:
    odd = Object(1, 3, (0.0, 0.0, 100.0, 100.0), 0.0, False, square(0, 0, 100))
    annotations = Annotations("val", small_split().categories, (AnnotatedImage(1, None, SIDE, SIDE, (odd,)),), {})
    scorer = Scorer(annotations, masks=True)
    scorer.add(1, xyxy(odd), torch.tensor([0.9]), torch.tensor([1]), true_masks(annotations.images[0]).bool())
    expected, _ = pycocotools_figures(annotations, [box_record(odd)], "bbox")
    assert scorer.metrics()["box_ap_small"] == pytest.approx(expected[3])


def box_record(each: Object) -> Record:
    return {"image_id": 1, "category_id": each.category, "bbox": list(each.box), "score": 0.9}
