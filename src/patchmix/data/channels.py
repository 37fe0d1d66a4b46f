"""Channels of a data set, as it has them or as `data.channels` wants them, and what normalises them."""

from __future__ import annotations

from typing import Any

import torch
from torchvision.transforms.v2 import functional as transforms

from patchmix.config import DataConfig
from patchmix.data.sources import ArraySource
from patchmix.data.statistics import GREY_PHOTO_MEAN, GREY_PHOTO_STD, IMAGENET_MEAN, IMAGENET_STD
from patchmix.errors import UserError

Statistics = tuple[tuple[float, ...], tuple[float, ...]]  # mean, standard deviation


def array_source(
    data: DataConfig,
    split: str,
    pixels: torch.Tensor,
    labels: Any,
    classes: tuple[str, ...],
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> ArraySource:
    """Images in memory, uint8 [n, channels, height, width], with the channels that `data` wants.

    `mean` and `std` are of the channels that the images have.
    """
    channels = data.channels or int(pixels.shape[1])
    if channels == 3 and pixels.shape[1] == 1:
        pixels, mean, std = pixels.expand(-1, 3, -1, -1), mean * 3, std * 3
    elif channels == 1 and pixels.shape[1] == 3:
        pixels, mean, std = transforms.rgb_to_grayscale(pixels), GREY_PHOTO_MEAN, GREY_PHOTO_STD
    mean, std = given_or(data, channels, mean, std)
    numbers = torch.as_tensor(labels, dtype=torch.int64)
    return ArraySource(data.name, split, pixels, numbers, classes, mean=mean, std=std)


def photo_statistics(data: DataConfig, channels: int) -> Statistics:
    """What normalises photographs: ImageNet's, or what `data` gives."""
    usual = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else (GREY_PHOTO_MEAN, GREY_PHOTO_STD)
    return given_or(data, channels, *usual)


def given_or(data: DataConfig, channels: int, mean: tuple[float, ...], std: tuple[float, ...]) -> Statistics:
    """data.mean and data.std, else the ones passed; UserError where they are not one number per channel."""
    mean, std = tuple(data.mean or mean), tuple(data.std or std)
    if not len(mean) == len(std) == channels:
        raise UserError(
            f"data.mean has {len(mean)} and data.std {len(std)} numbers, but the images have {channels} "
            f"channel{'s' if channels > 1 else ''}: give one number per channel, or set data.channels"
        )
    return mean, std
