"""What a step costs: the published units, and what really passes through the encoders."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from tests.methods import BATCH, TEMPERATURE, config_of, model_of, plans, views
from torch import Tensor

from patchmix.config import DataConfig
from patchmix.contrasts import METHODS
from patchmix.cost import forward_units
from patchmix.mixing import MixPlan, Plan


@pytest.mark.parametrize(
    ("name", "momentum", "units"),
    [
        ("patchmix", 0.99, 9),
        ("patchmix", None, 8),
        ("moco-v3", 0.99, 8),
        ("moco-v3", None, 6),
        ("patchmix-lean", 0.99, 11),
        ("patchmix-lean", None, 9),
        ("simclr", None, 6),
        ("simclr", 0.99, 6),
        ("sdmp", 0.99, 12),
        ("unmix", 0.99, 12),
    ],
)
def test_cost_in_forward_passes(name: str, momentum: float | None, units: float) -> None:
    assert forward_units(config_of(name, momentum=momentum)) == units


def test_local_crops_cost_by_their_patches() -> None:
    share = 4 / 16
    assert forward_units(config_of("patchmix", num_local_crops=2)) == pytest.approx(9 + 3 * 2 * 2 * share)
    assert forward_units(config_of("moco-v3", num_local_crops=2)) == pytest.approx(8 + 3 * 2 * share)
    assert forward_units(config_of("patchmix-lean", num_local_crops=2)) == pytest.approx(8 + 3 * 2 * share)
    unknown = dataclasses.replace(config_of("patchmix", num_local_crops=1), data=DataConfig())
    with pytest.raises(ValueError, match="whose size is not known"):
        forward_units(unknown)
    assert forward_units(unknown, (16, 16)) == pytest.approx(9 + 6 * share)


@pytest.mark.parametrize("options", [{}, {"num_local_crops": 2}, {"symmetric": True}])
@pytest.mark.parametrize("momentum", [0.9, None])
@pytest.mark.parametrize("name", METHODS)
def test_cost_is_what_a_step_does(name: str, momentum: float | None, options: dict[str, Any]) -> None:
    """Images that pass through an encoder, three for each with gradient, crops by their area."""
    options, seen, crops = {**options, "momentum": momentum}, 0.0, options.get("num_local_crops", 0)
    model = model_of(name, **options)

    def count(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal seen
        area = inputs[0].shape[-1] ** 2 / 16**2
        seen += len(inputs[0]) * area * (3 if output.requires_grad else 1)

    for encoder in (model.encoder, model.momentum_encoder):
        if encoder is not None:
            encoder.register_forward_hook(count)
    local_plans: list[Plan] = [MixPlan.draw(4, 2, 4, torch.Generator().manual_seed(n)) for n in range(crops)]
    model(views(), plans(), TEMPERATURE, list(views(8))[:crops], local_plans)
    assert seen / BATCH == pytest.approx(forward_units(config_of(name, **options)))
