"""Crops of many small images at once: bicubic, antialiased resampling as two batched matrix products.

Weights are whole numbers of 2^-13 and pixels whole numbers of ¼, so that every product and sum is exact in float32:
a view is the same bit for bit in whatever order and batch it is summed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

UNIT = 2.0**13  # of weights: 4 · 255 · 1.4 (the most that absolute weights sum to) · 2^13 < 2^24
STEPS = 4.0  # of a grey level, between the two products
MOST_NUMBERS = 2**18  # of one matrix or image batch: temporaries stay in the cache


def resample(
    images: torch.Tensor, boxes: npt.NDArray[np.int64], flips: npt.NDArray[np.bool_], size: tuple[int, int]
) -> torch.Tensor:
    """Cut boxes (top, left, height, width) [n, 4] out, resize and flip: uint8 [n, c, h, w] -> uint8 [n, c, *size].

    As torchvision's `resized_crop` of uint8 with antialiasing, within a grey level.
    """
    longest = max(*images.shape[-2:], *size)
    rows = max(1, MOST_NUMBERS // (int(images.shape[1]) * longest**2))
    upright = np.zeros_like(flips)
    views = torch.empty(*images.shape[:2], *size, dtype=torch.uint8)
    for start in range(0, len(images), rows):
        part = slice(start, start + rows)
        down = weights(boxes[part, 0], boxes[part, 2], upright[part], images.shape[-2], size[0])
        across = weights(boxes[part, 1], boxes[part, 3], flips[part], images.shape[-1], size[1])
        views[part] = _both(images[part].to(torch.float32), down, across)
    return views


def _both(pixels: torch.Tensor, down: torch.Tensor, across: torch.Tensor) -> torch.Tensor:
    num, channels, height, width = pixels.shape
    wide = torch.bmm(pixels.view(num, channels * height, width), across.transpose(1, 2))
    # Overshoot is cut off in between too, as torchvision does with uint8.
    wide.mul_(STEPS / UNIT).round_().clamp_(0, 255 * STEPS)
    both = torch.matmul(down.unsqueeze(1), wide.view(num, channels, height, -1))
    return both.mul_(1 / (STEPS * UNIT)).round_().clamp_(0, 255).to(torch.uint8)


def weights(
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    flips: npt.NDArray[np.bool_],
    side: int,
    new_side: int,
) -> torch.Tensor:
    """What each of `side` pixels gives to each of `new_side`, in units of 2^-13: float32 [n, new_side, side].

    Pixels outside start … start + length give nothing; where the length is reduced the cubic is widened by as much
    (antialiasing).
    """
    scales = lengths / new_side
    places = np.arange(new_side) + 0.5
    centres = scales[:, None] * np.where(flips[:, None], new_side - places, places) + starts[:, None]
    widen = 1 / np.maximum(scales, 1)
    pixels = np.arange(side)
    inside = (pixels >= starts[:, None]) & (pixels < (starts + lengths)[:, None])
    pixel = (pixels + 0.5)[None] * widen[:, None]
    centre = centres * widen[:, None]
    distance = _float(pixel).unsqueeze(1) - _float(centre).unsqueeze(2)
    found = cubic(distance.abs_().clamp_(max=2))
    found.mul_(_float(inside).unsqueeze(1) * 4096).round_()
    found.mul_(UNIT / found.sum(dim=2, keepdim=True))
    return found.round_()


def cubic(distance: torch.Tensor) -> torch.Tensor:
    """Keys' cubic with a = -½, as Pillow's and torchvision's antialiased bicubic; of distances from 0 to 2."""
    far = distance.mul(-0.5).add_(2.5).mul_(distance).sub_(4).mul_(distance).add_(2)
    near = distance.neg().add_(1).clamp_(min=0)
    return far.add_(near.mul_(near).mul_(distance.mul_(2).sub_(1)))


def _float(values: npt.NDArray[np.generic]) -> torch.Tensor:
    return torch.from_numpy(values.astype(np.float32))
