"""Geometric views for digits and glyphs: an affine and an elastic map, in one sampling per batch."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch.nn import functional
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from patchmix.config import ViewsConfig

# More than are in use: a new kind of change takes a spare number and leaves all others as they were.
NUM_UNIFORMS = 16


@dataclass(frozen=True, slots=True)
class WarpParameters:
    """A drawn warp: where each pixel of the view looks, in units of half an image from its centre.

    `affine` is (xx, xy, x, yx, yy, y): across' = xx·across + xy·along + x, and so on. `elastic`
    [2, grid, grid] (across, along) is added, interpolated between control points that span the view.
    `thickness` from -1 to 1 moves every pixel so far towards the brightest (above 0: bright strokes grow) or the
    darkest (below 0: they shrink) of the nine around it.
    """

    affine: tuple[float, float, float, float, float, float]
    elastic: npt.NDArray[np.float32]
    thickness: float = 0.0


def draw_warp(generator: np.random.Generator, views: ViewsConfig, *, local: bool) -> WarpParameters:
    """Area and aspect ratio log-uniform, all else uniform.

    The area is that of the part that is seen: below 1 zooms in, above 1 zooms out (black around).
    """
    low, high = views.local_scale if local else views.global_scale
    area, ratio, rotation, shear, right, down, thickness, *_ = generator.random(NUM_UNIFORMS).tolist()
    side = math.exp(_between(math.log(low), math.log(high), area) / 2)
    stretch = math.exp(_between(math.log(views.ratio[0]), math.log(views.ratio[1]), ratio) / 2)
    angle = math.radians(_between(-views.rotation, views.rotation, rotation))
    slant = _between(-views.shear, views.shear, shear)
    cosine, sine = math.cos(angle), math.sin(angle)
    width, height = side * stretch, side / stretch
    affine = (  # rotation · shear · scale
        cosine * width,
        (cosine * slant - sine) * height,
        2 * _between(-views.shift, views.shift, right),
        sine * width,
        (sine * slant + cosine) * height,
        2 * _between(-views.shift, views.shift, down),
    )
    elastic = 2 * generator.random((2, views.elastic_grid, views.elastic_grid), dtype=np.float32) - 1
    return WarpParameters(
        affine, elastic * np.float32(2 * views.elastic), _between(-views.thickness, views.thickness, thickness)
    )


def sampling_grid(parameters: Sequence[WarpParameters], size: tuple[int, int]) -> torch.Tensor:
    """Where each pixel of each view looks: float32 [n, height, width, 2], as `grid_sample` wants it.

    No matrix product: its rounding depends on the number of rows, and a view must not depend on its batch.
    """
    height, width = size
    across = ((torch.arange(width, dtype=torch.float32) + 0.5) * 2 / width - 1).view(1, 1, width)
    along = ((torch.arange(height, dtype=torch.float32) + 0.5) * 2 / height - 1).view(1, height, 1)
    affine = torch.tensor([one.affine for one in parameters], dtype=torch.float32).view(-1, 6, 1, 1)
    xx, xy, x, yx, yy, y = affine.unbind(1)
    grid = torch.stack((xx * across + xy * along + x, yx * across + yy * along + y), dim=1)
    elastic = torch.from_numpy(np.stack([one.elastic for one in parameters]))
    if bool(elastic.any()):
        grid = grid + functional.interpolate(elastic, size=size, mode="bicubic", align_corners=True)
    return grid.permute(0, 2, 3, 1)


def apply_warps(images: torch.Tensor, parameters: Sequence[WarpParameters], size: tuple[int, int]) -> torch.Tensor:
    """Views of a batch of images: uint8 [n, c, any, any] -> uint8 [n, c, *size]; black outside the image."""
    grid = sampling_grid(parameters, size)
    views = functional.grid_sample(
        images.to(torch.float32), grid, mode="bicubic", padding_mode="zeros", align_corners=False
    )
    views.clamp_(0, 255)  # bicubic interpolation overshoots
    thickness = torch.tensor([one.thickness for one in parameters], dtype=torch.float32).view(-1, 1, 1, 1)
    if bool(thickness.any()):
        views = change_thickness(views, thickness)
    return views.round_().to(torch.uint8)


def change_thickness(views: torch.Tensor, thickness: torch.Tensor) -> torch.Tensor:
    """Make bright strokes thicker or thinner: float [n, c, h, w], thickness [n, 1, 1, 1] from -1 to 1."""
    brightest, darkest = _of_nine(views, torch.maximum), _of_nine(views, torch.minimum)
    return views + thickness.abs() * (torch.where(thickness > 0, brightest, darkest) - views)


def _of_nine(views: torch.Tensor, pick: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> torch.Tensor:
    """The brightest or darkest of each pixel and its neighbours; max_pool2d takes several times as long."""
    padded = functional.pad(views, (1, 1, 1, 1), mode="replicate")
    of_three = pick(pick(padded[..., :-2], padded[..., 1:-1]), padded[..., 2:])
    return pick(pick(of_three[..., :-2, :], of_three[..., 1:-1, :]), of_three[..., 2:, :])


def same_size(images: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
    """Stack images [c, any, any] as [n, c, *size]; those of another size are resized (antialiased)."""
    return torch.stack(
        [
            image
            if image.shape[-2:] == size
            else transforms.resize(image, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
            for image in images
        ]
    )


def _between(low: float, high: float, uniform: float) -> float:
    return low + (high - low) * uniform
