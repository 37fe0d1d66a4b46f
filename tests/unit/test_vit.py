"""The encoder: sizes, initialisation, position embeddings."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from tests.models import small_spec

from patchmix.config import ModelConfig
from patchmix.errors import UserError
from patchmix.models.encoders import resolve_spec
from patchmix.models.spec import EncoderSpec
from patchmix.models.vit import create_vit, resize_position_embeddings

RGB = {"channels": 3, "mean": (0.5,) * 3, "std": (0.5,) * 3}


def resolve(image_size: tuple[int, int] = (32, 32), **options: Any) -> EncoderSpec:
    return resolve_spec(ModelConfig(**options), image_size, **RGB)


@pytest.mark.parametrize(
    ("name", "sizes", "millions"),
    [("vit_tiny", (192, 12, 3), 5.4), ("vit_small", (384, 12, 12), 21.3), ("vit_base", (768, 12, 12), 85.3)],
)
def test_published_sizes(name: str, sizes: tuple[int, int, int], millions: float) -> None:
    spec = resolve(name=name, patch_size=2)
    assert (spec.width, spec.depth, spec.num_heads) == sizes
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in create_vit(spec).parameters())
    # 12 blocks of 12 width² + 13 width, the patch embedding, 257 positions, class token, final norm
    width = sizes[0]
    assert parameters == 12 * (12 * width**2 + 13 * width) + 13 * width + 257 * width + width + 2 * width
    assert parameters / 1e6 == pytest.approx(millions, abs=0.1)


def test_heads_are_the_papers_twelve_not_timms_six() -> None:
    assert resolve(name="vit_small", patch_size=16).num_heads == 12
    assert resolve(name="vit_small_patch16_224", patch_size=16).num_heads == 6
    assert create_vit(resolve(name="vit_small", patch_size=16)).blocks[0].attn.num_heads == 12


def test_a_model_that_does_not_fit_is_refused_with_what_would() -> None:
    with pytest.raises(UserError, match=r"has no class token: set model.pooling to avg"):
        resolve(name="vit_little_patch16_reg1_gap_256", pooling="token")
    with pytest.raises(UserError, match=r"'vit_tinny' is none of vit_tiny, .* no timm model"):
        resolve(name="vit_tinny")


def test_features_are_the_class_token_where_there_is_one() -> None:
    assert resolve(name="vit_tiny").pooling == "token"
    assert resolve(name="deit_tiny_patch16_224").pooling == "token"
    assert resolve(name="vit_tiny", pooling="avg").pooling == "avg"
    assert resolve(name="vit_little_patch16_reg1_gap_256").pooling == "avg"


def test_a_custom_width_gets_heads_that_divide_it() -> None:
    assert resolve(name="vit_tiny", patch_size=4, width=64).num_heads == 2
    with pytest.raises(UserError, match=r"model.num_heads"):
        resolve(name="vit_tiny", patch_size=4, width=64, num_heads=5)


def test_initialisation_is_moco_v3s() -> None:
    spec = small_spec(width=96)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = create_vit(spec, position_std=0.3)
    block = encoder.blocks[0]

    def within(weight: torch.Tensor, fan_in: int, fan_out: int) -> bool:
        limit = math.sqrt(6 / (fan_in + fan_out))
        return bool(0.95 * limit < weight.abs().max() <= limit)

    assert within(block.attn.qkv.weight, 96, 96)  # q, k, v as separate matrices
    assert within(block.mlp.fc1.weight, 96, 384)
    assert within(encoder.patch_embed.proj.weight, 3 * 4 * 4, 96)
    assert block.attn.qkv.bias.abs().max() == encoder.patch_embed.proj.bias.abs().max() == 0
    assert encoder.cls_token.abs().max() < 1e-5
    assert encoder.pos_embed.std().item() == pytest.approx(0.3 * 0.88, rel=0.1)  # σ of a normal cut at 2σ
    assert encoder.norm.eps == block.norm1.eps == 1e-6


@pytest.mark.parametrize("pooling", ["token", "avg"])
def test_features_have_the_encoders_width_at_any_input_size(pooling: str) -> None:
    encoder = create_vit(small_spec(pooling=pooling)).eval()
    for height, width in [(16, 16), (8, 8), (12, 20), (32, 16)]:
        assert encoder(torch.randn(2, 3, height, width)).shape == (2, 24)


@pytest.mark.parametrize(
    "name", ["deit_tiny_patch16_224", "vit_small_patch14_reg4_dinov2", "vit_base_patch16_clip_224"]
)
def test_any_timm_vit_builds_and_keeps_timms_features_at_its_own_size(name: str) -> None:
    import timm

    spec = resolve(image_size=(28, 28) if "14" in name else (32, 32), name=name, depth=1)
    encoder = create_vit(spec).eval()
    options: dict[str, Any] = {"num_classes": 0, "depth": 1, "img_size": spec.image_size}
    plain = timm.create_model(name, pretrained=False, global_pool="token", **options).eval()
    plain.load_state_dict(encoder.state_dict())
    images = torch.randn(2, 3, *spec.image_size)
    torch.testing.assert_close(encoder(images), plain(images))


def test_position_embeddings_keep_a_constant_and_hit_the_size_exactly() -> None:
    constant = torch.full((1, 14 * 14, 5), 2.5)
    for size in range(1, 40):
        resized = resize_position_embeddings(constant, (14, 14), (size, size + 1))
        assert resized.shape == (1, size * (size + 1), 5)
        torch.testing.assert_close(resized, torch.full_like(resized, 2.5))


def test_spec_survives_json() -> None:
    import json

    spec = small_spec()
    assert EncoderSpec.from_dict(json.loads(json.dumps(spec.to_dict()))) == spec


@pytest.mark.parametrize("name", ["vit_tiny", "vit_base_patch16_clip_224", "vit_small_patch14_reg4_dinov2"])
def test_computing_the_class_token_alone_changes_no_feature_and_no_gradient(name: str) -> None:
    from timm.models.vision_transformer import VisionTransformer

    spec = resolve(name=name, patch_size=8, width=24, num_heads=3, depth=2)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        encoder = create_vit(spec, drop_path=0.3).double().train()
    images = torch.randn(5, 3, 32, 32, dtype=torch.float64)

    def run(forward: Any) -> tuple[torch.Tensor, list[torch.Tensor]]:
        encoder.zero_grad()
        with torch.random.fork_rng():
            torch.manual_seed(1)  # the same drop path
            features = forward(encoder, images)
        features.square().sum().backward()
        return features.detach(), [parameter.grad.clone() for parameter in encoder.parameters()]

    features, gradients = run(type(encoder).forward)
    expected, expected_gradients = run(VisionTransformer.forward)
    torch.testing.assert_close(features, expected, rtol=1e-10, atol=1e-12)
    for found, gradient in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(found, gradient, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["blocks", "blocks.1", "blocks.1.attn", "blocks.1.attn.qkv", "blocks.1.mlp", "norm"])
def test_hooks_see_all_tokens_and_change_no_feature(name: str) -> None:
    encoder = create_vit(small_spec()).eval()
    images = torch.randn(2, 3, 16, 16)
    expected = encoder(images)
    seen: list[torch.Tensor] = []
    handle = encoder.get_submodule(name).register_forward_hook(lambda module, given, found: seen.append(found))
    torch.testing.assert_close(encoder(images), expected)
    assert seen[0].shape[:2] == (2, 17)
    handle.remove()
    encoder(images)
    assert len(seen) == 1


def test_hooks_before_the_last_block_run() -> None:
    encoder = create_vit(small_spec()).eval()
    seen: list[torch.Size] = []
    encoder.blocks[1].register_forward_pre_hook(lambda module, given: seen.append(given[0].shape))
    encoder.blocks[1].attn.register_full_backward_hook(lambda module, given, got: seen.append(got[0].shape))
    encoder(torch.randn(2, 3, 16, 16)).sum().backward()
    assert seen == [(2, 17, 24)] * 2
