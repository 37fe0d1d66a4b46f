"""Mean and standard deviation of pixels in [0, 1], per channel, by which images are normalised."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch

# The published recipes normalise with ImageNet's, on CIFAR too (method.md, "Augmentation").
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
GREY_PHOTO_MEAN, GREY_PHOTO_STD = (0.449,), (0.226,)  # the means of ImageNet's three
MNIST_MEAN, MNIST_STD = (0.1307,), (0.3081,)

_PIXELS_AN_IMAGE = 250_000  # of a larger one, evenly spaced pixels are taken


class PixelMoments(NamedTuple):
    """Of one image, per channel in [0, 1]: means of the pixels and of their squares; and whether it has no colour.

    `highest` is the largest value, of 255.
    """

    means: tuple[float, ...]
    squares: tuple[float, ...]
    grey: bool
    highest: int


def pixel_moments(image: torch.Tensor) -> PixelMoments:
    """The moments of an image, uint8 [channels, height, width]."""
    channels, height, width = image.shape
    step = math.ceil(math.sqrt(height * width / _PIXELS_AN_IMAGE))
    pixels = image[:, ::step, ::step].reshape(channels, -1).to(torch.float64) / 255
    grey = all(torch.equal(image[0], other) for other in image[1:])
    means, squares = tuple(pixels.mean(1).tolist()), tuple(pixels.square().mean(1).tolist())
    return PixelMoments(means, squares, grey, int(image.max()))


class PixelStatistics(NamedTuple):
    """Over several images, each counting alike whatever its size; one channel where none has colour."""

    grey: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]


def pixel_statistics(moments: list[PixelMoments]) -> PixelStatistics:
    """Mean and standard deviation over the pixels of at least one image, all of as many channels."""
    means = np.mean([each.means for each in moments], axis=0)
    variances = np.mean([each.squares for each in moments], axis=0) - means**2
    grey = all(each.grey for each in moments)
    taken = 1 if grey else len(means)
    deviations = np.sqrt(np.maximum(variances, 0))
    return PixelStatistics(grey, tuple(means[:taken].tolist()), tuple(deviations[:taken].tolist()))
