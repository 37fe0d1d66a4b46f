"""A ViT's map of features from images of any size: attention within windows, with a few global blocks (ViTDet).

Li et al. 2022, arXiv:2203.16527, section 3: attention among all patches of a large image is costly, so most blocks see
windows of the map only, and a few blocks, evenly spaced, see all of it. Parameters are those of pre-training.

B  images     h, w  patches of an image     P  class and register tokens     D  width     n  windows of an image
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from timm.models.vision_transformer import Block
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from patchmix.errors import UserError
from patchmix.models.blocks import is_simple, residual, run_block
from patchmix.models.cpu_attention import MOST_TOKENS, attend
from patchmix.models.cpu_linear import linear
from patchmix.models.vit import Encoder


def encode_map(encoder: Encoder, images: Tensor, *, window: int | None, global_blocks: int) -> Tensor:
    """The patch tokens after the last block and the final norm, as a map: [B, channels, H, W] to [B, D, h, w].

    Without windows they are those of `encoder.forward_features`. DIFFERS from ViTDet, which has neither class token nor
    final norm: the encoder's blocks were trained with the token, and what comes from them was normalised.

    Args:
        encoder: its position embeddings are resized to the images' grid; with `set_grad_checkpointing` activations
            are computed again for the backward pass.
        images: normalised; height and width are multiples of the patch size.
        window: patches on a window's side; None: all blocks are global, as they are where the map fits in one window.
        global_blocks: how many blocks are global nevertheless.
    """
    grid = images.shape[-2] // encoder.patch_embed.patch_size[0], images.shape[-1] // encoder.patch_embed.patch_size[1]
    whole = window is None or max(grid) <= window
    spared = frozenset(global_positions(len(encoder.blocks), global_blocks))
    tokens: Tensor = encoder.norm_pre(encoder.patch_drop(encoder._pos_embed(encoder.patch_embed(images))))
    for number, block in enumerate(encoder.blocks):
        side = None if whole or number in spared else window
        if encoder.grad_checkpointing and torch.is_grad_enabled():
            tokens = checkpoint(_run, block, tokens, grid, side, use_reentrant=False)
        else:
            tokens = _run(block, tokens, grid, side)
    patches: Tensor = encoder.norm(tokens)[:, encoder.num_prefix_tokens :]
    return patches.transpose(1, 2).reshape(len(images), -1, *grid)


def global_positions(depth: int, global_blocks: int) -> list[int]:
    """Which blocks (from 0) are global: the last of each of `global_blocks` equal parts, of 12 and 4: 2, 5, 8, 11."""
    number = min(global_blocks, depth)
    return [round((part + 1) * depth / number) - 1 for part in range(number)]


def check_windows(encoder: Encoder, window: int | None, global_blocks: int) -> None:
    """UserError where windows make no sense, or where a block is of a kind whose attention cannot be parted."""
    if window is not None and window < 1:
        raise UserError(f"window = {window}: give the patches on a window's side (ViTDet: 14), or null for no windows")
    if global_blocks < 0:
        raise UserError(f"global_blocks = {global_blocks}: give how many blocks see the whole image (ViTDet: 4)")
    other = {type(block).__name__ for block in encoder.blocks if type(block) is not Block}
    if window is not None and other:
        raise UserError(
            f"window = {window}: blocks of kind {', '.join(sorted(other))} cannot attend within windows; set window "
            "to null"
        )


def _run(block: Any, tokens: Tensor, grid: tuple[int, int], window: int | None) -> Tensor:
    return run_block(block, tokens) if window is None else run_windowed_block(block, tokens, grid, window)


def run_windowed_block(block: Any, tokens: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """`block(tokens)` with attention within windows: [B, P + h * w, D] to the same. Drop path drops whole images."""
    quick = tokens.device.type == "cpu" and is_simple(block)
    attn, mlp = block.attn, block.mlp

    def within(rows: Tensor) -> Tensor:
        if quick and rows.shape[1] <= MOST_TOKENS:
            found = attn.norm(attend(linear(rows, attn.qkv), attn.num_heads))
            return attn.proj_drop(linear(found, attn.proj))  # type: ignore[no-any-return]
        return attn(rows)  # type: ignore[no-any-return]

    def attention(some: Tensor) -> Tensor:
        return block.ls1(in_windows(within, block.norm1(some), grid, window))  # type: ignore[no-any-return]

    def perceptron(some: Tensor) -> Tensor:
        some = block.norm2(some)
        if not quick:
            return block.ls2(mlp(some))  # type: ignore[no-any-return]
        found = mlp.norm(mlp.drop1(linear(some, mlp.fc1, gelu=True)))
        return block.ls2(mlp.drop2(linear(found, mlp.fc2)))  # type: ignore[no-any-return]

    if quick:
        return residual(residual(tokens, block.drop_path1, attention), block.drop_path2, perceptron)
    tokens = tokens + block.drop_path1(attention(tokens))
    return tokens + block.drop_path2(perceptron(tokens))  # type: ignore[no-any-return]


def in_windows(attention: Callable[[Tensor], Tensor], tokens: Tensor, grid: tuple[int, int], window: int) -> Tensor:
    """Attention [rows, tokens, D] -> the same, applied to each window of [B, P + h * w, D] by itself.

    The map is filled up to whole windows with zeros, below and on the right, which are keys like the others, as in
    ViTDet. Each window sees the class and register tokens too, and what these become is the mean over the windows.
    """
    height, width = grid
    rows, columns = min(window, height), min(window, width)
    down, across = math.ceil(height / rows), math.ceil(width / columns)
    batch, count, dim = tokens.shape
    prefix = count - height * width
    patches = tokens[:, prefix:].reshape(batch, height, width, dim)
    patches = F.pad(patches, (0, 0, 0, across * columns - width, 0, down * rows - height))
    patches = patches.reshape(batch, down, rows, across, columns, dim).transpose(2, 3)
    parts = patches.reshape(batch, down * across, rows * columns, dim)
    first = tokens[:, None, :prefix].expand(-1, down * across, -1, -1)
    found = attention(torch.cat([first, parts], dim=2).flatten(0, 1))
    found = found.reshape(batch, down * across, prefix + rows * columns, dim)
    patches = found[:, :, prefix:].reshape(batch, down, across, rows, columns, dim).transpose(2, 3)
    patches = patches.reshape(batch, down * rows, across * columns, dim)[:, :height, :width]
    return torch.cat([found[:, :, :prefix].mean(dim=1), patches.flatten(1, 2)], dim=1)
