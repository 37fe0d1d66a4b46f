"""Blocks of timm's ViT on the CPU: the same parameters and numbers, in the operations that are quickest there.

On other devices, and where a block is not timm's plain one or has hooks that would not run, the block itself is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from patchmix.models.class_token import is_hooked, is_plain
from patchmix.models.cpu_attention import MOST_TOKENS, attend


def run_block(block: Any, tokens: Tensor) -> Tensor:
    """What `block(tokens)` is: [B, 1 + T, D] to [B, 1 + T, D]."""
    if tokens.device.type != "cpu" or tokens.shape[1] > MOST_TOKENS or not is_simple(block):
        result: Tensor = block(tokens)
        return result
    attn = block.attn

    def attention(some: Tensor) -> Tensor:
        found: Tensor = attn.proj_drop(attn.proj(attn.norm(attend(attn.qkv(block.norm1(some)), attn.num_heads))))
        return found

    tokens = residual(tokens, block.drop_path1, lambda some: block.ls1(attention(some)))
    return residual(tokens, block.drop_path2, lambda some: block.ls2(block.mlp(block.norm2(some))))


def is_simple(block: Any) -> bool:
    """Whether `run_block` may take it apart: plain, attention without normalised queries or dropout, no hook lost."""
    if not is_plain(block):
        return False
    attn = block.attn
    simple = isinstance(attn.q_norm, nn.Identity) and isinstance(attn.k_norm, nn.Identity)
    dropout = attn.training and attn.attn_drop.p > 0
    return simple and not dropout and not is_hooked(*block.modules()) and not is_traced()


def is_traced() -> bool:
    """Whether torch watches the operations (export, compile, trace, functorch): it has no rules for ours."""
    return bool(
        torch.compiler.is_compiling()
        or torch._C._get_tracing_state() is not None
        or torch._C._are_functorch_transforms_active()
    )


def residual(tokens: Tensor, drop_path: nn.Module, branch: Callable[[Tensor], Tensor]) -> Tensor:
    """tokens + drop_path(branch(tokens)), where the branch is computed for the images only that drop path keeps.

    Which ones those are is drawn as timm's DropPath draws it.
    """
    rate = drop_path.drop_prob if isinstance(drop_path, DropPath) and drop_path.training else 0.0
    if not rate:
        return tokens + branch(tokens)
    scale = 1 / (1 - rate) if drop_path.scale_by_keep and rate < 1 else 1.0
    kept = tokens.new_empty(len(tokens)).bernoulli_(1 - rate).nonzero().squeeze(1)
    if len(kept) in (0, len(tokens)):  # with none of them parameters must have a gradient nevertheless, for DDP
        return torch.add(tokens, branch(tokens), alpha=scale if len(kept) else 0.0)
    return tokens.index_add(0, kept, branch(tokens.index_select(0, kept)).to(tokens.dtype), alpha=scale)
