"""Gaussian blur of whole batches, a σ for each image: two batched products with banded matrices.

Weights are whole numbers of 2^-12 and pixels whole numbers of ⅛ grey level, so that every product and sum is exact in
float32: an image is the same bit for bit in whatever order and batch it is summed.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

RADIUS = 6  # pixels: 3 σ of the largest σ
UNIT = 2.0**12  # of weights: 8 · 255 · 2^12 < 2^24
STEPS = 8.0  # of a grey level
BLOCK = 32  # pixels of a line that one product makes, of those and their neighbours


def blur_kernels(sigmas: npt.NDArray[np.float64], side: int) -> npt.NDArray[np.float32]:
    """Weights of the neighbours along sides of so many pixels, in units of 2^-12: [n, 2 · radius + 1].

    The radius is 6 pixels, or what a reflection at the edges allows: side - 1.
    """
    radius = min(RADIUS, side - 1)
    places = np.arange(-radius, radius + 1)
    kernels: npt.NDArray[np.float64] = np.exp(-0.5 * (places / sigmas[:, None]) ** 2)
    kernels = np.rint(UNIT * kernels / kernels.sum(axis=1, keepdims=True))
    kernels[:, radius] += UNIT - kernels.sum(axis=1)
    return kernels.astype(np.float32)


def blur(pixels: torch.Tensor, down: torch.Tensor, across: torch.Tensor) -> None:
    """Blur float32 [n, c, h, w] from 0 to 255, in place, by kernels of `blur_kernels` for h and for w."""
    num, channels, height, width = pixels.shape
    whole = (pixels * STEPS).round_()
    wide = torch.empty_like(whole)
    lines, new_lines = whole.view(num, channels * height, width), wide.view(num, channels * height, width)
    bands = _bands(across, width)
    for start, low, high, matrix in bands:
        new_lines[:, :, start : start + BLOCK] = torch.bmm(lines[:, :, low:high], matrix)
    wide.mul_(1 / UNIT).round_()
    for start, low, high, matrix in bands if height == width else _bands(down, height):
        columns = matrix.transpose(1, 2).unsqueeze(1)
        whole[:, :, start : start + BLOCK] = torch.matmul(columns, wide[:, :, low:high])
    torch.mul(whole, 1 / (UNIT * STEPS), out=pixels)


def _bands(kernels: torch.Tensor, side: int) -> list[tuple[int, int, int, torch.Tensor]]:
    """For each block (start, low, high, matrix): pixels low … high of a line give start … start + BLOCK.

    The matrices are [n, high - low, BLOCK or less]; those of blocks that reflect nothing are one and the same.
    """
    radius = kernels.shape[1] // 2
    bands: list[tuple[int, int, int, torch.Tensor]] = []
    inner: torch.Tensor | None = None
    for start in range(0, side, BLOCK):
        end = min(start + BLOCK, side)
        if start < radius or end + radius > side or end - start < BLOCK:
            matrix = _band(kernels, start, end, side)
        else:
            matrix = inner = _band(kernels, start, end, side) if inner is None else inner
        bands.append((start, max(0, start - radius), min(side, end + radius), matrix))
    return bands


def _band(kernels: torch.Tensor, start: int, end: int, side: int) -> torch.Tensor:
    """What pixels start … end of a line take from those up to a radius beyond, reflected at the line's ends."""
    radius = kernels.shape[1] // 2
    low, high = max(0, start - radius), min(side, end + radius)
    giver = torch.arange(low, high, device=kernels.device).unsqueeze(1)
    taker = torch.arange(start, end, device=kernels.device)
    padded = torch.nn.functional.pad(kernels, (0, 1))  # the last weight, 0, is that of all who are too far away

    def weights(offset: torch.Tensor, allowed: torch.Tensor | None = None) -> torch.Tensor:
        near = offset.abs() <= radius
        near = near if allowed is None else near & allowed
        places = torch.where(near, offset + radius, 2 * radius + 1)
        return padded.index_select(1, places.view(-1)).view(-1, *places.shape)

    matrix = weights(giver - taker)
    if start < radius:  # reflected at the first pixel, which is not itself doubled
        matrix = matrix + weights(-giver - taker, giver > 0)
    if end + radius > side:
        matrix = matrix + weights(2 * (side - 1) - giver - taker, giver < side - 1)
    return matrix
