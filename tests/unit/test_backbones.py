"""timm models that are no plain ViTs: what a config may say of them, and whole runs with them on real digits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from tests.runs import assert_same_result, small_config
from timm.layers import DropPath

import patchmix
from patchmix.config import Config, MethodConfig, ModelConfig, ViewsConfig
from patchmix.errors import UserError
from patchmix.method import ContrastiveModel
from patchmix.mix_size import check_mix_size
from patchmix.mixing import MixPlan
from patchmix.models import heads
from patchmix.models.backbones import check_size
from patchmix.models.encoders import create_encoder, resolve_spec
from patchmix.models.spec import EncoderSpec
from patchmix.preparation import prepare
from patchmix.pretraining import pretrain

# Options of the demo's ViT that a network without patches does not have.
NO_VIT: dict[str, Any] = {
    f"model.{name}": None for name in ("patch_size", "width", "depth", "num_heads", "position_std")
}
SIZE_64 = {"data.image_size": 64}
SWIN = "swin_tiny_patch4_window7_224"


def resolve(name: str, size: int = 64, channels: int = 3, **options: Any) -> EncoderSpec:
    return resolve_spec(ModelConfig(name=name, **options), (size, size), channels, (0.5,) * channels, (0.5,) * channels)


def backbone_config(output: Path, name: str, **options: Any) -> Config:
    return small_config(output, **{**NO_VIT, "model.name": name, "data.image_size": 32, **options})


@pytest.mark.parametrize(
    ("name", "width"),
    [
        ("resnet50", 2048),
        ("convnext_tiny", 768),
        ("mobilenetv3_small_100", 1024),
        (SWIN, 768),
    ],
)
def test_the_width_is_that_of_the_features(name: str, width: int) -> None:
    spec = resolve(name)  # mobilenetv3 has a layer between its last map and its features
    assert (spec.width, spec.patch_size, spec.depth, spec.num_heads) == (width, None, None, None)
    assert not spec.is_vit
    assert EncoderSpec.from_dict(spec.to_dict()) == spec


@pytest.mark.parametrize("name", ["vit_small_patch16_18x2_224", "deit_tiny_distilled_patch16_224"])
def test_vits_of_other_kinds_are_networks_by_name(name: str) -> None:
    assert not resolve(name).is_vit
    assert resolve("vit_small_patch16_224").is_vit


@pytest.mark.parametrize(
    ("name", "size", "options", "words"),
    [
        ("test_resnet", 64, {"patch_size": 16, "depth": 2}, r"add --model.patch_size null --model.depth null$"),
        ("test_resnet", 64, {"pooling": "avg"}, r"add --model.pooling null$"),
        ("vgg11", 64, {"drop_path": 0.1}, r"vgg11 has no stochastic depth; set model.drop_path to 0"),
        (
            "convnext_atto",
            16,
            {},
            r"convnext_atto does not take images of 16 × 16 px \(.*\); set another data.image_size",
        ),
        (SWIN, 2, {}, "does not take images of 2 × 2 px"),
        ("resnt18", 64, {}, r"'resnt18' is none of vit_tiny, .* no timm model; do you mean resnet18"),
    ],
)
def test_what_does_not_fit_is_refused_with_what_would(name: str, size: int, options: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        resolve(name, size, **options)


def test_local_crops_must_be_of_a_size_that_the_network_takes() -> None:
    check_size(resolve("test_resnet"), (24, 24), "views.local_size")
    with pytest.raises(UserError, match=r"views.local_size: timm's swin_.* does not take images of 32 × 32 px"):
        check_size(resolve(SWIN), (32, 32), "views.local_size")


@pytest.mark.parametrize(
    ("size", "local_size", "mixed"),
    [(224, None, 16), (224, 96, 16), (32, None, 2), (64, None, 4), (64, 30, 2), (31, None, 1)],
)
def test_squares_are_mixed_that_divide_views_and_crops(size: int, local_size: int | None, mixed: int) -> None:
    views = ViewsConfig(num_local_crops=0 if local_size is None else 2, local_size=local_size or 96)
    assert check_mix_size(Config(views=views), resolve("test_resnet", size)) == mixed


def test_any_squares_that_divide_can_be_mixed_without_patches() -> None:
    spec = resolve("test_resnet", 30)
    assert check_mix_size(Config(method=MethodConfig(mix_size=5)), spec) == 5
    with pytest.raises(UserError, match="does not divide into mixing patches of 4 px"):
        check_mix_size(Config(method=MethodConfig(mix_size=4)), spec)


def test_initial_weights_and_features_are_timms() -> None:
    spec = resolve("test_convnext", channels=1)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        encoder = create_encoder(spec).eval()
        torch.manual_seed(3)
        plain = timm.create_model("test_convnext", num_classes=0, in_chans=1).eval()
    images = torch.randn(2, 1, 64, 64)
    assert torch.equal(encoder(images), plain(images))
    assert encoder(images).shape == (2, spec.width)


def test_drop_path_is_in_the_trained_encoder_only(tmp_path: Path) -> None:
    import contextlib

    with contextlib.ExitStack() as stack:
        config = backbone_config(tmp_path, "test_resnet", **{"model.drop_path": 0.3, "method.momentum": 0.9})
        module = prepare(config, False, None, None, stack).module

    def drops(encoder: torch.nn.Module | None) -> list[float]:
        assert encoder is not None
        return [each.drop_prob for each in encoder.modules() if isinstance(each, DropPath)]

    assert max(drops(module.encoder)) == pytest.approx(0.3)
    assert not any(drops(module.momentum_encoder))


def test_losses_equal_a_plain_loop_for_a_network_with_batchnorm() -> None:
    torch.manual_seed(0)
    network = timm.create_model("test_resnet", num_classes=0, in_chans=1)
    model = ContrastiveModel(network, heads.projector(96, 32, 8), heads.predictor(32, 8), momentum=True).double()
    views = torch.randn(2, 4, 1, 32, 32, dtype=torch.float64)
    plans = [MixPlan.draw(16, 3, 8, torch.Generator().manual_seed(view)) for view in (0, 1)]  # 16 squares: 6, 5, 5
    losses = model((views[0], views[1]), tuple(plans), 0.2)

    mixed = views.clone()
    for plan, view, into in zip(plans, views, mixed, strict=True):
        for image in range(4):
            for position, group in enumerate(plan.groups.tolist()):
                row, column = 8 * (position // 4), 8 * (position % 4)
                square = view[(image + group) % 4, :, row : row + 8, column : column + 8]
                into[image, :, row : row + 8, column : column + 8] = square

    def cross_entropy(query_images: torch.Tensor, key_images: torch.Tensor, weights: dict[int, float]) -> float:
        queries = F.normalize(model.predictor(model.projector(network(query_images))))
        keys = F.normalize(model.momentum_projector(model.momentum_encoder(key_images)))
        total = 0.0
        for row, query in enumerate(queries):
            logits = torch.stack([query @ key / 0.2 for key in keys])
            for offset, weight in weights.items():
                total -= weight * (logits[(row + offset) % 4] - logits.logsumexp(0)).item() / 4
        return total

    expected = {
        "origin_to_origin": cross_entropy(views[0], views[1], {0: 1.0}),
        "mix_to_origin": cross_entropy(mixed[1], views[0], dict.fromkeys(range(3), 1 / 3)),
        "mix_to_mix": cross_entropy(mixed[1], mixed[0], {d: (3 - abs(d)) / 9 for d in range(-2, 3)}),
    }
    for name, value in expected.items():
        assert getattr(losses, name).item() == pytest.approx(value, rel=1e-9), name


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_resnet", {"method.momentum": 0.9, "model.drop_path": 0.2}),
        pytest.param("resnet18", {**SIZE_64, "method.momentum": 0.9, "data.channels": 3}, marks=pytest.mark.slow),
        pytest.param("convnext_atto", {**SIZE_64, "method.mix_size": 16}, marks=pytest.mark.slow),
    ],
)
def test_a_run_resumes_bit_for_bit_and_is_evaluated(name: str, options: dict[str, Any], tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    pretrain(backbone_config(whole, name, max_steps=2, **options))
    for max_steps in (1, 2):
        pretrain(backbone_config(parts, name, max_steps=max_steps, **options), resume=parts.exists())
    assert_same_result(whole, parts)

    found = patchmix.knn(whole, k=(10,), data={"limit": 60}, run={"device": "cpu", "num_threads": 1})
    assert {"top1_k10", "random_init_top1_k10", "pixels_top1_k10"} <= found["metrics"].keys()
    assert name in patchmix.report(whole).read_text(encoding="utf-8")
    encoder = patchmix.load_encoder(whole)
    assert type(encoder) is type(timm.create_model(name))
    assert not encoder.training


def test_another_size_is_evaluated_where_the_network_takes_it(tmp_path: Path) -> None:
    crops = {"views.num_local_crops": 2, "views.local_size": 32}
    pretrain(backbone_config(tmp_path / "run", "test_convnext", max_steps=1, **SIZE_64, **crops))
    small = {"limit": 60, "image_size": 32}
    run = {"device": "cpu", "num_threads": 1}
    found = patchmix.knn(tmp_path / "run", k=(5,), data=small, run=run, baselines=False)
    assert found["settings"]["encoder"]["image_size"] == [32, 32]
    with pytest.raises(UserError, match=r"data.image_size = 8: .* takes images of 64 × 64 px only \("):
        patchmix.knn(tmp_path / "run", data={**small, "image_size": 8}, run=run, baselines=False)
    with pytest.raises(UserError, match="is a test_convnext, which has none"):
        patchmix.load_encoder(tmp_path / "run", num_heads=3)
