"""Predictions as COCO writes them: a JSON list of one record for each object that was found.

A record: `image_id`, `category_id`, `bbox` (x, y, width, height in pixels of the image as it is on disk), `score`, and
with masks `segmentation` (RLE: `size` [height, width], `counts` as text). https://cocodataset.org/#format-results

shapes: n objects found in an image of height × width
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.ops import box_convert

from patchmix.errors import UserError
from patchmix.files import write_text
from patchmix.transfer.annotations import AnnotatedImage, Annotations
from patchmix.transfer.masks import as_mask, packed_mask

DECIMALS = 2
"""Of the numbers of a box, as in COCO's own files: hundredths of a pixel."""

Record = dict[str, Any]


@dataclass(frozen=True)
class Found:
    """What was found in an image, best first or in any other order.

    boxes: float [n, 4], x1, y1, x2, y2 in pixels; scores: float [n]; labels: int64 [n], 1 … number of categories;
    masks: bool [n, height, width], or None where there are only boxes.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    masks: Tensor | None


def written_boxes(boxes: Tensor) -> Tensor:
    """Boxes [n, 4] x1, y1, x2, y2 → float64 [n, 4] x, y, width, height, rounded as a result file has them.

    What is scored goes through here too: figures can be had again from the file, to the last digit.
    """
    converted: Tensor = box_convert(boxes.detach().cpu().double(), "xyxy", "xywh")
    return converted.round(decimals=DECIMALS)


def to_records(image_id: int, found: Found, annotations: Annotations) -> list[Record]:
    """The records of an image, in the order of `found`; plain Python, so that processes can exchange them."""
    boxes = written_boxes(found.boxes).tolist()
    # The shortest text of a float32: as many scores are equal as before, and in the same order.
    scores = [float(str(score)) for score in found.scores.detach().cpu().float().numpy()]
    records = [
        {"image_id": image_id, "category_id": annotations.ids[label - 1], "bbox": box, "score": score}
        for box, score, label in zip(boxes, scores, found.labels.tolist(), strict=True)
    ]
    if found.masks is not None:
        for record, mask in zip(records, found.masks.detach().cpu().numpy(), strict=True):
            record["segmentation"] = packed_mask(mask.astype(np.uint8))
    return records


def from_records(records: Sequence[Record], image: AnnotatedImage, annotations: Annotations, *, masks: bool) -> Found:
    """The records of one image, as tensors again (boxes and scores float64, as exact as the file).

    Raises:
        UserError: masks are asked for, and a record has none.
    """
    boxes = torch.tensor([record["bbox"] for record in records], dtype=torch.float64).reshape(-1, 4)
    found_masks = None
    if masks:
        if any("segmentation" not in record for record in records):
            raise UserError(
                f"predictions of image {image.id} have boxes alone: score them with --masks false, or predict masks"
            )
        found_masks = torch.zeros(len(records), image.height, image.width, dtype=torch.bool)
        for mask, record in zip(found_masks, records, strict=True):
            mask.copy_(torch.from_numpy(as_mask(record["segmentation"], image.height, image.width)))
    return Found(
        boxes=box_convert(boxes, "xywh", "xyxy"),
        scores=torch.tensor([record["score"] for record in records], dtype=torch.float64),
        labels=torch.tensor([annotations.label_of(record["category_id"]) for record in records], dtype=torch.int64),
        masks=found_masks,
    )


def by_image(records: Iterable[Record]) -> dict[int, list[Record]]:
    """{image id: its records, in their order}; images without any are not in it."""
    images: dict[int, list[Record]] = {}
    for record in records:
        images.setdefault(record["image_id"], []).append(record)
    return images


def write_results(path: Path, records: Iterable[Record]) -> None:
    """Write a whole result file or none, a record a line.

    pycocotools takes the areas of masks from `bbox` where a record has both: take `bbox` away before it scores masks,
    or its figures by size are those of other objects.

    Raises:
        RunError: it cannot be written.
        ValueError: a number is not finite.
    """
    lines = ",\n".join(json.dumps(record, allow_nan=False) for record in records)
    write_text(path, f"[\n{lines}\n]\n")


def read_results(path: Path, annotations: Annotations) -> list[Record]:
    """Read a result file, ours or another tool's, of these images and categories.

    Raises:
        UserError: it is absent, no JSON, or a record is of another image or category, or not whole: names the first.
    """
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read predictions {path}: {error.strerror or error}") from None
    except ValueError as error:  # UnicodeDecodeError too
        raise UserError(f"{path} is no JSON ({error}): give a COCO result file") from None
    if not isinstance(records, list):
        raise UserError(f"{path} holds no list: COCO results are a list of predictions, annotations are another file")
    images = {image.id: image for image in annotations.images}
    categories = frozenset(annotations.ids)
    for number, record in enumerate(records, start=1):
        wrong = _what_is_wrong(record, images, categories, annotations.name)
        if wrong is not None:
            raise UserError(f"{path}: prediction {number} {wrong}")
    return records


def _what_is_wrong(
    record: object, images: Mapping[int, AnnotatedImage], categories: frozenset[int], split: str
) -> str | None:
    if not isinstance(record, dict):
        return "is no object with image_id, category_id, bbox and score"
    absent = [key for key in ("image_id", "category_id", "bbox", "score") if key not in record]
    if absent:
        return f"lacks {', '.join(absent)}"
    image_id, category = record["image_id"], record["category_id"]
    if not _is_id(image_id) or image_id not in images:
        return f"is of image {image_id}, which the annotations of {split} do not have: give the file that belongs to it"
    if not _is_id(category) or category not in categories:
        return f"is of category {category}, which the annotations of {split} do not have"
    box = record["bbox"]
    if not isinstance(box, list) or len(box) != 4 or not all(map(_is_number, box)) or min(box[2:]) < 0:
        return f"has the bbox {box}: x, y, width and height in pixels are needed"
    if not _is_number(record["score"]):
        return f"has the score {record['score']}: a number is needed"
    if "segmentation" in record and not _is_mask(record["segmentation"], images[image_id]):
        size = f"{images[image_id].height} × {images[image_id].width}"
        return f"has a segmentation that is no RLE of its image ({size}) with counts as text"
    return None


def _is_id(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_mask(segmentation: object, image: AnnotatedImage) -> bool:
    if not isinstance(segmentation, dict) or segmentation.get("size") != [image.height, image.width]:
        return False
    if not isinstance(segmentation.get("counts"), str):
        return False
    try:
        as_mask(segmentation, image.height, image.width)
    except (ValueError, RuntimeError):  # other run lengths than the image has pixels; no run lengths at all
        return False
    return True
