"""Photometric changes of `photo` views (method.md, Augmentation): jitter, grey, blur, solarisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torchvision.transforms.v2 import functional as transforms

from patchmix.config import ViewsConfig

NUM_UNIFORMS = 13
BLUR_SIGMA = (0.1, 2.0)  # pixels, whatever the image's size, as in method.md
SOLARISE_THRESHOLD = 128
SMALL_IMAGE = 3 * 64 * 64  # numbers; larger images are blurred by columns, then rows: three times faster


@dataclass(frozen=True, slots=True)
class PhotometricParameters:
    """Drawn changes, in the order in which they are applied.

    `jitter` holds (step, factor) pairs in their drawn order, empty where there is none: brightness, contrast
    and saturation factors are around 1, a hue factor is a shift in turns. `blur` is a σ in pixels, 0 for
    none.
    """

    jitter: tuple[tuple[str, float], ...]
    grey: bool
    blur: float
    solarise: bool


def draw_photometric(uniforms: Sequence[float], views: ViewsConfig, view: int) -> PhotometricParameters:
    """Parameters of view 0, 1 (global) or 2… (local), from NUM_UNIFORMS numbers in [0, 1).

    Every choice has its own number, so that changing one probability leaves all other choices as they are.
    """
    jitter: tuple[tuple[str, float], ...] = ()
    if uniforms[0] < views.jitter:
        strengths = (
            ("brightness", views.brightness),
            ("contrast", views.contrast),
            ("saturation", views.saturation),
        )
        steps = []
        for uniform, (name, strength) in zip(uniforms[1:4], strengths, strict=True):
            low = max(0.0, 1 - strength)
            steps.append((name, low + (1 + strength - low) * uniform))
        steps.append(("hue", views.hue * (2 * uniforms[4] - 1)))
        order = sorted(range(4), key=uniforms[5:9].__getitem__)
        jitter = tuple(steps[k] for k in order)
    kind = min(view, 2)
    blur = BLUR_SIGMA[0] + (BLUR_SIGMA[1] - BLUR_SIGMA[0]) * uniforms[11] if uniforms[10] < views.blur[kind] else 0.0
    return PhotometricParameters(jitter, uniforms[9] < views.grey, blur, uniforms[12] < views.solarise[kind])


def apply_photometric(image: torch.Tensor, parameters: PhotometricParameters) -> torch.Tensor:
    """Change a uint8 image [c, h, w] of 3 channels or 1, which has no saturation, hue or grey to change."""
    coloured = image.shape[-3] == 3
    for step, factor in parameters.jitter:
        if step == "brightness":
            image = transforms.adjust_brightness(image, factor)
        elif step == "contrast":
            image = transforms.adjust_contrast(image, factor)
        elif step == "saturation" and coloured:
            image = transforms.adjust_saturation(image, factor)
        elif step == "hue" and coloured and factor != 0:
            image = transforms.adjust_hue(image, factor)
    if parameters.grey and coloured:
        image = transforms.rgb_to_grayscale(image, num_output_channels=3)
    if parameters.blur > 0:
        image = gaussian_blur(image, parameters.blur)
    return transforms.solarize(image, SOLARISE_THRESHOLD) if parameters.solarise else image


def gaussian_blur(image: torch.Tensor, sigma: float) -> torch.Tensor:
    """Gaussian blur of a uint8 image, edges reflected, out to 3 σ or to what the image's sides allow."""
    radius = math.ceil(3 * sigma)
    across, down = min(radius, image.shape[-1] - 1), min(radius, image.shape[-2] - 1)
    blurred: torch.Tensor = image.to(torch.float32)
    if image.numel() <= SMALL_IMAGE:
        blurred = transforms.gaussian_blur(blurred, [2 * across + 1, 2 * down + 1], [sigma, sigma])
        return blurred.round_().to(torch.uint8)
    if across > 0:
        blurred = transforms.gaussian_blur(blurred, [2 * across + 1, 1], [sigma, sigma])
    if down > 0:
        blurred = transforms.gaussian_blur(blurred, [1, 2 * down + 1], [sigma, sigma])
    return blurred.round_().to(torch.uint8)
