"""Changes of colour in whole batches, in place: float32 [n, 3 or 1, h, w] from 0 to 255.

Each as torchvision's functional of the name, without the rounding. Factors are [n, 1, 1, 1]. Only additions,
multiplications and the like, none of them fused: what comes out does not depend on a pixel's place in the batch.
"""

from __future__ import annotations

import torch

RED, GREEN, BLUE = 0.2989, 0.587, 0.114  # of grey, as torchvision's rgb_to_grayscale
LARGEST = 255.0
SMALLEST_SPREAD = 1e-6  # grey levels between a pixel's channels; with less there is no hue


def change_brightness(pixels: torch.Tensor, factor: torch.Tensor) -> None:
    """Towards black, or away from it."""
    pixels.mul_(factor).clamp_(0, LARGEST)


def change_contrast(pixels: torch.Tensor, factor: torch.Tensor) -> None:
    """Towards the image's mean grey, or away from it."""
    shade = grey(pixels) if pixels.shape[1] == 3 else pixels.clone()
    # Sums of whole numbers are exact, in whatever order they are taken.
    mean = shade.round_().sum(dim=(1, 2, 3), keepdim=True, dtype=torch.float64) / (pixels.shape[2] * pixels.shape[3])
    pixels.mul_(factor).add_(mean.to(torch.float32) * (1 - factor)).clamp_(0, LARGEST)


def change_saturation(pixels: torch.Tensor, factor: torch.Tensor) -> None:
    """Towards the pixel's own grey, or away from it."""
    shade = grey(pixels).mul_(1 - factor)
    pixels.mul_(factor).add_(shade).clamp_(0, LARGEST)


def change_hue(pixels: torch.Tensor, factor: torch.Tensor) -> None:
    """Turn the hue of HSV by `factor` turns, in [-½, ½]."""
    red, green, blue = torch.split(pixels, 1, dim=1)
    highest = torch.maximum(torch.maximum(red, green), blue)
    lowest = torch.minimum(torch.minimum(red, green), blue)
    # Sixths of a turn from red, times the spread: where the highest channel stands, and the difference of the others.
    from_green, from_blue = blue - red, red - green
    spread = highest - lowest
    twice = spread + spread
    from_green.add_(twice)
    from_blue.add_(twice).add_(twice)
    hue = torch.where(red == highest, green - blue, torch.where(green == highest, from_green, from_blue))
    hue.div_(torch.clamp(spread, min=SMALLEST_SPREAD)).add_(6 * factor)
    hue.sub_(torch.mul(hue, 1 / 6).floor_().mul_(6))
    torch.sub(hue, 3, out=red).abs_().sub_(1)
    torch.sub(hue, 2, out=green).abs_().neg_().add_(2)
    torch.sub(hue, 4, out=blue).abs_().neg_().add_(2)
    pixels.clamp_(0, 1).mul_(spread).add_(lowest)


def change_to_grey(pixels: torch.Tensor) -> None:
    """Make all three channels the pixel's grey."""
    pixels.copy_(grey(pixels))


def grey(pixels: torch.Tensor) -> torch.Tensor:
    """float32 [n, 1, h, w] of three channels."""
    red, green, blue = torch.split(pixels, 1, dim=1)
    return red.mul(RED).add_(green * GREEN).add_(blue * BLUE)
