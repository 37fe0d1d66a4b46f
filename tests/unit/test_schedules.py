"""Schedules at their ends and in between."""

from __future__ import annotations

import dataclasses
import math

import pytest

from patchmix.config import Config, MethodConfig, OptimConfig
from patchmix.schedules import cosine, num_warmup_steps, settings_at

CONFIG = Config(
    optim=OptimConfig(
        epochs=10, warmup_epochs=2, batch_size=512, lr=1e-3, final_lr=1e-6, weight_decay=0.04, final_weight_decay=0.4
    ),
    method=MethodConfig(momentum=0.99, momentum_final=1.0, temperature=0.3),
)
STEPS_PER_EPOCH = 5
LAST = 10 * STEPS_PER_EPOCH - 1


def test_first_step_has_no_learning_rate_and_the_starting_values() -> None:
    assert settings_at(0, CONFIG, STEPS_PER_EPOCH) == pytest.approx((0.0, 0.04, 0.99, 0.3))


def test_warm_up_is_linear_and_ends_at_the_peak_for_the_batch_size() -> None:
    lrs = [settings_at(step, CONFIG, STEPS_PER_EPOCH).lr for step in range(11)]
    assert lrs == pytest.approx([2e-3 * step / 10 for step in range(11)])


def test_last_step_has_the_final_values() -> None:
    last = settings_at(LAST, CONFIG, STEPS_PER_EPOCH)
    assert last.lr == pytest.approx(1e-6)
    assert last.weight_decay == pytest.approx(0.4)
    assert last.momentum == 1.0


def test_momentum_changes_every_step_not_every_epoch() -> None:
    values = [settings_at(step, CONFIG, STEPS_PER_EPOCH).momentum for step in range(LAST + 1)]
    assert len(set(values)) == len(values)
    assert values == sorted(values, key=float)


def test_no_momentum_encoder_no_momentum() -> None:
    config = dataclasses.replace(CONFIG, method=MethodConfig(momentum=None))
    assert settings_at(3, config, STEPS_PER_EPOCH).momentum is None


def test_warm_up_takes_at_most_half_the_run() -> None:
    optim = dataclasses.replace(CONFIG.optim, warmup_epochs=100.0)
    config = dataclasses.replace(CONFIG, optim=optim)
    assert num_warmup_steps(config, STEPS_PER_EPOCH) == 25
    assert settings_at(25, config, STEPS_PER_EPOCH).lr == pytest.approx(2e-3)


def test_cosine_passes_the_middle_half_way_and_ends_in_one_step_too() -> None:
    assert cosine(1.0, 0.0, 5, 11) == pytest.approx(0.5)
    assert cosine(1.0, 0.0, 0, 1) == 0.0
    assert cosine(1.0, 0.0, 99, 11) == 0.0


def test_the_papers_values_for_cifar_vit_tiny() -> None:
    """method.md, "Pre-training recipes": lr 2e-3 per 256, batch 512, 100 of 800 epochs warm-up."""
    optim = OptimConfig(
        epochs=800, warmup_epochs=100, batch_size=512, lr=2e-3, weight_decay=0.02, final_weight_decay=0.2
    )
    config = Config(optim=optim)
    per_epoch = 50000 // 512
    assert settings_at(100 * per_epoch, config, per_epoch).lr == pytest.approx(4e-3)
    middle = settings_at(450 * per_epoch, config, per_epoch)
    assert math.isclose(middle.lr, (4e-3 + 1e-6) / 2, rel_tol=1e-3)
