"""Plain Vision Transformers of timm's with the paper's sizes, initialisation and position embeddings.

B  images     T  patches, h * w     D  width (embedding dimension)

images [B, channels, height, width] -> patches [B, h, w, D] -> + class token and position embeddings
[B, 1 + T, D] -> blocks -> norm -> class token, or mean of the patch tokens [B, D]
"""

from __future__ import annotations

import math
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from patchmix.config import ModelConfig
from patchmix.errors import UserError
from patchmix.models.blocks import run_block
from patchmix.models.class_token import class_token_of, is_hooked, is_plain
from patchmix.models.spec import EncoderSpec

# method.md, "Pre-training recipes": width, depth, heads. DIFFERS from timm: its ViT-S has 6 heads; the
# tensors have the same shapes, so the number of heads travels in every file of ours (EncoderSpec; decision 0006).
PUBLISHED_SIZES = {"vit_tiny": (192, 12, 3), "vit_small": (384, 12, 12), "vit_base": (768, 12, 12)}
POSITION_STD = 0.02  # of the initial position embeddings
PUBLISHED_NAMES = {width: name for name, (width, _, _) in PUBLISHED_SIZES.items()}


class Encoder(VisionTransformer):  # type: ignore[misc]  # timm is untyped
    """timm's ViT, which takes any input size by resizing its position embeddings as method.md says.

    Where only the class token is read, `encoder(images)` computes nothing else of the last block, and on the CPU it
    takes blocks apart (blocks.py): neither the block nor its attention is called then. With a hook on any module of the
    last block, on another block or its attention, on `blocks` or on `norm` it computes whole blocks, as
    `forward_features` and `forward_intermediates` always do: hooks see what they would see in timm's. What replaces a
    method there, or hooks all modules of torch, does not run.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, D]."""
        if self.grad_checkpointing or is_hooked(self.blocks, self.norm):
            whole: Tensor = super().forward(x)
            return whole
        *blocks, last = self.blocks
        tokens = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        for block in blocks:
            tokens = run_block(block, tokens)
        alone = self.global_pool == "token" and is_plain(last) and not is_hooked(*last.modules())
        tokens = class_token_of(last, tokens) if alone else run_block(last, tokens)
        features: Tensor = self.forward_head(self.norm(tokens))
        return features

    def _pos_embed(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        grid = self.patch_embed.grid_size
        prefix = self.num_prefix_tokens
        position = self.pos_embed
        if position is not None and (height, width) != tuple(grid):
            own = 0 if self.no_embed_class else prefix
            resized = resize_position_embeddings(position[:, own:], grid, (height, width))
            position = torch.cat([position[:, :own], resized], dim=1)
        prefixes = [token for token in (self.cls_token, self.reg_token) if token is not None]
        tokens = [token.expand(len(x), -1, -1) for token in prefixes]
        x = x.flatten(1, 2)
        if position is not None and self.no_embed_class:
            x = x + position
        x = torch.cat([*tokens, x], dim=1)
        if position is not None and not self.no_embed_class:
            x = x + position
        embedded: Tensor = self.pos_drop(x)
        return embedded


def resize_position_embeddings(position: Tensor, old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """[1, g * g', D] to [1, h * w, D]: method.md, "Networks" (so does DINO).

    Bicubic with the scale factors (h + 0.1)/g and (w + 0.1)/g passed as such, without antialiasing.
    DIFFERS from timm, which passes the size and antialiases: the features differ slightly (decision 0011).
    """
    grid = position.reshape(1, *old, -1).permute(0, 3, 1, 2)
    factors = ((new[0] + 0.1) / old[0], (new[1] + 0.1) / old[1])
    resized = F.interpolate(grid, scale_factor=factors, mode="bicubic", align_corners=False)
    if tuple(resized.shape[-2:]) != tuple(new):
        raise ValueError(f"position embeddings of {old} became {tuple(resized.shape[-2:])} patches, not {new}")
    return resized.permute(0, 2, 3, 1).flatten(1, 2)


def is_plain_vit(model: Any) -> bool:
    """Whether it is of timm's VisionTransformer class itself, with blocks that have one attention each."""
    return type(model) is VisionTransformer and hasattr(model.blocks[0], "attn")


def vit_spec(
    config: ModelConfig,
    outline: Any,
    image_size: tuple[int, int],
    channels: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> EncoderSpec:
    """The full description of the ViT that a config names; `outline`: timm's model of that name, if it is one.

    Raises:
        UserError: a size that does not divide; no class token where one is asked for.
    """
    if outline is None:
        width, depth, heads = PUBLISHED_SIZES[config.name]
        patch_size, has_class_token = 16, True
        if config.width is not None and config.num_heads is None:
            heads = next((n for n in range(heads, 0, -1) if config.width % n == 0), 1)
    else:
        width, depth, heads = outline.embed_dim, len(outline.blocks), outline.blocks[0].attn.num_heads
        patch_size, has_class_token = outline.patch_embed.patch_size[0], outline.has_class_token
    width, heads, patch_size = config.width or width, config.num_heads or heads, config.patch_size or patch_size
    pooling = config.pooling or ("token" if has_class_token else "avg")
    if pooling == "token" and not has_class_token:
        raise UserError(f"model.name = {config.name!r} has no class token: set model.pooling to avg, or to null")
    if width % heads:
        raise UserError(f"model.num_heads = {heads} does not divide model.width = {width}")
    for name, size in zip(("height", "width"), image_size, strict=True):
        if size < patch_size or size % patch_size:
            raise UserError(
                f"images of {name} {size} px do not divide into patches of model.patch_size = "
                f"{patch_size} px: set data.image_size to a multiple of it, or another model.patch_size"
            )
    return EncoderSpec(
        name=config.name,
        image_size=image_size,
        patch_size=patch_size,
        width=width,
        depth=config.depth or depth,
        num_heads=heads,
        channels=channels,
        pooling=pooling,
        mean=mean,
        std=std,
    )


def create_vit(spec: EncoderSpec, drop_path: float = 0.0, position_std: float | None = None) -> Encoder:
    """A newly initialised ViT; `encoder(images)` gives [B, width] features, before any head.

    Initialisation as in MoCo v3 (method.md, "Networks"): without it small ViTs barely learn.
    """
    named = "vit_tiny_patch16_224" if spec.name in PUBLISHED_SIZES else spec.name
    model: Any = timm.create_model(
        named,
        pretrained=False,
        num_classes=0,
        img_size=spec.image_size,
        patch_size=spec.patch_size,
        embed_dim=spec.width,
        depth=spec.depth,
        num_heads=spec.num_heads,
        in_chans=spec.channels,
        global_pool=spec.pooling,
        drop_path_rate=drop_path,
        dynamic_img_size=True,
        weight_init="moco",
    )
    model.__class__ = Encoder  # timm's factory offers no other class; same parameters and names
    # DIFFERS from timm, whose "moco" leaves out the patch embedding (Xavier over channels * p² inputs, zero bias;
    # decision 0011).
    projection = model.patch_embed.proj
    limit = math.sqrt(6 / (projection.weight[0].numel() + spec.width))
    nn.init.uniform_(projection.weight, -limit, limit)
    if projection.bias is not None:
        nn.init.zeros_(projection.bias)
    if model.pos_embed is not None:
        position_std = POSITION_STD if position_std is None else position_std
        nn.init.trunc_normal_(model.pos_embed, std=position_std, a=-2 * position_std, b=2 * position_std)
    encoder: Encoder = model
    return encoder
