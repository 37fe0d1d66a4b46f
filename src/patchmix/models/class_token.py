"""The last block for the class token alone: where nothing but the class token is read, nothing else is computed.

The other tokens of the last block reach the class token only through keys and values, so leaving their queries
and their MLP out changes no feature and no gradient. It saves most of one block (benchmarks/results.md).
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from timm.layers import Attention
from timm.models.vision_transformer import Block
from torch import Tensor, nn


def is_plain(block: nn.Module) -> bool:
    """Whether `class_token_of` knows how the block computes: timm's own, without a gate."""
    return type(block) is Block and type(block.attn) is Attention and getattr(block.attn, "gate", None) is None


def is_hooked(*modules: nn.Module) -> bool:
    """Whether any of the modules has a hook, forward or backward."""
    return any(
        each._forward_hooks or each._forward_pre_hooks or each._backward_hooks or each._backward_pre_hooks
        for each in modules
    )


def class_token_of(block: Any, tokens: Tensor) -> Tensor:
    """[B, 1 + T, D] to [B, 1, D]: what `block(tokens)[:, :1]` is, for a block that `is_plain`.

    Drop path and dropout draw as many random numbers as the whole block's would for one token.
    """
    token = tokens[:, :1]
    token = token + block.drop_path1(block.ls1(_attention(block.attn, block.norm1(tokens))))
    result: Tensor = token + block.drop_path2(block.ls2(block.mlp(block.norm2(token))))
    return result


def _attention(attn: Any, tokens: Tensor) -> Tensor:
    """The class token's attention output [B, 1, D]; the query of the first token, keys and values of all."""
    batch, count, _ = tokens.shape
    heads, size = attn.num_heads, attn.head_dim
    width = heads * size
    weight, bias = attn.qkv.weight, attn.qkv.bias
    query = F.linear(tokens[:, :1], weight[:width], None if bias is None else bias[:width])
    rest = F.linear(tokens, weight[width:], None if bias is None else bias[width:])
    query = query.view(batch, 1, heads, size).transpose(1, 2)
    key, value = rest.view(batch, count, 2, heads, size).permute(2, 0, 3, 1, 4).unbind(0)
    dropout = attn.attn_drop.p if attn.training else 0.0
    found = F.scaled_dot_product_attention(attn.q_norm(query), attn.k_norm(key), value, dropout_p=dropout)
    found = attn.norm(found.transpose(1, 2).reshape(batch, 1, width))
    result: Tensor = attn.proj_drop(attn.proj(found))
    return result
