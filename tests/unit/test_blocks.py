"""Blocks of the ViT as the CPU computes them: timm's numbers, in other operations."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.models import small_model
from timm.layers import DropPath
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from patchmix.models import cpu_attention
from patchmix.models.blocks import is_simple, residual, run_block
from patchmix.models.cpu_attention import attend


def fused(qkv: Tensor, num_heads: int) -> Tensor:
    batch, tokens, width = qkv.shape[0], qkv.shape[1], qkv.shape[2] // 3
    query, key, value = qkv.view(batch, tokens, 3, num_heads, width // num_heads).permute(2, 0, 3, 1, 4)
    return F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, tokens, width)


@pytest.mark.parametrize("kept", [0, 100])
@pytest.mark.parametrize("scores", [1, 60, 10**6])
def test_attention_and_its_gradient_are_torchs(kept: int, scores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu_attention, "KEPT", kept)
    monkeypatch.setattr(cpu_attention, "SCORES", scores)
    qkv = torch.randn(5, 7, 24, dtype=torch.float64, requires_grad=True)
    flow = torch.randn(5, 7, 8, dtype=torch.float64)
    expected = fused(qkv, 2)
    torch.testing.assert_close(attend(qkv, 2), expected)
    (gradient,) = torch.autograd.grad(expected, qkv, flow)
    torch.testing.assert_close(torch.autograd.grad(attend(qkv, 2), qkv, flow)[0], gradient)


def test_attention_in_bfloat16_is_near_that_in_float32() -> None:
    qkv = torch.randn(2, 65, 3 * 64)
    found = attend(qkv.to(torch.bfloat16), 2)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), attend(qkv, 2), rtol=0.05, atol=0.02)


@pytest.mark.parametrize("rate", [0.0, 0.4])
@pytest.mark.parametrize("training", [True, False])
def test_a_block_gives_timms_numbers_and_gradients_and_drops_the_same_paths(rate: float, training: bool) -> None:
    torch.manual_seed(0)
    block = Block(24, 3, qkv_bias=True, drop_path=rate, init_values=0.5).double().train(training)
    ours = copy.deepcopy(block)
    tokens = torch.randn(9, 5, 24, dtype=torch.float64)
    flow = torch.randn_like(tokens)
    results = []
    for function, parameters in ((block, block.parameters()), (lambda x: run_block(ours, x), ours.parameters())):
        leaf = tokens.clone().requires_grad_()
        torch.manual_seed(1)
        result = function(leaf)
        result.backward(flow)
        results.append((result.detach(), leaf.grad, *(parameter.grad for parameter in parameters)))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected)


def test_what_drop_path_drops_is_not_computed() -> None:
    seen: list[int] = []

    def branch(tokens: Tensor) -> Tensor:
        seen.append(len(tokens))
        return torch.ones_like(tokens)

    torch.manual_seed(0)
    tokens = torch.zeros(40, 3, 2)
    found = residual(tokens, DropPath(0.25).train(), branch)
    kept = found[:, 0, 0] > 0
    assert seen == [int(kept.sum())]
    assert 0 < seen[0] < 40
    torch.testing.assert_close(found[kept], torch.full_like(found[kept], 1 / 0.75))
    assert not found[~kept].any()


def test_parameters_have_a_gradient_even_where_every_image_is_dropped() -> None:
    layer = nn.Linear(2, 2)
    tokens = torch.randn(3, 4, 2)
    found = residual(tokens, DropPath(1.0).train(), layer)
    assert torch.equal(found, tokens)
    found.sum().backward()
    assert layer.weight.grad is not None
    assert not layer.weight.grad.any()


def test_blocks_with_hooks_or_more_than_plain_attention_are_called_whole() -> None:
    block = Block(24, 3)
    assert is_simple(block)
    assert not is_simple(Block(24, 3, qk_norm=True))
    assert not is_simple(Block(24, 3, attn_drop=0.5))
    assert is_simple(Block(24, 3, attn_drop=0.5).eval())
    seen: list[torch.Size] = []
    block.attn.register_forward_hook(lambda module, inputs, output: seen.append(output.shape))
    assert not is_simple(block)
    run_block(block, torch.randn(2, 5, 24))
    assert seen == [torch.Size((2, 5, 24))]


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # torch's, of its attention under vmap
def test_an_encoder_can_be_exported_and_mapped_over() -> None:
    encoder = small_model().encoder.eval()
    images = torch.randn(2, 3, 16, 16)
    expected = encoder(images).detach()
    exported = torch.export.export(encoder, (images,)).module()
    torch.testing.assert_close(exported(images).detach(), expected)
    each = torch.func.vmap(lambda image: encoder(image.unsqueeze(0)).squeeze(0))(images)
    torch.testing.assert_close(each.detach(), expected)
