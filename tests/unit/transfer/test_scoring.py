"""Figures by hand on a small split; that they are those of pycocotools says test_scoring_parity.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.unit.transfer.coco_split import SIDE, guesses, small_split, square, xyxy

from patchmix.errors import UserError
from patchmix.transfer.annotations import AnnotatedImage, Annotations, Object
from patchmix.transfer.scoring import Scorer, true_masks

FIGURES = [
    *("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large"),
    *("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large"),
]
NONE = torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64)


def found_all(annotations: Annotations, *, masks: bool = True) -> Scorer:
    """Every object but crowds found exactly, and nothing else."""
    scorer = Scorer(annotations, masks=masks)
    for image in annotations.images:
        plain = [place for place, each in enumerate(image.objects) if not each.is_crowd]
        if not plain:
            continue
        objects = [image.objects[place] for place in plain]
        labels = torch.tensor([annotations.label_of(each.category) for each in objects])
        found_masks = true_masks(image)[plain].bool() if masks else None
        scorer.add(image.id, xyxy(*objects), torch.full((len(plain),), 0.9), labels, found_masks)
    return scorer


def test_all_objects_found_are_a_hundred_per_cent() -> None:
    figures = found_all(small_split()).metrics()
    assert set(figures) == {f"{kind}_{name}" for kind in ("box", "mask") for name in FIGURES}
    assert all(value == pytest.approx(100) for name, value in figures.items() if not name.endswith("ar1"))
    assert figures["box_ar1"] == pytest.approx(100)  # a category has one object an image, but for the crowd


def test_nothing_found_is_zero_per_cent() -> None:
    figures = Scorer(small_split(), masks=False).metrics()
    assert set(figures) == {f"box_{name}" for name in FIGURES}
    assert set(figures.values()) == {0.0}


def test_figures_do_not_depend_on_the_order_of_images() -> None:
    annotations = small_split()
    found = {
        image.id: guesses(image, annotations, np.random.Generator(np.random.Philox(3))) for image in annotations.images
    }
    figures = []
    for order in ([5, 2, 9], [9, 2, 5], [2, 5, 9]):
        scorer = Scorer(annotations, masks=True)
        for image_id in order:
            each = found[image_id]
            # One score for all: what comes first among equals decides.
            scorer.add(image_id, each.boxes, torch.full_like(each.scores, 0.5), each.labels, each.masks)
        figures.append(scorer.metrics())
    assert figures[0] == figures[1] == figures[2]


def test_detections_of_a_crowd_region_are_neither_right_nor_wrong() -> None:
    annotations = small_split()
    first = annotations.images[0]
    crowd = Object(9, 3, (70.0, 6.0, 12.0, 12.0), 144.0, False, None)
    elsewhere = Object(9, 3, (10.0, 80.0, 12.0, 12.0), 144.0, False, None)
    figures = {}
    for name, extra in (("in the crowd", crowd), ("elsewhere", elsewhere)):
        scorer = Scorer(annotations, masks=False)
        scores = torch.tensor([0.8, 0.9])  # the extra one is surer
        scorer.add(first.id, xyxy(first.objects[0], extra), scores, torch.tensor([1, 1]))
        scorer.add(2, xyxy(*annotations.images[1].objects), torch.tensor([0.7]), torch.tensor([1]))
        figures[name] = scorer.per_category()["cat"]["box_ap"]
    assert figures["in the crowd"] == pytest.approx(100)
    assert figures["elsewhere"] == pytest.approx(100 * 2 / 3, abs=0.1)


def test_the_annotations_area_and_not_its_box_says_how_large_an_object_is() -> None:
    thin = Object(1, 3, (0.0, 0.0, 100.0, 100.0), 500.0, False, square(0, 0, 100))
    annotations = Annotations("val", small_split().categories, (AnnotatedImage(1, None, SIDE, SIDE, (thin,)),), {})
    scorer = Scorer(annotations, masks=False)
    scorer.add(1, xyxy(thin), torch.tensor([0.9]), torch.tensor([1]))
    figures = scorer.metrics()
    assert figures["box_ap_small"] == pytest.approx(100)
    assert "box_ap_large" not in figures
    assert "box_ar_large" not in figures


def test_categories_without_objects_do_not_count_and_those_of_one_name_keep_their_ids() -> None:
    annotations = small_split()
    per_category = found_all(annotations).per_category()
    assert list(per_category) == ["cat", "dog"]
    assert per_category["dog"] == {"box_ap": pytest.approx(100), "mask_ap": pytest.approx(100)}
    scorer = Scorer(annotations, masks=False)
    scorer.add(9, torch.tensor([[1.0, 1, 9, 9]]), torch.tensor([0.9]), torch.tensor([3]))  # a toothbrush
    assert "toothbrush" not in scorer.per_category()
    assert scorer.metrics()["box_ap"] == 0.0
    alike = tuple(type(each)(each.id, "thing") for each in annotations.categories)
    alike_split = Annotations("val", alike, annotations.images, {})
    assert list(found_all(alike_split).per_category()) == ["thing (3)", "thing (7)"]


def test_a_split_of_crowds_alone_has_no_figures() -> None:
    annotations = small_split()
    crowd = AnnotatedImage(5, None, SIDE, SIDE, annotations.images[0].objects[2:])
    scorer = Scorer(Annotations("val", annotations.categories, (crowd,), {}), masks=True)
    assert scorer.metrics() == {}
    assert scorer.per_category() == {}
    assert scorer.curves() == {}


def test_a_split_without_objects_or_detections_has_no_figures() -> None:
    annotations = Annotations("val", small_split().categories, small_split().images[2:], {})
    assert Scorer(annotations, masks=True).metrics() == {}


def test_more_than_a_hundred_detections_are_cut_to_the_surest_without_a_warning() -> None:
    annotations = small_split()
    second = annotations.images[1].objects[0]
    boxes = torch.cat([torch.tensor([[0.0, 0.0, 9.0, 9.0]]).expand(120, 4), xyxy(second)])
    scorer = Scorer(annotations, masks=False)
    scorer.add(2, boxes, torch.linspace(0.9, 0.1, 121), torch.ones(121, dtype=torch.int64))
    assert scorer.metrics()["box_ar100"] == 0.0


def test_curves_fall_from_full_precision_to_none() -> None:
    annotations = small_split()
    scorer = Scorer(annotations, masks=False)
    scorer.add(2, xyxy(*annotations.images[1].objects), torch.tensor([0.9]), torch.tensor([1]))  # one of two cats
    curve = scorer.curves()["box"]
    assert curve.recall == pytest.approx(range(101))
    # Of the cats half, of the dogs none.
    assert curve.precision == pytest.approx([50.0] * 51 + [0.0] * 50)
    assert sum(curve.precision) / 101 == pytest.approx(scorer.metrics()["box_ap50"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": 4}, "image 4 is not of this split"),
        ({"labels": torch.tensor([4])}, r"labels of image 2 are not in 1 … 3"),
        ({"labels": torch.tensor([0])}, r"labels of image 2 are not in 1 … 3"),
        ({"labels": torch.tensor([1, 1])}, r"labels \[2\]"),
        ({"boxes": torch.tensor([[0.0, 0, torch.inf, 3]])}, "not finite"),
        ({"scores": torch.tensor([torch.nan])}, "not finite"),
        ({"masks": None}, "no masks for 1 objects"),
        ({"masks": torch.zeros(1, 64, 64, dtype=torch.bool)}, r"masks \[1, 64, 64\]"),
    ],
)
def test_what_cannot_be_scored_is_refused(change: dict[str, Any], message: str) -> None:
    given = {
        "image_id": 2,
        "boxes": torch.tensor([[1.0, 2, 3, 4]]),
        "scores": torch.tensor([0.5]),
        "labels": torch.tensor([1]),
        "masks": torch.zeros(1, SIDE, SIDE, dtype=torch.bool),
    }
    with pytest.raises(ValueError, match=message):
        Scorer(small_split(), masks=True).add(**{**given, **change})


def test_an_image_is_added_once_and_before_figures_are_asked_for() -> None:
    scorer = Scorer(small_split(), masks=False)
    scorer.add(2, *NONE)
    with pytest.raises(ValueError, match="image 2 is added twice"):
        scorer.add(2, *NONE)
    scorer.metrics()
    with pytest.raises(ValueError, match="before the first figure"):
        scorer.add(5, *NONE)


def test_objects_without_segmentation_are_scored_by_their_boxes_alone() -> None:
    bare = Object(17, 3, (5.0, 5.0, 50.0, 50.0), 2500.0, False, None)
    annotations = Annotations("val", small_split().categories, (AnnotatedImage(1, None, SIDE, SIDE, (bare,)),), {})
    assert found_all(annotations, masks=False).metrics()["box_ap"] == pytest.approx(100)
    with pytest.raises(UserError, match=r"no segmentation.*annotation 17"):
        Scorer(annotations, masks=True)
