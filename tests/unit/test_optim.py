"""Parameter groups, settings, and the optimiser's state by name."""

from __future__ import annotations

import torch
from tests.models import small_model

from patchmix.config import OptimConfig
from patchmix.optim import apply_settings, create_optimizer, load_optimizer_tensors, optimizer_tensors
from patchmix.schedules import StepSettings


def test_biases_and_one_dimensional_parameters_are_not_decayed_tokens_and_positions_are() -> None:
    model = small_model(momentum=True)
    names = {parameter: name for name, parameter in model.named_parameters()}
    decayed, not_decayed = ({names[p] for p in group["params"]} for group in model.parameter_groups(0.1))
    assert {"encoder.cls_token", "encoder.pos_embed", "encoder.patch_embed.proj.weight"} <= decayed
    assert all(name.endswith(".weight") or "token" in name or "pos_embed" in name for name in decayed)
    assert {"encoder.norm.weight", "encoder.patch_embed.proj.bias", "projector.1.weight"} <= not_decayed
    assert not any(name.startswith("momentum") for name in decayed | not_decayed)
    assert [group["weight_decay"] for group in model.parameter_groups(0.1)] == [0.1, 0.0]


def test_settings_reach_the_right_groups() -> None:
    optimizer = create_optimizer(small_model(), OptimConfig())
    apply_settings(optimizer, StepSettings(lr=0.5, weight_decay=0.3, momentum=None, temperature=0.2))
    assert [(group["lr"], group["weight_decay"]) for group in optimizer.param_groups] == [(0.5, 0.3), (0.5, 0.0)]
    assert [group["betas"] for group in optimizer.param_groups] == [(0.9, 0.999)] * 2


def test_state_goes_out_and_in_by_parameter_name() -> None:
    first, second = small_model(), small_model()
    optimizers = [create_optimizer(model, OptimConfig()) for model in (first, second)]
    for parameter in first.parameters():
        parameter.grad = torch.full_like(parameter, 0.1)
    optimizers[0].step()
    tensors = optimizer_tensors(first, optimizers[0])
    assert "state.encoder.norm.weight.exp_avg_sq" in tensors
    load_optimizer_tensors(second, optimizers[1], tensors)
    again = optimizer_tensors(second, optimizers[1])
    assert tensors.keys() == again.keys()
    assert all(torch.equal(value, again[name]) for name, value in tensors.items())


def test_asking_for_the_state_before_the_first_step_does_not_count_as_one() -> None:
    model = small_model()
    optimizer = create_optimizer(model, OptimConfig())
    assert optimizer_tensors(model, optimizer) == {}
    load_optimizer_tensors(model, optimizer, {})
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    assert {int(state["step"]) for state in optimizer.state.values()} == {1}
