"""The encoder: a timm Vision Transformer with the paper's sizes, initialisation and position embeddings.

B  images     T  patches, h * w     D  width (embedding dimension)

images [B, channels, height, width] -> patches [B, h, w, D] -> + class token and position embeddings
[B, 1 + T, D] -> blocks -> norm -> class token, or mean of the patch tokens [B, D]
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import timm
import torch
import torch.nn.functional as F
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from patchmix.config import ModelConfig
from patchmix.errors import UserError
from patchmix.models.class_token import class_token_of, is_hooked, is_plain

# method.md, "Pre-training recipes": width, depth, heads. DIFFERS from timm: its ViT-S has 6 heads; the
# tensors have the same shapes, so the number of heads travels in every file of ours (EncoderSpec; decision 0006).
PUBLISHED_SIZES = {"vit_tiny": (192, 12, 3), "vit_small": (384, 12, 12), "vit_base": (768, 12, 12)}
PUBLISHED_NAMES = {width: name for name, (width, _, _) in PUBLISHED_SIZES.items()}


@dataclass(frozen=True)
class EncoderSpec:
    """What an encoder is and which images it expects: written into every file of ours, checked on loading."""

    name: str
    image_size: tuple[int, int]
    patch_size: int
    width: int
    depth: int
    num_heads: int
    channels: int
    pooling: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EncoderSpec:
        """The inverse of `to_dict`."""

        def frozen(value: Any) -> Any:
            return tuple(value) if isinstance(value, list) else value

        return cls(**{key: frozen(value) for key, value in values.items()})

    @property
    def num_patches(self) -> int:
        """T at the trained image size."""
        return (self.image_size[0] // self.patch_size) * (self.image_size[1] // self.patch_size)


class Encoder(VisionTransformer):  # type: ignore[misc]  # timm is untyped
    """timm's ViT, which takes any input size by resizing its position embeddings as method.md says.

    Where only the class token is read, `encoder(images)` computes nothing else of the last block, and calls
    neither that block nor its attention. With a hook on any module of the last block, on `blocks` or on `norm` it
    computes the whole block, as `forward_features` and `forward_intermediates` always do: hooks see what they
    would see in timm's. What replaces a method there, or hooks all modules of torch, does not run.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Features [B, D]."""
        *blocks, last = self.blocks
        hooked = is_hooked(self.blocks, self.norm, *last.modules())
        if self.global_pool != "token" or self.grad_checkpointing or hooked or not is_plain(last):
            return super().forward(x)  # type: ignore[no-any-return]
        tokens = self.norm_pre(self.patch_drop(self._pos_embed(self.patch_embed(x))))
        for block in blocks:
            tokens = block(tokens)
        return self.forward_head(self.norm(class_token_of(last, tokens)))  # type: ignore[no-any-return]

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
        return self.pos_drop(x)  # type: ignore[no-any-return]


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


def resolve_spec(
    config: ModelConfig,
    image_size: tuple[int, int],
    channels: int,
    mean: tuple[float, ...],
    std: tuple[float, ...],
) -> EncoderSpec:
    """The full description of the encoder that a config names, with the data's size and statistics.

    Raises:
        UserError: no such model; a size that does not divide.
    """
    if config.name in PUBLISHED_SIZES:
        width, depth, heads = PUBLISHED_SIZES[config.name]
        patch_size = 16
        if config.width is not None and config.num_heads is None:
            heads = next((n for n in range(heads, 0, -1) if config.width % n == 0), 1)
    else:
        width, depth, heads, patch_size = _timm_sizes(config.name, config.pooling)
    spec = EncoderSpec(
        name=config.name,
        image_size=image_size,
        patch_size=config.patch_size or patch_size,
        width=config.width or width,
        depth=config.depth or depth,
        num_heads=config.num_heads or heads,
        channels=channels,
        pooling=config.pooling,
        mean=mean,
        std=std,
    )
    if spec.width % spec.num_heads:
        raise UserError(f"model.num_heads = {spec.num_heads} does not divide model.width = {spec.width}")
    for name, size in zip(("height", "width"), image_size, strict=True):
        if size < spec.patch_size or size % spec.patch_size:
            raise UserError(
                f"images of {name} {size} px do not divide into patches of model.patch_size = "
                f"{spec.patch_size} px: set data.image_size to a multiple of it, or another model.patch_size"
            )
    return spec


def _timm_sizes(name: str, pooling: str) -> tuple[int, int, int, int]:
    """Width, depth, heads and patch of a timm ViT, from a model built without memory for weights."""
    if not timm.is_model(name):
        near = timm.list_models(f"*{name}*")[:3]
        hint = f"; do you mean {', '.join(near)}?" if near else ""
        known = ", ".join(PUBLISHED_SIZES)
        raise UserError(f"model.name = {name!r} is none of {known} and no timm model{hint}")
    with torch.device("meta"):
        model: Any = timm.create_model(name, pretrained=False, num_classes=0)
    if type(model) is not VisionTransformer or not hasattr(model.blocks[0], "attn"):
        raise UserError(
            f"model.name = {name!r} is timm's {type(model).__name__}, not a plain Vision Transformer: take "
            "vit_*, deit_* or another model of timm's VisionTransformer class"
        )
    if pooling == "token" and not model.has_class_token:
        raise UserError(f"model.name = {name!r} has no class token: set model.pooling to avg")
    patch = model.patch_embed.patch_size[0]
    return model.embed_dim, len(model.blocks), model.blocks[0].attn.num_heads, patch


def create_encoder(spec: EncoderSpec, drop_path: float = 0.0, position_std: float = 0.02) -> Encoder:
    """A newly initialised encoder; `encoder(images)` gives [B, width] features, before any head.

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
    limit = math.sqrt(6 / (spec.channels * spec.patch_size**2 + spec.width))
    nn.init.uniform_(model.patch_embed.proj.weight, -limit, limit)
    if model.patch_embed.proj.bias is not None:
        nn.init.zeros_(model.patch_embed.proj.bias)
    if model.pos_embed is not None:
        nn.init.trunc_normal_(model.pos_embed, std=position_std, a=-2 * position_std, b=2 * position_std)
    encoder: Encoder = model
    return encoder
