"""Blocks of timm's ViT on the CPU: the same parameters and numbers, in the operations that are quickest there.

On other devices, and where a block is not timm's plain one or has hooks that would not run, the block itself is called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from timm.layers import DropPath, Mlp
from torch import Tensor, nn

from patchmix.models.class_token import is_hooked, is_plain
from patchmix.models.cpu_attention import MOST_TOKENS, attend
from patchmix.models.cpu_linear import linear


def run_block(block: Any, tokens: Tensor) -> Tensor:
    """What `block(tokens)` is: [B, 1 + T, D] to [B, 1 + T, D]."""
    if tokens.device.type != "cpu" or tokens.shape[1] > MOST_TOKENS or not is_simple(block):
        result: Tensor = block(tokens)
        return result
    attn, mlp = block.attn, block.mlp

    def attention(some: Tensor) -> Tensor:
        found = attn.norm(attend(linear(block.norm1(some), attn.qkv), attn.num_heads))
        return block.ls1(attn.proj_drop(linear(found, attn.proj)))  # type: ignore[no-any-return]

    def perceptron(some: Tensor) -> Tensor:
        found = mlp.norm(mlp.drop1(linear(block.norm2(some), mlp.fc1, gelu=True)))
        return block.ls2(mlp.drop2(linear(found, mlp.fc2)))  # type: ignore[no-any-return]

    return residual(residual(tokens, block.drop_path1, attention), block.drop_path2, perceptron)


def is_simple(block: Any) -> bool:
    """Whether `run_block` may take it apart: plain layers and attention, no dropout in it, no hook that is lost."""
    if not is_plain(block):
        return False
    attn = block.attn
    simple = isinstance(attn.q_norm, nn.Identity) and isinstance(attn.k_norm, nn.Identity)
    dropout = attn.training and attn.attn_drop.p > 0
    return simple and not dropout and has_plain_layers(block) and not is_hooked(*block.modules()) and not is_traced()


def has_plain_layers(block: Any) -> bool:
    """Whether the block's linear layers are torch's own (not adapted, not parametrised), with the exact GELU."""
    attn, mlp = block.attn, block.mlp
    if type(mlp) is not Mlp or type(mlp.act) is not nn.GELU or mlp.act.approximate != "none":
        return False
    return all(type(layer) is nn.Linear for layer in (attn.qkv, attn.proj, mlp.fc1, mlp.fc2))


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
