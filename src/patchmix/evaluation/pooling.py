"""Which features of a frozen Vision Transformer are read: tokens of its last blocks, pooled.

shapes: n images, D width, L blocks read, T patches
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

from patchmix.config import Pool
from patchmix.errors import UserError
from patchmix.models.spec import EncoderSpec

NUM_LAST = 4  # blocks whose class tokens the pooling `last4` reads, or all of a network with fewer
WHOLE = "default"  # the pooling of a network without tokens: what it gives


def last_tokens(encoder: Any, images: Tensor, num_blocks: int) -> list[tuple[Tensor | None, Tensor]]:
    """(class token [n, D] or None, mean of the patch tokens [n, D]) of each of the last blocks, the last one last.

    Each after the network's final normalisation, as DINO and DINOv2 read them; what the network itself gives is
    among them: its class token, or, where it was trained with pooling by mean, the mean (normalised after it).
    """
    blocks = encoder.forward_intermediates(
        images, indices=num_blocks, return_prefix_tokens=True, norm=True, output_fmt="NLC", intermediates_only=True
    )
    found = []
    for patches, prefix in blocks:
        token = prefix[:, 0] if encoder.has_class_token else None
        found.append((token, encoder.fc_norm(patches.mean(dim=1))))
    return found


class PooledEncoder(nn.Module):
    """An encoder that gives pooled tokens of its last blocks: images to [n, width].

    Block by block, the last one last; of each block the class token, the mean of the patch tokens, or both in this
    order. `pool` "default" with one layer is the encoder as it is, whatever network it is.

    Raises UserError for what the network does not have.
    """

    def __init__(self, encoder: nn.Module, spec: EncoderSpec, layers: int = 1, pool: Pool = "default") -> None:
        super().__init__()
        self.encoder, self.layers = encoder, layers
        self.whole = pool == "default" and layers == 1
        self.pool = {"token": "token", "avg": "mean"}.get(spec.pooling, pool) if pool == "default" else pool
        if not self.whole:
            if not spec.is_vit or spec.depth is None:
                raise UserError(
                    f"layers = {layers} and pool = {pool} need a Vision Transformer: {spec.name} has no tokens; take "
                    "layers 1 and pool default"
                )
            if layers > spec.depth:
                raise UserError(f"layers = {layers} is more than the encoder's {spec.depth} blocks")
            if self.pool != "mean" and not cast(Any, encoder).has_class_token:
                raise UserError(f"pool = {pool}: {spec.name} has no class token; take mean")
        self.width = spec.width * (1 if self.whole else layers * (2 if self.pool == "both" else 1))

    def forward(self, images: Tensor) -> Tensor:
        """Images [n, channels, height, width], normalised, to features [n, width]."""
        if self.whole:
            return cast(Tensor, self.encoder(images))
        taken: list[Tensor] = []
        for token, mean in last_tokens(self.encoder, images, self.layers):
            taken += [part for part in (self._token(token), self._mean(mean)) if part is not None]
        return torch.cat(taken, dim=1)

    def _token(self, token: Tensor | None) -> Tensor | None:
        return token if self.pool in ("token", "both") else None

    def _mean(self, mean: Tensor) -> Tensor | None:
        return mean if self.pool in ("mean", "both") else None


class ProbeEncoder(nn.Module):
    """What all poolings of a probe read, in one pass: images to [n, (L + 1) · D], and where each pooling lies in it.

    The layout [class token of block −L, …, class token of the last block, mean of the last block's patch tokens]
    makes every pooling one slice: `slices`. A network without a class token has pooling `mean` only, one without
    tokens `default` only: what it gives.
    """

    def __init__(self, encoder: nn.Module, spec: EncoderSpec) -> None:
        super().__init__()
        self.encoder = encoder
        self.num_blocks = 0
        width = spec.width
        self.slices: dict[str, slice] = {WHOLE: slice(0, width)}
        if spec.is_vit and not cast(Any, encoder).has_class_token:
            self.slices = {"mean": slice(0, width)}
        elif spec.is_vit and spec.depth is not None:
            self.num_blocks = min(NUM_LAST, spec.depth)
            last = (self.num_blocks - 1) * width
            self.slices = {
                "token": slice(last, last + width),
                "mean": slice(last + width, last + 2 * width),
                "both": slice(last, last + 2 * width),
                "last4": slice(0, last + width),
            }

    @property
    def width(self) -> int:
        """Numbers an image."""
        return max(int(each.stop) for each in self.slices.values())

    def forward(self, images: Tensor) -> Tensor:
        """Images [n, channels, height, width], normalised, to [n, width]."""
        if not self.num_blocks:
            return cast(Tensor, self.encoder(images))
        blocks = last_tokens(self.encoder, images, self.num_blocks)
        return torch.cat([*[cast(Tensor, token) for token, _ in blocks], blocks[-1][1]], dim=1)
