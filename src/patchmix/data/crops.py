"""Random resized crops: what is drawn (`draw_crops`), which boxes they are (`crop_boxes`), and cutting them out.

A crop is drawn before the image's size is known, so the same parameters can be applied by other code
elsewhere.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from patchmix.config import ViewsConfig
from patchmix.data.resampling import resample

NUM_CANDIDATES = 10  # as torchvision's RandomResizedCrop: so many tries, then the central crop
NUM_UNIFORMS = 2 * NUM_CANDIDATES + 3
SMALL = 32  # pixels: images and views with no longer side are resampled many at a time (decision 0025)

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


@dataclass(frozen=True, slots=True)
class Crops:
    """n drawn crops: areas and ratios [n, candidates], positions [n, 2] and flips [n] as in CropParameters."""

    areas: npt.NDArray[np.float64]
    ratios: npt.NDArray[np.float64]
    positions: npt.NDArray[np.float64]
    ratio: tuple[float, float]
    flips: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.flips)

    def one(self, row: int) -> CropParameters:
        """The parameters of one of them."""
        candidates = tuple(zip(self.areas[row].tolist(), self.ratios[row].tolist(), strict=True))
        down, right = self.positions[row].tolist()
        return CropParameters(candidates, (down, right), self.ratio, bool(self.flips[row]))


def of_one(parameters: CropParameters) -> Crops:
    """One crop as a batch."""
    candidates = np.array(parameters.candidates, dtype=np.float64).reshape(1, -1, 2)
    positions, flips = np.array([parameters.position], dtype=np.float64), np.array([parameters.flip])
    return Crops(candidates[..., 0], candidates[..., 1], positions, parameters.ratio, flips)


def draw_crops(uniforms: npt.NDArray[np.float64], views: ViewsConfig, *, local: bool) -> Crops:
    """Areas uniform in the scale's range, aspect ratios log-uniform, from [n, NUM_UNIFORMS] numbers in [0, 1)."""
    low, high = views.local_scale if local else views.global_scale
    log_low, log_high = math.log(views.ratio[0]), math.log(views.ratio[1])
    areas = low + (high - low) * uniforms[:, :NUM_CANDIDATES]
    logarithms = log_low + (log_high - log_low) * uniforms[:, NUM_CANDIDATES : 2 * NUM_CANDIDATES]
    # Not NumPy's: its last bit depends on the processor.
    ratios = np.array([math.exp(each) for each in logarithms.ravel().tolist()]).reshape(logarithms.shape)
    positions = uniforms[:, 2 * NUM_CANDIDATES : NUM_UNIFORMS - 1]
    flips = uniforms[:, NUM_UNIFORMS - 1] < views.flip
    return Crops(areas, ratios, positions, (views.ratio[0], views.ratio[1]), flips)


def crop_boxes(crops: Crops, sizes: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Boxes (top, left, height, width) [n, 4] of crops in images of (height, width) [n, 2].

    By the rule of torchvision's RandomResizedCrop. They are never empty: in an image of one pixel it is that pixel.
    """
    heights, widths = sizes[:, :1], sizes[:, 1:]
    pixels = crops.areas * heights * widths
    across, down = np.rint(np.sqrt(pixels * crops.ratios)), np.rint(np.sqrt(pixels / crops.ratios))
    fits = (across > 0) & (across <= widths) & (down > 0) & (down <= heights)
    first = fits.argmax(axis=1)[:, None]
    sides = np.concatenate([np.take_along_axis(each, first, axis=1) for each in (down, across)], axis=1)
    corners = np.floor(crops.positions * (sizes - sides + 1))
    boxes = np.concatenate([corners, sides], axis=1).astype(np.int64)
    for row in np.flatnonzero(~fits.any(axis=1)):
        boxes[row] = _central_box(crops.ratio, *sizes[row].tolist())
    return boxes


def crop_box(parameters: CropParameters, height: int, width: int) -> Box:
    """The box of one crop in an image of this size."""
    top, left, crop_height, crop_width = crop_boxes(of_one(parameters), np.array([[height, width]]))[0].tolist()
    return top, left, crop_height, crop_width


def _central_box(ratio: tuple[float, float], height: int, width: int) -> Box:
    lowest, highest = ratio
    crop_height, crop_width = height, width
    if width / height < lowest:
        crop_height = min(height, round(width / lowest))
    elif width / height > highest:
        crop_width = max(1, min(width, round(height * highest)))
    return (height - crop_height) // 2, (width - crop_width) // 2, crop_height, crop_width


def apply_crops(images: Sequence[torch.Tensor], crops: Crops, size: tuple[int, int]) -> torch.Tensor:
    """Cut out, resize (bicubic, antialiased) and perhaps flip: n uint8 [c, any, any] -> uint8 [n, c, *size].

    Images smaller than `size` are enlarged. Which way a crop takes depends on the sizes of image and view alone, never
    on the other images: small ones of one size are resampled together, others by torchvision one by one.
    """
    sizes = np.array([image.shape[-2:] for image in images], dtype=np.int64)
    boxes = crop_boxes(crops, sizes)
    together: dict[torch.Size, list[int]] = defaultdict(list)
    views = torch.empty(len(images), images[0].shape[0], *size, dtype=torch.uint8)
    for row, image in enumerate(images):
        if max(*image.shape[-2:], *size) <= SMALL:
            together[image.shape].append(row)
        else:
            views[row] = _resized(image, boxes[row].tolist(), bool(crops.flips[row]), size)
    for rows in together.values():
        stacked = torch.stack([images[row] for row in rows])
        resampled = resample(stacked, boxes[rows], crops.flips[rows], size)
        if len(rows) == len(images):
            return resampled
        views[torch.tensor(rows)] = resampled
    return views


def apply_crop(image: torch.Tensor, parameters: CropParameters, size: tuple[int, int]) -> torch.Tensor:
    """The same for one image: uint8 [c, any, any] -> uint8 [c, *size]."""
    return apply_crops([image], of_one(parameters), size)[0]


def _resized(image: torch.Tensor, box: Sequence[int], flip: bool, size: tuple[int, int]) -> torch.Tensor:
    top, left, height, width = box
    view: torch.Tensor = transforms.resized_crop(
        image, top, left, height, width, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True
    )
    return view.flip(-1) if flip else view
