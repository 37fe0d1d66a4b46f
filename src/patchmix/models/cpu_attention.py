"""Attention of a Vision Transformer on the CPU, by plain batched matrix products.

torch's fused attention for the CPU is made for long sequences: at the 17 to 257 tokens of a ViT its backward pass takes
up to fifteen times as long as the products written out (in bfloat16; decision 0026).

B  images     T  tokens     H  heads     d  width of a head     D  H * d, the model's width
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

MOST_TOKENS = 400  # beyond, the fused attention is quicker: the scores leave the cache even for one image
SCORES = 1_000_000  # numbers of a slice's [images * H, T, T] scores: they stay in the cache
KEPT = 8  # probabilities of up to so many times a token's width are kept for the backward pass, larger ones made again


def attend(qkv: Tensor, num_heads: int) -> Tensor:
    """softmax(q·kᵀ/√d)·v: queries, keys and values side by side [B, T, 3 * D] to [B, T, D]."""
    result: Tensor = _Attend.apply(qkv, num_heads)
    return result


class _Attend(torch.autograd.Function):
    """Slices of a few images at a time, so that scores are still in the cache when they are needed again."""

    @staticmethod
    def forward(ctx: Any, qkv: Tensor, num_heads: int) -> Tensor:
        batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
        size = width // num_heads
        # [3, B, H, T, d]: one copy, after which every product reads its factors row by row.
        parts = qkv.view(batch, tokens, 3, num_heads, size).permute(2, 0, 3, 1, 4).contiguous()
        query, key, value = parts.view(3, batch * num_heads, tokens, size)
        needed = ctx.needs_input_grad[0]
        kept = needed and num_heads * tokens <= KEPT * width
        probabilities = qkv.new_empty(batch * num_heads, tokens, tokens) if kept else None
        result = qkv.new_empty(batch, num_heads, tokens, size)
        rows = result.view(batch * num_heads, tokens, size)
        for part in _slices(batch, num_heads, tokens):
            found = _probabilities(query[part], key[part], None if probabilities is None else probabilities[part])
            torch.bmm(found, value[part], out=rows[part])
        if needed:
            ctx.save_for_backward(parts, *(() if probabilities is None else (probabilities,)))
        return result.transpose(1, 2).reshape(batch, tokens, width)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        parts, *kept = ctx.saved_tensors
        _, batch, num_heads, tokens, size = parts.shape
        query, key, value = parts.view(3, batch * num_heads, tokens, size)
        flow = gradient.view(batch, tokens, num_heads, size).transpose(1, 2).contiguous()
        flow = flow.view(batch * num_heads, tokens, size)
        found = torch.empty_like(parts)
        of_query, of_key, of_value = found.view(3, batch * num_heads, tokens, size)
        scale = size**-0.5
        for part in _slices(batch, num_heads, tokens):
            probabilities = kept[0][part] if kept else _probabilities(query[part], key[part])
            torch.bmm(probabilities.transpose(1, 2), flow[part], out=of_value[part])
            scores = torch.bmm(flow[part], value[part].transpose(1, 2))
            scores = torch._softmax_backward_data(scores, probabilities, -1, scores.dtype).mul_(scale)
            torch.bmm(scores, key[part], out=of_query[part])
            torch.bmm(scores.transpose(1, 2), query[part], out=of_key[part])
        return found.permute(1, 3, 0, 2, 4).reshape(batch, tokens, 3 * num_heads * size), None


def _slices(batch: int, num_heads: int, tokens: int) -> Iterator[slice]:
    """Rows of [B * H, …] of a few whole images at a time."""
    step = num_heads * max(1, SCORES // (num_heads * tokens * tokens))
    return (slice(start, start + step) for start in range(0, batch * num_heads, step))


def _probabilities(query: Tensor, key: Tensor, out: Tensor | None = None) -> Tensor:
    """softmax(q·kᵀ/√d): [n, T, d] twice to [n, T, T]."""
    nothing = query.new_empty(1, 1, 1)
    scores = torch.baddbmm(nothing, query, key.transpose(1, 2), beta=0, alpha=query.shape[-1] ** -0.5)
    return torch._softmax(scores, -1, False) if out is None else torch._softmax(scores, -1, False, out=out)
