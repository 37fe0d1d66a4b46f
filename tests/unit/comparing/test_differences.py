"""Means, paired differences and what a study could have seen, against scipy, by hand and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from patchmix.comparing.differences import describe, least_difference, paired


def test_a_description_by_hand() -> None:
    assert describe([1.0, 2.0, 6.0]) == {
        "n": 3,
        "mean": 3.0,
        "std": pytest.approx(7**0.5),
        "lowest": 1.0,
        "highest": 6.0,
    }
    assert describe([5.0])["std"] is None


def test_differences_are_paired_by_seed() -> None:
    found = paired({0: 44.0, 1: 45.5, 2: 43.0, 7: 99.0}, {0: 43.0, 1: 44.0, 2: 43.5, 8: 0.0})
    assert found is not None
    assert found["seeds"] == [0, 1, 2]
    assert found["mean"] == pytest.approx(2 / 3)
    # Differences 1, 1.5, -0.5: standard deviation 1.0408, t(0.975, 2) = 4.3027.
    assert found["std"] == pytest.approx(1.040833)
    assert found["interval95"] == pytest.approx([2 / 3 - 2.5856, 2 / 3 + 2.5856], abs=1e-3)


def test_the_interval_is_that_of_the_paired_t_test() -> None:
    generator = np.random.default_rng(0)
    one, two = generator.normal(90, 1, 6), generator.normal(91, 1, 6)
    found = paired(dict(enumerate(one.tolist())), dict(enumerate(two.tolist())))
    expected = stats.ttest_rel(one, two).confidence_interval(0.95)
    assert found is not None
    assert found["interval95"] == pytest.approx([expected.low, expected.high])


def test_one_pair_has_no_interval_and_none_has_no_difference() -> None:
    assert paired({3: 2.0}, {3: 1.5}) == {
        "n": 1,
        "seeds": [3],
        "mean": 0.5,
        "std": None,
        "interval95": None,
        "detectable": None,
    }
    assert paired({3: 2.0}, {4: 1.5}) is None


def test_equal_differences_leave_no_doubt() -> None:
    found = paired({0: 2.0, 1: 3.0}, {0: 1.0, 1: 2.0})
    assert found is not None
    assert found["interval95"] == [1.0, 1.0]
    assert found["detectable"] == 0.0


@pytest.mark.parametrize("pairs", [2, 3, 5, 10])
def test_the_least_difference_is_found_in_four_of_five_studies(pairs: int) -> None:
    shift = least_difference(pairs)
    studies = np.random.default_rng(pairs).normal(shift, 1.0, (40_000, pairs))
    significant = stats.ttest_1samp(studies, 0.0, axis=1).pvalue < 0.05
    assert significant.mean() == pytest.approx(0.8, abs=0.01)


def test_many_pairs_need_what_the_normal_distribution_says() -> None:
    normal = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / 1000**0.5
    assert least_difference(1000) == pytest.approx(normal, rel=0.01)
