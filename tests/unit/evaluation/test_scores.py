"""Accuracies, their intervals, and what a result says per class."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import bootstrap
from torch import Tensor

from patchmix.evaluation import scores as module
from patchmix.evaluation.results import spread, wilson_interval
from patchmix.evaluation.scores import bootstrap_interval, interval_over_draws, per_class


def right(count: int, total: int) -> Tensor:
    return torch.arange(total) < count


def test_bootstrap_interval_equals_scipys_percentiles() -> None:
    values = torch.rand(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 2
    found = bootstrap_interval(values)
    reference = bootstrap(
        (values.numpy(),), np.mean, method="percentile", n_resamples=20_000, rng=np.random.default_rng(1)
    ).confidence_interval
    assert found == pytest.approx((100 * reference.low, 100 * reference.high), abs=0.3)


@pytest.mark.parametrize("count", [0, 50])
def test_where_all_or_none_are_right_the_interval_is_wilsons(count: int) -> None:
    assert bootstrap_interval(right(count, 50)) == wilson_interval(count, 50)


@settings(max_examples=30, deadline=None)
@given(total=st.integers(20, 3000), share=st.floats(0.1, 0.9))
def test_bootstrap_and_wilson_are_near_each_other_away_from_the_ends(total: int, share: float) -> None:
    count = round(share * total)
    assert bootstrap_interval(right(count, total)) == pytest.approx(
        wilson_interval(count, total), abs=250 / total + 0.3
    )


def test_many_distinct_scores_are_resampled_in_bounded_blocks_with_the_same_result(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    values = torch.rand(300, generator=torch.Generator().manual_seed(0))
    whole = bootstrap_interval(values)
    monkeypatch.setattr(module, "MOST_DRAWN", 1000)
    assert bootstrap_interval(values) == pytest.approx(whole, abs=1e-9)


def test_counting_scores_and_drawing_images_give_the_same_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    values = torch.randint(0, 6, (400,), generator=torch.Generator().manual_seed(0)) / 5
    counted = bootstrap_interval(values)
    monkeypatch.setattr(module, "FEW_SCORES", 0)
    assert bootstrap_interval(values) == pytest.approx(counted, abs=0.5)


def test_intervals_over_draws_are_wider_than_either_uncertainty_alone() -> None:
    # The first 730 images are always right, so that the draws differ in few.
    draws = [right(count, 1000) for count in (740, 760, 750, 770, 730)]
    low, high = interval_over_draws(draws)
    labels = 2.776 * spread([74.0, 76.0, 75.0, 77.0, 73.0]) / math.sqrt(5)
    images = bootstrap_interval(torch.stack(draws).double().mean(dim=0))
    assert low < images[0] < images[1] < high
    assert high - low > 2 * labels
    assert high - 75 == pytest.approx(math.hypot(images[1] - 75, labels), abs=1e-3)


def test_intervals_over_draws_cover_the_truth_as_often_as_they_say() -> None:
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(400):
        chance = np.where(generator.random(300) < 0.3, 0.5, 0.9)  # which test images were sampled
        skill = generator.normal(0, 0.02, (5, 1))  # which labels were drawn
        draws = torch.from_numpy(generator.random((5, 300)) < chance + skill)
        low, high = interval_over_draws(list(draws))
        covered += low <= 78 <= high
    assert 0.93 <= covered / 400 <= 1


def test_one_draw_has_the_interval_of_its_test_images() -> None:
    assert interval_over_draws([right(40, 50)]) == pytest.approx(bootstrap_interval(right(40, 50)))


def test_the_confusion_matrix_has_a_row_for_each_true_class() -> None:
    found = per_class(torch.tensor([0, 1, 1, 0]), torch.tensor([0, 0, 1, 1]), ("cat", "dog", "newt"))
    assert found["confusion_matrix"] == [[1, 1, 0], [1, 1, 0], [0, 0, 0]]
    assert found["num_images"] == 4
    assert [each["top1"] for each in found["per_class"]] == [50, 50, None]
