"""A split small enough to count by hand and rich enough to err on: crowds, sizes, gaps in ids, empty images.

Also predictions that are right, nearly right and wrong, by seed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from faster_coco_eval.core import mask as coco_masks

from patchmix.transfer.annotations import AnnotatedImage, Annotations, Category, Object
from patchmix.transfer.coco_results import Found

SIDE = 128


def square(x: float, y: float, side: float) -> list[list[float]]:
    return [[x, y, x + side, y, x + side, y + side, x, y + side]]


def crowd_rle(box: tuple[int, int, int, int]) -> dict[str, Any]:
    """Run lengths as numbers, as COCO writes crowds."""
    x, y, width, height = box
    mask = np.zeros((SIDE, SIDE), dtype=bool)
    mask[y : y + height, x : x + width] = True
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).astype(np.int8)))
    runs = np.diff(np.concatenate([[0], edges, [flat.size]]))
    return {"size": [SIDE, SIDE], "counts": runs.tolist()}


def xyxy(*objects: Object) -> torch.Tensor:
    return torch.tensor([[x, y, x + w, y + h] for x, y, w, h in (each.box for each in objects)])


def small_split() -> Annotations:
    """Three categories (ids 3, 7, 90; the last without objects) on images 5 (objects, a crowd), 2 (one), 9 (none)."""
    first = (
        Object(1, 3, (10.0, 10.0, 40.0, 40.0), 1600.0, False, square(10, 10, 40)),
        Object(2, 7, (70.0, 70.0, 20.0, 20.0), 400.0, False, square(70, 70, 20)),
        Object(3, 3, (60.0, 4.0, 60.0, 30.0), 1800.0, True, crowd_rle((60, 4, 60, 30))),
    )
    second = (Object(4, 3, (5.0, 5.0, 110.0, 110.0), 12100.0, False, square(5, 5, 110)),)
    images = (
        AnnotatedImage(5, None, SIDE, SIDE, first),
        AnnotatedImage(2, None, SIDE, SIDE, second),
        AnnotatedImage(9, None, SIDE, SIDE, ()),
    )
    categories = (Category(3, "cat"), Category(7, "dog"), Category(90, "toothbrush"))
    return Annotations("val", categories, images, {})


def coco_mini(file: Path, *, num_crowds: int = 0, num_images: int | None = None) -> Annotations:
    """The provided COCO images' annotations, as they are; every nth made a crowd region so that there are some."""
    read = json.loads(file.read_text())
    of_image: dict[int, list[Object]] = {}
    every = len(read["annotations"]) // num_crowds if num_crowds else 0
    for number, each in enumerate(read["annotations"]):
        crowd = bool(every) and number % every == every - 1
        box = tuple(float(value) for value in each["bbox"])
        made = Object(each["id"], each["category_id"], box, float(each["area"]), crowd, each["segmentation"])  # type: ignore[arg-type]
        of_image.setdefault(each["image_id"], []).append(made)
    images = tuple(
        AnnotatedImage(each["id"], None, each["width"], each["height"], tuple(of_image.get(each["id"], ())))
        for each in read["images"][:num_images]
    )
    categories = tuple(Category(each["id"], each["name"]) for each in read["categories"])
    return Annotations("val", categories, images, {})


def guesses(image: AnnotatedImage, annotations: Annotations, generator: np.random.Generator) -> Found:
    """Objects found again with moved boxes and masks, wrong labels now and then, some twice, some missed, some made up.

    Scores have two decimals, so that many are equal, in one image and between images.
    """
    boxes, labels, masks = [], [], []
    for each in [*image.objects, *image.objects[:2]]:
        if generator.random() < 0.15:
            continue
        x, y, width, height = each.box
        near = np.array([x, y, x + width, y + height])
        near += generator.normal(0, 0.06, 4) * [width, height, width, height]
        shift = generator.normal(0, 0.05, 2) * [width, height]
        rle = coco_masks.segmToRle(each.segmentation, image.width, image.height)
        mask = np.roll(coco_masks.decode(rle), np.round(shift[::-1]).astype(int), axis=(0, 1))
        wrong = generator.random() < 0.1
        label = int(generator.integers(1, len(annotations.categories) + 1)) if wrong else 0
        labels.append(label or annotations.label_of(each.category))
        boxes.append([min(near[0], near[2]), min(near[1], near[3]), max(near[0], near[2]), max(near[1], near[3])])
        masks.append(mask)
    for _ in range(generator.integers(0, 3)):
        x, y, width, height = generator.random(4) * [
            image.width / 2,
            image.height / 2,
            image.width / 2,
            image.height / 2,
        ]
        mask = np.zeros((image.height, image.width), dtype=np.uint8)
        mask[int(y) : int(y + height) + 1, int(x) : int(x + width) + 1] = 1
        boxes.append([x, y, x + width, y + height])
        labels.append(int(generator.integers(1, len(annotations.categories) + 1)))
        masks.append(mask)
    scores = np.round(generator.random(len(boxes)), 2)
    return Found(
        boxes=torch.tensor(np.array(boxes).reshape(-1, 4), dtype=torch.float32),
        scores=torch.tensor(scores, dtype=torch.float32),
        labels=torch.tensor(labels, dtype=torch.int64),
        masks=torch.tensor(np.array(masks).reshape(-1, image.height, image.width), dtype=torch.bool),
    )
