"""Linear layers on the CPU, by oneDNN's products where torch would take MKL's or would add the bias by itself.

oneDNN is part of torch, and torch.compile calls the same operator. On the CPU measured its float32 products are a tenth
quicker than those behind F.linear, bias and GELU cost nothing on top, and so in bfloat16 (decision 0031). The gradient
of a weight, a product along all tokens, stays with torch, which is quicker there.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def _operator() -> Any:
    """oneDNN's linear layer with something after it; None where this torch or CPU has none."""
    has_onednn = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]  # torch's own, untyped
    return getattr(torch.ops.mkldnn, "_linear_pointwise", None) if has_onednn else None


OPERATOR = _operator()
LOWER = OPERATOR is not None and torch.ops.mkldnn._is_mkldnn_bf16_supported()
DTYPES = (torch.float32, torch.bfloat16) if LOWER else (torch.float32,)


def linear(tokens: Tensor, layer: nn.Linear, gelu: bool = False) -> Tensor:
    """`layer(tokens)`, or GELU of it, on the CPU under autocast or without: [..., K] to [..., N].

    Args:
        gelu: whether to apply GELU (the exact one) to it.
    """
    weight: Tensor = layer.weight
    bias: Tensor | None = layer.bias
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else tokens.dtype
    if OPERATOR is None or dtype not in DTYPES or not torch.backends.mkldnn.enabled:
        found = F.linear(tokens, weight, bias)
        return F.gelu(found) if gelu else found
    tokens, weight, bias = tokens.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    learns = torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in (tokens, weight, bias))
    if not learns:
        fused: Tensor = OPERATOR(tokens, weight, bias, "gelu" if gelu else "none", [], "none")
        return fused
    result: Tensor = _Linear.apply(tokens, weight, bias)
    return F.gelu(result) if gelu else result


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(tokens, weight)
        found: Tensor = OPERATOR(tokens, weight, bias, "none", [], "none")
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        tokens, weight = ctx.saved_tensors
        of_tokens, of_weight, of_bias = ctx.needs_input_grad
        rows = gradient.reshape(-1, len(weight))
        return (
            OPERATOR(gradient, weight.t(), None, "none", [], "none") if of_tokens else None,
            rows.t() @ tokens.reshape(len(rows), -1) if of_weight else None,
            rows.sum(0) if of_bias else None,
        )
