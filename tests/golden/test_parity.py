"""Parity with the public reference implementation, in float64 (README.md beside this file)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor

from patchmix.config import OptimConfig
from patchmix.interop.official import load_encoder, load_pretraining
from patchmix.method import ContrastiveModel
from patchmix.mixing import MixPlan
from patchmix.optim import apply_settings, create_optimizer
from patchmix.schedules import StepSettings
from patchmix.targets import mix_to_mix, mix_to_origin

HERE = Path(__file__).parent
RUNS = {
    "training_step": "official_layout_tiny.pth",
    "no_momentum": "official_layout_no_momentum.pth",
    "multi_crop": "official_layout_multi_crop.pth",
}
OUR_NAMES = {
    "encoder": "base_encoder",
    "projector": "base_encoder.head",
    "momentum_encoder": "momentum_encoder",
    "momentum_projector": "momentum_encoder.head",
    "predictor": "predictor",
}
# The loss does not depend on these: the softmax of attention cancels a shift of all keys, and the
# projector's BatchNorm a shift of all features. Their gradients are rounding noise (1e-16), which AdamW
# divides by itself plus 1e-8: they move by some 1e-9 a step in a direction that means nothing.
WITHOUT_EFFECT = ("encoder.norm.bias", "attn.qkv.bias")


def load(name: str) -> NpzFile:
    return np.load(HERE / f"{name}.npz")


@pytest.mark.parametrize("case", ["m2", "m3_remainder", "m2_smoothing_rank1of2"])
def test_mixing_and_targets_equal_the_reference(case: str) -> None:
    golden = load("mixing")
    patch_size, num_mix, rank, world_size = golden[f"{case}/params"].tolist()
    images = torch.from_numpy(golden[f"{case}/images"])
    plan = MixPlan(torch.from_numpy(golden[f"{case}/permutation"]), num_mix, patch_size)
    assert torch.equal(plan.mix(images), torch.from_numpy(golden[f"{case}/mixed"]))
    options: dict[str, Any] = {
        "rank": rank,
        "world_size": world_size,
        "smoothing": float(golden[f"{case}/smoothing"]),
    }
    for name, target in (("mix_to_origin", mix_to_origin), ("mix_to_mix", mix_to_mix)):
        found = target(len(images), num_mix, **options)
        expected = torch.from_numpy(golden[f"{case}/{name}"])
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("run", RUNS)
def test_training_steps_equal_the_reference(run: str) -> None:
    golden = load(run)
    tensor = lambda key: torch.from_numpy(golden[key])  # noqa: E731
    _, patch_size, _, num_heads, _, _, _, _, num_mix, num_steps = golden["hparams"][:10].tolist()
    temperature, momentum, weight_decay, lr = golden["hparams_float"].tolist()
    model = load_pretraining(HERE / RUNS[run], num_heads=num_heads)
    assert model.training
    assert (model.momentum_encoder is None) == (momentum < 0)
    optimizer = create_optimizer(model, OptimConfig())
    num_crops = int(golden["hparams"][11]) if run == "multi_crop" else 0
    for step in range(num_steps):
        apply_settings(optimizer, StepSettings(lr, weight_decay, momentum, temperature))
        model.update_momentum_encoder(momentum)
        losses = model(
            views=(tensor(f"step{step}/view1"), tensor(f"step{step}/view2")),
            plans=tuple(MixPlan(tensor(f"step{step}/perm{view}"), num_mix, patch_size) for view in (1, 2)),
            temperature=temperature,
            local_views=[tensor(f"step{step}/local{crop}") for crop in range(num_crops)],
            local_plans=[
                MixPlan(tensor(f"step{step}/local_perm{crop}"), num_mix, patch_size) for crop in range(num_crops)
            ],
        )
        optimizer.zero_grad()
        losses.total.backward()
        gradients = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        found = {
            "loss_origin_to_origin": losses.origin_to_origin,
            "loss_mix_to_origin_half": losses.mix_to_origin / 2,
            "loss_mix_to_mix_half": losses.mix_to_mix / 2,
            "grad_norm": torch.nn.utils.get_total_norm(gradients),
        }
        if num_crops:
            found |= {"loss_local": losses.local, "loss_local_mix": losses.local_mix}
        if f"step{step}/loss_total" in golden:
            found["loss_total"] = losses.total
        for name, value in found.items():
            assert value.dtype == torch.float64
            assert value.item() == pytest.approx(float(golden[f"step{step}/{name}"]), rel=1e-9), (step, name)
        optimizer.step()
    assert_same_parameters(model, golden)


def assert_same_parameters(model: ContrastiveModel, golden: NpzFile) -> None:
    for name, value in model.state_dict().items():
        part, rest = name.split(".", 1)
        expected = torch.from_numpy(golden[f"final/{OUR_NAMES[part]}.{rest}"])
        without_effect = any(end in f"{part}.{rest}" for end in WITHOUT_EFFECT)
        # Running statistics of the projector contain the features' shift, which is without effect as well.
        atol = 1e-8 if without_effect or "running" in name else 1e-12
        torch.testing.assert_close(value, expected, rtol=1e-9, atol=atol, msg=lambda text, n=name: f"{n}: {text}")


def test_queries_and_keys_equal_the_reference() -> None:
    golden = load("training_step")
    model = load_pretraining(HERE / RUNS["training_step"], num_heads=3)
    model.update_momentum_encoder(float(golden["hparams_float"][1]))
    view1, view2 = (torch.from_numpy(golden[f"step0/view{number}"]) for number in (1, 2))
    plans = [MixPlan(torch.from_numpy(golden[f"step0/perm{number}"]), 2, 4) for number in (1, 2)]

    def query(images: Tensor) -> Tensor:
        return model.predictor(model.projector(model.encoder(images)))

    found = {
        "k1": model.keys_of(view1),
        "k2": model.keys_of(view2),
        "mixed_k1": model.keys_of(plans[0].mix(view1)),
        "q1": query(view1),
        "mixed_q2": query(plans[1].mix(view2)),
    }
    for name, value in found.items():
        torch.testing.assert_close(value.detach(), torch.from_numpy(golden[f"step0/{name}"]), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("branch", ["momentum", "base"])
@pytest.mark.parametrize(
    ("run", "images", "features"),
    [
        ("training_step", "features/images", "features/cls"),
        ("multi_crop", "features/local_images", "features/local_cls"),
    ],
)
def test_features_equal_the_reference_at_the_trained_and_at_another_size(
    run: str, images: str, features: str, branch: Any
) -> None:
    golden = load(run)
    encoder = load_encoder(HERE / RUNS[run], num_heads=3, branch=branch)
    assert not encoder.training
    found = encoder(torch.from_numpy(golden[images])).detach()
    torch.testing.assert_close(found, torch.from_numpy(golden[features]), rtol=1e-9, atol=1e-12)
