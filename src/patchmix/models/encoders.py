"""The encoder that a config names: a plain Vision Transformer (vit.py) or another timm model (backbones.py)."""

from __future__ import annotations

import difflib
from typing import Any

import timm
import torch
from torch import nn

from patchmix.config import ModelConfig
from patchmix.errors import UserError
from patchmix.models.backbones import backbone_spec, create_backbone
from patchmix.models.spec import EncoderSpec
from patchmix.models.vit import PUBLISHED_SIZES, create_vit, is_plain_vit, vit_spec


def resolve_spec(
    config: ModelConfig,
    image_size: tuple[int, int],
    channels: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> EncoderSpec:
    """The full description of the encoder that a config names, with the data's size and statistics.

    Raises:
        UserError: no such model, options that it does not have, images that it does not take.
    """
    if config.name in PUBLISHED_SIZES:
        return vit_spec(config, None, image_size, channels, mean, std)
    if not timm.is_model(config.name):
        near = timm.list_models(f"*{config.name}*")[:3] or difflib.get_close_matches(config.name, timm.list_models())
        hint = f"; do you mean {', '.join(near)}?" if near else ""
        raise UserError(f"model.name = {config.name!r} is none of {', '.join(PUBLISHED_SIZES)} and no timm model{hint}")
    outline = _outline(config.name)
    if is_plain_vit(outline):
        return vit_spec(config, outline, image_size, channels, mean, std)
    return backbone_spec(config, image_size, channels, mean, std)


def own_sizes(name: str) -> tuple[int | None, int | None, int | None]:
    """Width, depth and patch of a plain ViT of timm's; None where it is another network, or no model at all."""
    if not timm.is_model(name):
        return None, None, None
    outline = _outline(name)
    if not is_plain_vit(outline):
        return None, None, None
    return outline.embed_dim, len(outline.blocks), outline.patch_embed.patch_size[0]


def _outline(name: str) -> Any:
    """timm's model without memory for weights."""
    with torch.device("meta"):
        return timm.create_model(name, pretrained=False, num_classes=0)


def create_encoder(spec: EncoderSpec, drop_path: float = 0.0, position_std: float | None = None) -> nn.Module:
    """A newly initialised encoder; `encoder(images)` gives [B, width] features, before any head.

    position_std: standard deviation of a ViT's initial position embeddings (None: 0.02).
    """
    if spec.is_vit:
        return create_vit(spec, drop_path, position_std)
    return create_backbone(spec.name, spec.image_size, spec.channels, drop_path)
