"""The plain opponent of the benchmarks: it computes what this package computes, or comparing speeds means nothing."""

from __future__ import annotations

import dataclasses
import sys
from typing import Any

import pytest
import torch
from tests.conftest import REPOSITORY
from tests.models import small_spec

from patchmix.config import Config, MethodConfig, ModelConfig
from patchmix.method import ContrastiveModel, build_model
from patchmix.mixing import MixPlan

SPEC = small_spec()


@pytest.fixture
def plain_step(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(sys, "path", [str(REPOSITORY / "benchmarks"), *sys.path])
    from plain import step

    return step.PlainStep


def settings(**method: Any) -> Config:
    model = ModelConfig(drop_path=0.0, projector_width=32, projection_size=8)
    return Config(model=model, method=MethodConfig(**method))


def parts(model: ContrastiveModel) -> dict[str, torch.nn.Module]:
    return {"encoder": model.encoder, "projector": model.projector, "predictor": model.predictor}


@pytest.mark.parametrize("crops", [0, 2])
@pytest.mark.parametrize("method", [{"momentum": 0.9}, {"momentum": None}, {"momentum": 0.9, "smoothing": 0.1}])
@pytest.mark.parametrize("num_mix", [1, 2, 3])
def test_loss_and_gradients_are_ours(plain_step: Any, num_mix: int, method: dict[str, Any], crops: int) -> None:
    config = settings(num_mix=num_mix, **method)
    ours = build_model(config, SPEC)
    plain = plain_step(config, SPEC)
    plain.load(parts(ours))
    ours, plain.model = ours.double(), plain.model.double()
    generator = torch.Generator().manual_seed(0)

    def images(size: int) -> torch.Tensor:
        return torch.randn(6, 3, size, size, generator=generator, dtype=torch.float64)

    views, plans = (images(16), images(16)), [MixPlan.draw(16, num_mix, 4, generator) for _ in range(2)]
    local, local_plans = (
        [images(8) for _ in range(crops)],
        [MixPlan.draw(4, num_mix, 4, generator) for _ in range(crops)],
    )
    loss = plain.loss(views, [p.permutation for p in plans], local, [p.permutation for p in local_plans])
    total = ours(views, tuple(plans), config.method.temperature, local, local_plans).total
    loss.backward()
    total.backward()
    # The plain targets are made in float32: 1/M is not exact there.
    torch.testing.assert_close(loss, total, rtol=1e-6, atol=1e-7)
    for name, part in parts(ours).items():
        for (key, expected), found in zip(
            part.named_parameters(), getattr(plain.model, name).parameters(), strict=True
        ):
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-7, msg=f"{name}.{key}")


def test_whole_steps_train(plain_step: Any) -> None:
    config = settings(momentum=0.9)
    config = dataclasses.replace(config, optim=dataclasses.replace(config.optim, lr=0.05))
    torch.manual_seed(0)
    step = plain_step(config, SPEC)
    views = torch.randint(0, 256, (2, 8, 3, 16, 16), dtype=torch.uint8).unbind()
    before = step.model.momentum_projector[0].weight.clone()
    losses = [step(views) for _ in range(12)]
    assert losses[-1] < losses[0] - 0.1
    assert not torch.equal(before, step.model.momentum_projector[0].weight)
