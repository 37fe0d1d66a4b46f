"""Label-free diagnostics against plain loops and cases whose value is known."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchmix.evaluation.diagnostics import alignment, feature_std, rankme, uniformity


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_rankme_of_orthogonal_features_is_their_number() -> None:
    assert rankme(torch.eye(12)) == pytest.approx(12, rel=1e-4)


def test_rankme_of_identical_features_is_one_and_of_zeros_is_zero() -> None:
    assert rankme(torch.ones(50, 16)) == pytest.approx(1, rel=1e-4)
    assert rankme(torch.zeros(5, 3)) == 0


def test_rankme_matches_a_plain_loop() -> None:
    features = drawn(30, 7)
    singular = torch.linalg.svd(features).S.tolist()
    shares = [value / sum(singular) + 1e-7 for value in singular]
    assert rankme(features) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-12)


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 100))
def test_rankme_ignores_the_scale_of_the_features(scale: float, seed: int) -> None:
    features = drawn(20, 6, seed=seed)
    assert rankme(features * scale) == pytest.approx(rankme(features), rel=1e-9)


def test_alignment_matches_a_plain_loop() -> None:
    first, second = drawn(9, 5), drawn(9, 5, seed=1)
    total = 0.0
    for a, b in zip(first, second, strict=True):
        total += float(((a / a.norm() - b / b.norm()) ** 2).sum())
    assert alignment(first, second) == pytest.approx(total / 9, rel=1e-12)


def test_alignment_is_zero_for_equal_and_four_for_opposite_features() -> None:
    features = drawn(9, 5)
    assert alignment(features, 3 * features) == pytest.approx(0, abs=1e-15)
    assert alignment(features, -features) == pytest.approx(4)


@pytest.mark.parametrize("chunk_size", [1, 4, 11, 100])
def test_uniformity_matches_a_plain_loop_for_any_chunk(chunk_size: int) -> None:
    features = drawn(11, 4)
    unit = [row / row.norm() for row in features]
    pairs = [math.exp(-2 * float(((a - b) ** 2).sum())) for i, a in enumerate(unit) for b in unit[:i]]
    expected = math.log(sum(pairs) / len(pairs))
    assert uniformity(features, chunk_size=chunk_size) == pytest.approx(expected, rel=1e-12)


def test_uniformity_is_zero_when_collapsed_and_undefined_for_one_image() -> None:
    assert uniformity(torch.ones(6, 3)) == pytest.approx(0, abs=1e-12)
    assert math.isnan(uniformity(torch.ones(1, 3)))


def test_feature_std_is_zero_when_collapsed_and_one_when_isotropic() -> None:
    assert feature_std(torch.ones(6, 3) * torch.arange(1, 7)[:, None]) == pytest.approx(0, abs=1e-12)
    assert feature_std(drawn(20_000, 8)) == pytest.approx(1, rel=0.01)


def test_non_finite_features_give_nan_instead_of_an_error() -> None:
    features = drawn(6, 4)
    features[2, 1] = math.nan
    assert math.isnan(rankme(features))
    assert math.isnan(uniformity(features))
    assert math.isnan(feature_std(features))


def test_half_precision_features_are_measured_in_double() -> None:
    features = drawn(64, 16).bfloat16()
    assert rankme(features) == rankme(features.double())
    assert uniformity(features) == uniformity(features.double())
