"""Large-scale jitter: an image scaled at random, a square at most of it taken, mirrored or not, with its objects.

Of Ghiasi et al. 2021 (arXiv:2012.07177); torchvision's transforms do it, here is what is drawn. DIFFERS: the square is
cut out before it is scaled, which gives the same but for a pixel of the original at its border, at a fraction of the
work; the padding is left to the batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms.v2 import functional

from patchmix.transfer.annotations import Object
from patchmix.transfer.masks import as_mask

LEAST_SIDE = 1.0  # pixels of a box after scaling; smaller ones are left out


@dataclass(frozen=True)
class Window:
    """What is taken of an image, in its pixels, the size (height, width) that it becomes, and if it is mirrored."""

    top: int
    left: int
    height: int
    width: int
    size: tuple[int, int]
    mirrored: bool

    def cut(self, part: Any) -> Any:
        """An image or tv_tensor of the image's size, cut, scaled and mirrored."""
        size = list(self.size)
        cut = functional.resized_crop(part, self.top, self.left, self.height, self.width, size, antialias=True)
        return functional.horizontal_flip(cut) if self.mirrored else cut


def draw_window(
    generator: np.random.Generator,
    height: int,
    width: int,
    *,
    image_size: int,
    scale: tuple[float, float],
    flip: bool,
) -> Window:
    """A window of an image of this size, scaled so that its longest side is image_size times a number from `scale`.

    The result has at most image_size x image_size pixels. Takes four numbers from the generator.
    """
    drawn = generator.uniform(*scale), generator.random(), generator.random(), generator.random()
    ratio = drawn[0] * image_size / max(height, width)
    top, taken_height, out_height = _span(height, ratio, image_size, drawn[1])
    left, taken_width, out_width = _span(width, ratio, image_size, drawn[2])
    return Window(top, left, taken_height, taken_width, (out_height, out_width), flip and drawn[3] < 0.5)


def cut_objects(
    objects: Sequence[Object], labels: Sequence[int], height: int, width: int, window: Window, *, masks: bool
) -> dict[str, Tensor]:
    """What is left of an image's objects in a window of it.

    boxes float32 [n, 4] x, y, x, y in pixels of what it becomes; labels and iscrowd int64 [n]; masks uint8
    [n, *window.size], if asked for. Objects that are not in the window are left out, also where only their box reaches
    into it. Boxes that the window cuts are drawn round the rest of the mask.
    """
    corners = torch.tensor([each.box for each in objects], dtype=torch.float32).view(-1, 4)
    corners[:, 2:] += corners[:, :2]
    # How they lie to the window is asked before clamping, which hides it.
    low = torch.tensor([window.left, window.top], dtype=torch.float32)
    high = low + torch.tensor([window.width, window.height], dtype=torch.float32)
    # A pixel more: boxes of whole images may reach so far beyond them.
    reaching = (corners[:, :2] < low - 1).any(dim=1) | (corners[:, 2:] > high + 1).any(dim=1)
    boxes = window.cut(tv_tensors.BoundingBoxes(corners, format="XYXY", canvas_size=(height, width)))
    boxes, valid = functional.sanitize_bounding_boxes(
        functional.clamp_bounding_boxes(boxes), min_size=LEAST_SIDE, min_area=LEAST_SIDE**2
    )
    found = {
        "boxes": boxes.as_subclass(Tensor),
        "labels": torch.tensor(labels, dtype=torch.int64)[valid],
        "iscrowd": torch.tensor([int(each.is_crowd) for each in objects], dtype=torch.int64)[valid],
    }
    if not masks:
        return found
    # One after the other: of a large photograph all masks at once would take its size many times.
    cut = [
        window.cut(tv_tensors.Mask(torch.from_numpy(as_mask(objects[place].segmentation, height, width))))
        for place in valid.nonzero().flatten().tolist()
    ]
    found["masks"] = torch.stack(cut).as_subclass(Tensor) if cut else torch.zeros(0, *window.size, dtype=torch.uint8)
    there = found["masks"].flatten(1).any(dim=1).bool()
    found = {name: each[there] for name, each in found.items()}
    narrowed = reaching[valid][there]
    if narrowed.any():
        tight = masks_to_boxes(found["masks"][narrowed])
        tight[:, 2:] += 1  # to the far side of the last pixel
        found["boxes"][narrowed] = tight.to(found["boxes"].dtype)
    return found


def _span(side: int, ratio: float, limit: int, place: float) -> tuple[int, int, int]:
    """Of one side: where the window begins, how long it is, and how long it becomes."""
    whole = max(1, round(side * ratio))
    if whole <= limit:
        return 0, side, whole
    taken = max(1, min(side, round(limit / ratio)))
    return int(place * (side - taken + 1)), taken, limit
