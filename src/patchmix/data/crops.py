"""Random resized crops: what is drawn (`draw_crop`), which box it is (`crop_box`), and cutting it out.

A crop is drawn before the image's size is known, so the same parameters can be applied by other code
elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from patchmix.config import ViewsConfig

NUM_CANDIDATES = 10  # as torchvision's RandomResizedCrop: so many tries, then the central crop
NUM_UNIFORMS = 2 * NUM_CANDIDATES + 3

Box = tuple[int, int, int, int]  # top, left, height, width in pixels


@dataclass(frozen=True, slots=True)
class CropParameters:
    """A drawn crop.

    `candidates` are (area as a share of the image's, width / height); the first that fits into the image is
    taken. `position` says where it lies in the room that is left, (down, right), each in [0, 1).
    `ratio` is the permitted range of width / height, for the central crop when none fits.
    """

    candidates: tuple[tuple[float, float], ...]
    position: tuple[float, float]
    ratio: tuple[float, float]
    flip: bool


def draw_crop(uniforms: Sequence[float], views: ViewsConfig, *, local: bool) -> CropParameters:
    """Areas uniform in the scale's range, aspect ratios log-uniform, from NUM_UNIFORMS numbers in [0, 1)."""
    low, high = views.local_scale if local else views.global_scale
    log_low, log_high = math.log(views.ratio[0]), math.log(views.ratio[1])
    candidates = tuple(
        (
            low + (high - low) * uniforms[k],
            math.exp(log_low + (log_high - log_low) * uniforms[NUM_CANDIDATES + k]),
        )
        for k in range(NUM_CANDIDATES)
    )
    down, right, flip = uniforms[2 * NUM_CANDIDATES : NUM_UNIFORMS]
    return CropParameters(candidates, (down, right), (views.ratio[0], views.ratio[1]), flip < views.flip)


def crop_box(parameters: CropParameters, height: int, width: int) -> Box:
    """The box that these parameters mean in such an image, by the rule of torchvision's RandomResizedCrop.

    It is never empty: in an image of one pixel it is that pixel.
    """
    for area, ratio in parameters.candidates:
        pixels = area * height * width
        crop_width, crop_height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            down, right = parameters.position
            top, left = int(down * (height - crop_height + 1)), int(right * (width - crop_width + 1))
            return top, left, crop_height, crop_width
    lowest, highest = parameters.ratio
    crop_height, crop_width = height, width
    if width / height < lowest:
        crop_height = min(height, round(width / lowest))
    elif width / height > highest:
        crop_width = max(1, min(width, round(height * highest)))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def apply_crop(image: torch.Tensor, parameters: CropParameters, size: tuple[int, int]) -> torch.Tensor:
    """Cut out, resize (bicubic, antialiased) and perhaps flip: uint8 [c, any, any] -> uint8 [c, *size].

    Images smaller than `size` are enlarged.
    """
    top, left, height, width = crop_box(parameters, image.shape[-2], image.shape[-1])
    view: torch.Tensor = transforms.resized_crop(
        image, top, left, height, width, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    return view.flip(-1) if parameters.flip else view
