"""The watch over a run's health speaks when it should, and only then."""

from __future__ import annotations

import math

import pytest

from patchmix.watch import WINDOW, collapse, loss_at_chance, patience

CHANCE = math.log(64)


def test_a_loss_at_guessing_after_the_warm_up_is_named() -> None:
    text = loss_at_chance([CHANCE * 1.01] * WINDOW, 64, step=300, warmup_steps=250)
    assert text is not None
    assert "ln 64" in text
    assert "optim.lr" in text


@pytest.mark.parametrize(("loss", "step"), [(CHANCE * 0.95, 300), (CHANCE * 1.05, 300), (CHANCE, 249), (math.nan, 300)])
def test_a_loss_off_guessing_or_still_warming_up_is_not(loss: float, step: int) -> None:
    assert loss_at_chance([loss] * WINDOW, 64, step, warmup_steps=250) is None


def test_too_short_a_history_says_nothing() -> None:
    assert loss_at_chance([CHANCE] * (WINDOW - 1), 64, step=300, warmup_steps=0) is None


def test_a_loss_that_has_left_guessing_says_nothing() -> None:
    losses = [CHANCE] * 500 + [CHANCE * 0.9] * WINDOW
    assert loss_at_chance(losses, 64, step=550, warmup_steps=0) is None


@pytest.mark.parametrize(("warmup", "expected"), [(0, 200), (620, 620), (9700, 2000)])
def test_patience_ends_with_the_warm_up_within_bounds(warmup: int, expected: int) -> None:
    assert patience(warmup) == expected


def test_collapse_is_named_after_two_evaluations_of_it() -> None:
    dead = {"step": 10, "feature_std": 0.001, "rankme": 1.2}
    alive = {"step": 5, "feature_std": 0.6, "rankme": 20.0}
    assert collapse([dead]) is None
    assert collapse([alive, dead]) is None
    assert collapse([dead, alive]) is None
    text = collapse([alive, dead, dead])
    assert text is not None
    assert text.startswith("step 10: the features collapse")


def test_a_single_direction_is_collapse_too() -> None:
    line = {"step": 10, "feature_std": 0.2, "rankme": 1.01}
    assert "effective rank" in str(collapse([line, line]))


def test_missing_diagnostics_are_no_collapse() -> None:
    assert collapse([{"step": 1}, {"step": 2}]) is None
