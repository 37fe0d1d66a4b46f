"""Linear layers by oneDNN: torch's numbers and gradients, and torch's own layer wherever oneDNN has none."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from tests.models import small_model
from timm.models.vision_transformer import Block
from torch import Tensor, nn

from patchmix.benching.products import counted_operations
from patchmix.models import cpu_linear
from patchmix.models.blocks import is_simple
from patchmix.models.cpu_linear import linear


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def gradients(result: Tensor, tokens: Tensor, layer: nn.Linear) -> tuple[Tensor, ...]:
    leaves = [tokens, *layer.parameters()]
    return torch.autograd.grad(result, leaves, torch.linspace(-1, 1, result.numel()).view(result.shape).to(result))


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_and_gradients_are_torchs(dtype: torch.dtype, bias: bool, gelu: bool) -> None:
    layer = nn.Linear(24, 40, bias=bias, dtype=dtype)
    tokens = torch.randn(3, 17, 24, dtype=dtype, requires_grad=True)
    expected = F.gelu(layer(tokens)) if gelu else layer(tokens)
    found = linear(tokens, layer, gelu)
    torch.testing.assert_close(found, expected)
    for of_ours, of_torch in zip(gradients(found, tokens, layer), gradients(expected, tokens, layer), strict=True):
        torch.testing.assert_close(of_ours, of_torch)
    with torch.no_grad():
        torch.testing.assert_close(linear(tokens, layer, gelu), expected)


@pytest.mark.skipif(not cpu_linear.LOWER, reason="this CPU does not multiply in bfloat16")
def test_under_autocast_it_is_bfloat16_with_gradients_in_float32() -> None:
    layer, tokens = nn.Linear(64, 48), torch.randn(2, 30, 64, requires_grad=True)
    exact = layer(tokens)
    with torch.autocast("cpu", torch.bfloat16):
        found = linear(tokens, layer)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), exact, rtol=0.02, atol=0.02)
    of_ours = gradients(found, tokens, layer)
    assert {each.dtype for each in of_ours} == {torch.float32}
    for ours, of_torch in zip(of_ours, gradients(exact, tokens, layer), strict=True):
        assert float((ours - of_torch).norm() / of_torch.norm()) < 0.01


def test_only_what_needs_a_gradient_gets_one() -> None:
    layer, tokens = nn.Linear(8, 8), torch.randn(4, 8)
    layer.weight.requires_grad_(False)
    linear(tokens, layer).sum().backward()
    assert layer.weight.grad is None
    assert layer.bias.grad is not None
    torch.testing.assert_close(layer.bias.grad, torch.full((8,), 4.0))


@pytest.mark.filterwarnings("ignore:TF32 acceleration")  # torch's own, of its context manager
def test_without_onednn_it_is_torchs_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, tokens = nn.Linear(8, 12), torch.randn(4, 8)
    torchs = F.gelu(layer(tokens))

    def never(*_: object) -> Tensor:
        raise AssertionError("oneDNN is switched off")

    with torch.backends.mkldnn.flags(enabled=False), monkeypatch.context() as context:
        context.setattr(cpu_linear, "OPERATOR", never)
        torch.testing.assert_close(linear(tokens, layer, gelu=True), torchs)
    monkeypatch.setattr(cpu_linear, "OPERATOR", None)
    assert torch.equal(linear(tokens, layer, gelu=True), torchs)


def test_its_operations_are_counted() -> None:
    layer, tokens = nn.Linear(8, 12), torch.randn(4, 5, 8, requires_grad=True)
    assert counted_operations(lambda: linear(tokens, layer).sum().backward()) == 3 * 2 * 20 * 8 * 12


def test_blocks_with_other_layers_are_called_whole() -> None:
    block = Block(24, 3)
    adapted, parametrised, approximate = (copy.deepcopy(block) for _ in range(3))
    adapted.mlp.fc1 = nn.Sequential(block.mlp.fc1)
    nn.utils.parametrizations.weight_norm(parametrised.attn.proj)
    approximate.mlp.act = nn.GELU("tanh")
    assert is_simple(block)
    assert not any(is_simple(each) for each in (adapted, parametrised, approximate))


def test_an_encoder_gives_timms_features_in_float32() -> None:
    encoder = small_model().encoder.eval()
    images = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(encoder(images), encoder.forward_head(encoder.forward_features(images)))
