"""An encoder's pass in parts of a few images: what a part computes stays in the processor's cache."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from patchmix.models.spec import EncoderSpec

CACHED = (
    10 * 2**20
)  # bytes of the widest activation of a part (an MLP's hidden one, in float32): measured, decision 0026
LEAST_PARTS = 4  # of a pass whose activations are computed again, where there is no cache to think of


def num_parts(spec: EncoderSpec, images: Tensor, recompute: bool = False) -> int:
    """Parts of a pass: on the CPU so many that the activations of each stay in the cache; elsewhere one.

    Networks that are no plain ViTs see the whole view at once: they may have BatchNorm.
    """
    if spec.patch_size is None:
        return 1
    if images.device.type != "cpu":
        return min(len(images), LEAST_PARTS) if recompute else 1
    tokens = 1 + images.shape[-2] * images.shape[-1] // spec.patch_size**2
    cached = CACHED // 2 if recompute else CACHED  # where memory is short, half as much: little slower
    at_once = max(1, cached // (tokens * 4 * spec.width * 4))
    return math.ceil(len(images) / at_once)


def encode(encoder: nn.Module, images: Tensor, parts: int, recompute: bool = False) -> Tensor:
    """`encoder(images)`, part by part: [N, channels, height, width] to [N, width].

    recompute: keep no activations; the backward pass computes those of one part at a time again (activation
        checkpointing), with the same random numbers.
    """
    if parts == 1 and not recompute:
        whole: Tensor = encoder(images)
        return whole
    found = [
        checkpoint(encoder, each, use_reentrant=False) if recompute else encoder(each) for each in images.chunk(parts)
    ]
    return torch.cat(found)
