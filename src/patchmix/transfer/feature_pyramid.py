"""The simple feature pyramid of ViTDet (Li et al. 2022, arXiv:2203.16527, section 3): all levels from the last map.

A level of scale s has s times the map's rows and columns, so its stride is patch / s pixels: patch/4, patch/2, patch
and 2 · patch, which for patches of 16 pixels are the usual 4, 8, 16 and 32. One more level, "pool", has twice the last
one's stride and serves the region proposals alone.
"""

from __future__ import annotations

import itertools
import math
from collections import OrderedDict
from collections.abc import Sequence

from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.ops import Conv2dNormActivation
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

SCALES = (4.0, 2.0, 1.0, 0.5)


class SimpleFeaturePyramid(nn.Module):
    """A map [B, width, h, w] to levels [B, channels, s * h, s * w], named "0", "1", … and "pool", finest first.

    Where s * h is no whole number it is rounded up, so that no patch is lost.

    Args:
        width: of the map.
        channels: of every level.
        scales: powers of two, descending by halves.
    """

    def __init__(self, width: int, channels: int = 256, scales: Sequence[float] = SCALES) -> None:
        super().__init__()
        if any(not math.log2(scale).is_integer() for scale in scales) or any(
            first != 2 * second for first, second in itertools.pairwise(scales)
        ):
            raise ValueError(f"scales {tuple(scales)} are not powers of two, each half the one before")
        self.scales, self.channels = tuple(scales), channels
        self.levels = nn.ModuleList(_level(width, channels, scale) for scale in scales)
        self.pool = LastLevelMaxPool()

    def strides(self, patch_size: int) -> tuple[float, ...]:
        """Pixels from one place of a level to the next, the level "pool" last; no whole numbers for some patches."""
        strides = [patch_size / scale for scale in self.scales]
        return (*strides, 2 * strides[-1])

    def forward(self, features: Tensor) -> OrderedDict[str, Tensor]:
        """The levels, in float32 or what autocast makes of it."""
        levels = [level(features) for level in self.levels]
        levels, names = self.pool(levels, levels, [str(number) for number in range(len(levels))])
        return OrderedDict(zip(names, levels, strict=True))


def _level(width: int, channels: int, scale: float) -> nn.Sequential:
    """Doubled by transposed convolutions or halved by pooling, then 1 × 1 and 3 × 3 convolutions, normalised."""
    layers: list[nn.Module] = []
    while scale > 1:
        if layers:
            layers += [LayerNorm2d(width), nn.GELU()]
        layers.append(nn.ConvTranspose2d(width, max(1, width // 2), kernel_size=2, stride=2))
        width, scale = max(1, width // 2), scale / 2
    if scale < 1:
        step = round(1 / scale)
        layers.append(nn.MaxPool2d(step, step, ceil_mode=True))
    layers.append(Conv2dNormActivation(width, channels, 1, norm_layer=LayerNorm2d, activation_layer=None))
    layers.append(Conv2dNormActivation(channels, channels, 3, norm_layer=LayerNorm2d, activation_layer=None))
    return nn.Sequential(*layers)
