"""Segmentations of COCO's form as masks, by faster-coco-eval's mask functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from faster_coco_eval.core import mask as mask_api


def as_mask(segmentation: Any, height: int, width: int) -> npt.NDArray[np.uint8]:
    """Polygons (their union) or RLE as pixels: uint8 [height, width], 0 and 1.

    Raises:
        ValueError or RuntimeError: the runs of an RLE do not add up to the image.
    """
    mask: npt.NDArray[np.uint8] = mask_api.decode(mask_api.segmToRle(segmentation, width, height))
    return np.ascontiguousarray(mask)


def mask_area(segmentation: Any, height: int, width: int) -> float:
    """How many pixels they have."""
    return float(mask_api.area(mask_api.segmToRle(segmentation, width, height)))


def packed_mask(mask: npt.NDArray[np.uint8]) -> dict[str, Any]:
    """A mask [height, width] of 0 and 1 as compressed RLE that JSON can hold."""
    packed = mask_api.encode(np.asfortranarray(mask))
    return {"size": [int(side) for side in packed["size"]], "counts": packed["counts"].decode("ascii")}


def mask_box(rle: dict[str, Any]) -> tuple[float, float, float, float]:
    """x, y, width and height of what a compressed RLE covers, in pixels."""
    x, y, width, height = (float(number) for number in mask_api.toBbox(rle))
    return x, y, width, height
