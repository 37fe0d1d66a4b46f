"""What detections are worth, as COCO says it: average precision and recall of boxes and masks, by size and category.

Matching and precision at each recall are torchmetrics' on faster-coco-eval; here are the conventions around them, and
the means. All figures are in per cent, 0–100.

shapes: n objects found in an image of height × width; t IoU thresholds (0.5, 0.55, … 0.95), r recalls (0, 0.01, … 1),
k categories, a ranges of area (all, small, medium, large), m most detections of an image (1, 10, 100)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torchmetrics.detection import MeanAveragePrecision

from patchmix.transfer.annotations import AnnotatedImage, Annotations, check_segmentations
from patchmix.transfer.coco_results import Record, by_image, from_records, written_boxes
from patchmix.transfer.masks import as_mask

# torchmetrics' own are float32 neighbours of these: a recall of exactly 0.07 would miss the threshold 0.0700000003.
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10).tolist()
RECALLS = np.linspace(0.0, 1.0, 101).tolist()
MOST_DETECTIONS = (1, 10, 100)
AT_50, AT_75 = 0, 5
"""Places of the thresholds 0.5 and 0.75."""
SIZES = {"small": 1, "medium": 2, "large": 3}
"""Places of the ranges of area: below 32², below 96², and all above, in pixels of the object's mask."""
LEAST_AREA = 1e-9

PREFIXES = {"box": "bbox_", "mask": "segm_"}
"""Our prefix of a figure → torchmetrics', where it scores both."""


@dataclass(frozen=True)
class Curve:
    """Precision at recall 0, 1, … 100 %, at IoU 0.5 and up to 100 detections an image; the mean over categories."""

    recall: tuple[float, ...]
    precision: tuple[float, ...]


@dataclass(frozen=True)
class _Tables:
    """Of boxes or masks: precision [t, r, k, a, m], recall [t, k, a, m]; −1 where a category has no such object."""

    precision: Tensor
    recall: Tensor


class Scorer:
    """Takes what was found in each image of a split, in any order, then says what it is worth, once.

    As COCO does it: a detection of a crowd region is neither right nor wrong; the area of an annotation, not of its
    box, says whether it is small, medium or large; categories without an object here do not count, nor do ranges of
    area without one. Images that nothing was added for count as images in which nothing was found.

    One process scores: what several have found is brought together first, as records (`coco_results`).

    Raises:
        UserError: masks are scored, and objects have none.
    """

    def __init__(self, annotations: Annotations, masks: bool) -> None:
        if masks:
            check_segmentations(annotations)
        self._annotations = annotations
        self._masks = masks
        self._images = {image.id: image for image in annotations.images}
        self._added: dict[int, None] = {}
        self._tables: dict[str, _Tables] | None = None
        self._labels: list[int] = []
        self._metric = MeanAveragePrecision(
            box_format="xywh",
            iou_type=("bbox", "segm") if masks else "bbox",
            iou_thresholds=IOU_THRESHOLDS,
            rec_thresholds=RECALLS,
            max_detection_thresholds=list(MOST_DETECTIONS),
            extended_summary=True,
            average="macro",
            backend="faster_coco_eval",
            sync_on_compute=False,  # else a process that scores alone waits for the others
        )
        self._metric.warn_on_many_detections = False

    def add(self, image_id: int, boxes: Tensor, scores: Tensor, labels: Tensor, masks: Tensor | None = None) -> None:
        """What was found in an image.

        Args:
            image_id: COCO's id of the image.
            boxes: float [n, 4], x1, y1, x2, y2 in pixels of the image as it is on disk; scored as a result file has
                them, in hundredths of a pixel.
            scores: float [n], the surest the highest; of equal ones the first counts first.
            labels: int64 [n], 1 … number of categories.
            masks: bool [n, height, width]; None where only boxes are scored (given all the same: left alone).

        Raises:
            ValueError: no such image, one that was added before or after scoring, other shapes, labels or numbers.
        """
        if self._tables is not None:
            raise ValueError("add everything before the first figure is asked for")
        image = self._images.get(image_id)
        if image is None or image_id in self._added:
            raise ValueError(f"image {image_id} is {'not of this split' if image is None else 'added twice'}")
        num = len(boxes)
        if boxes.shape != (num, 4) or scores.shape != (num,) or labels.shape != (num,):
            raise ValueError(
                f"boxes {[*boxes.shape]}, scores {[*scores.shape]} and labels {[*labels.shape]} of one image"
            )
        if not (boxes.isfinite().all() and scores.isfinite().all()):
            raise ValueError(f"boxes or scores of image {image_id} are not finite")
        if num and not (labels.min() >= 1 and labels.max() <= len(self._annotations.categories)):
            raise ValueError(f"labels of image {image_id} are not in 1 … {len(self._annotations.categories)}")
        found = {
            "boxes": written_boxes(boxes),
            "scores": scores.detach().cpu(),
            "labels": labels.detach().cpu(),
        }
        if self._masks:
            if masks is None or masks.shape != (num, image.height, image.width):
                given = "no masks" if masks is None else f"masks {[*masks.shape]}"
                raise ValueError(f"{given} for {num} objects in image {image_id} of {image.height} × {image.width}")
            found["masks"] = masks.detach().cpu().to(torch.uint8)
        self._metric.update([found], [self._truth(image)])
        self._added[image_id] = None

    def metrics(self) -> dict[str, float]:
        """box_ap (mean over IoU 0.5 … 0.95), box_ap50, box_ap75, box_ap_small, box_ap_medium, box_ap_large; box_ar1,
        box_ar10, box_ar100 (recall with so many detections an image), box_ar_small, …; mask_ap, … with masks.

        A figure that nothing can be said of (no large object in the split) is left out.
        """
        figures: dict[str, float | None] = {}
        for kind, tables in self._scored().items():
            ap, ar = tables.precision[..., -1], tables.recall
            figures[f"{kind}_ap"] = _mean(ap[..., 0])
            figures[f"{kind}_ap50"] = _mean(ap[AT_50, ..., 0])
            figures[f"{kind}_ap75"] = _mean(ap[AT_75, ..., 0])
            figures |= {f"{kind}_ap_{size}": _mean(ap[..., place]) for size, place in SIZES.items()}
            figures |= {f"{kind}_ar{most}": _mean(ar[..., 0, place]) for place, most in enumerate(MOST_DETECTIONS)}
            figures |= {f"{kind}_ar_{size}": _mean(ar[..., place, -1]) for size, place in SIZES.items()}
        return {name: value for name, value in figures.items() if value is not None}

    def per_category(self) -> dict[str, dict[str, float]]:
        """{name of a category: {box_ap: …, mask_ap: …}}, in the order of the annotations; those without objects not.

        Where two categories have one name, their ids stand behind it.
        """
        categories = self._annotations.categories
        shared = {name for name, times in Counter(category.name for category in categories).items() if times > 1}
        scored = self._scored()
        figures = {}
        for place, label in enumerate(self._labels):
            category = categories[label - 1]
            name = f"{category.name} ({category.id})" if category.name in shared else category.name
            values = {f"{kind}_ap": _mean(tables.precision[:, :, place, 0, -1]) for kind, tables in scored.items()}
            of_category = {key: value for key, value in values.items() if value is not None}
            if of_category:
                figures[name] = of_category
        return figures

    def curves(self) -> dict[str, Curve]:
        """{"box": precision at each recall, "mask": …}; empty where no object can be found at all."""
        curves = {}
        for kind, tables in self._scored().items():
            at_50 = tables.precision[AT_50, :, :, 0, -1]  # [r, k]
            there = at_50[:, at_50[0] > -1]
            if there.shape[1]:
                precision = tuple((100 * there.mean(dim=1)).tolist())
                curves[kind] = Curve(tuple(100 * recall for recall in RECALLS), precision)
        return curves

    def _scored(self) -> dict[str, _Tables]:
        if self._tables is None:
            for image in self._annotations.images:
                if image.id not in self._added:
                    empty = torch.zeros(0, image.height, image.width, dtype=torch.bool) if self._masks else None
                    self.add(image.id, torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), empty)
            self._sort()
            result = self._metric.compute()
            self._labels = result["classes"].reshape(-1).tolist()
            prefixes = PREFIXES if self._masks else {"box": ""}
            self._tables = {
                kind: _Tables(result[f"{prefix}precision"].double(), result[f"{prefix}recall"].double())
                for kind, prefix in prefixes.items()
            }
        return self._tables

    def _sort(self) -> None:
        """By id, as COCO does: among equal scores of two images the lower id is first, whoever came first here."""
        order = np.argsort([*self._added], kind="stable").tolist()
        for name, state in self._metric.metric_state.items():
            if state:
                setattr(self._metric, name, [state[place] for place in order])

    def _truth(self, image: AnnotatedImage) -> dict[str, Tensor]:
        objects = image.objects
        truth = {
            "boxes": torch.tensor([each.box for each in objects], dtype=torch.float64).reshape(-1, 4),
            "labels": torch.tensor([self._annotations.label_of(each.category) for each in objects], dtype=torch.int64),
            "iscrowd": torch.tensor([int(each.is_crowd) for each in objects], dtype=torch.int64),
            # torchmetrics takes 0 for unknown, COCO for small
            "area": torch.tensor([max(each.area, LEAST_AREA) for each in objects], dtype=torch.float64),
        }
        if self._masks:
            truth["masks"] = true_masks(image)
        return truth


def true_masks(image: AnnotatedImage) -> Tensor:
    """uint8 [objects, height, width]: the masks of all its objects, crowd regions too; each has a segmentation."""
    masks = torch.zeros(len(image.objects), image.height, image.width, dtype=torch.uint8)
    for mask, each in zip(masks, image.objects, strict=True):
        mask.copy_(torch.from_numpy(as_mask(each.segmentation, image.height, image.width)))
    return masks


def score_records(records: Iterable[Record], annotations: Annotations, *, masks: bool) -> Scorer:
    """The scorer with the records of all images added: those of a result file, or of several processes."""
    scorer = Scorer(annotations, masks)
    found = by_image(records)
    for image in annotations.images:
        if image.id in found:
            each = from_records(found[image.id], image, annotations, masks=masks)
            scorer.add(image.id, each.boxes, each.scores, each.labels, each.masks)
    return scorer


def _mean(table: Tensor) -> float | None:
    """Per cent; None where no category has an object of the kind.

    From the tables in float64: torchmetrics' own means are float32, six digits of a percentage.
    """
    there = table[table > -1]
    return 100 * float(there.mean()) if len(there) else None
