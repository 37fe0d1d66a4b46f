"""All pairs of images against plain lists of pairs, derivatives, and images drawn anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import Tensor

from patchmix.evaluation import pairs as module
from patchmix.evaluation.pairs import pair_similarity
from patchmix.evaluation.results import wilson_interval

NAMES = ("auc", "within_class", "between_class", "gap", "gap_in_sd")


def clusters(number: int, classes: int = 4, width: int = 8, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Features around the centres of their classes, some classes wider than others; two images a class at least."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(classes).repeat(2), torch.randint(0, classes, (number,), generator=generator)])
    noise = torch.randn(len(labels), width, generator=generator) * (0.5 + labels[:, None] / classes)
    return torch.randn(classes, width, generator=generator)[labels] + noise, labels


def of_weighted_pairs(features: Tensor, labels: Tensor, weights: Any = None) -> dict[str, float]:
    """The figures from a list of all pairs; image i counts `weights[i]` times."""
    unit = (features.double() / features.double().norm(dim=1, keepdim=True)).numpy()
    first, second = np.triu_indices(len(unit), 1)
    cosine = np.einsum("id,id->i", unit[first], unit[second])
    same = labels.numpy()[first] == labels.numpy()[second]
    weights = np.ones(len(unit)) if weights is None else weights
    of_pair = weights[first] * weights[second]
    within, between = (np.average(cosine[kind], weights=of_pair[kind]) for kind in (same, ~same))
    deviation = np.sqrt(np.average((cosine[~same] - between) ** 2, weights=of_pair[~same]))
    # Rounded, so that pairs that are equal but for the last digit are equal here too.
    auc = roc_auc_score(same, cosine.round(9), sample_weight=of_pair)
    return dict(zip(NAMES, (auc, within, between, within - between, (within - between) / deviation), strict=True))


@settings(max_examples=10, deadline=None)
@given(number=st.integers(0, 60), classes=st.integers(2, 6), blocks=st.integers(1, 4), seed=st.integers(0, 1000))
def test_figures_equal_a_list_of_all_pairs_for_any_blocks(number: int, classes: int, blocks: int, seed: int) -> None:
    features, labels = clusters(number, classes, seed=seed)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "BLOCK", len(labels) ** 2 // blocks)
        found = pair_similarity(features, labels)
    for name, expected in of_weighted_pairs(features, labels).items():
        assert getattr(found, name).value == pytest.approx(expected, abs=2e-5), name
    num_pairs = len(labels) * (len(labels) - 1) // 2
    assert int(found.same.sum() + found.other.sum()) == num_pairs


def test_pairs_that_are_equally_similar_count_half() -> None:
    corners = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0], [1.0, 1.0]])
    generator = torch.Generator().manual_seed(1)
    features = corners[torch.randint(0, 4, (80,), generator=generator)]
    labels = torch.randint(0, 3, (80,), generator=generator)
    found = pair_similarity(features, labels).auc.value
    assert found == pytest.approx(of_weighted_pairs(features, labels)["auc"], abs=1e-9)


def test_influences_are_the_derivatives_by_how_often_an_image_counts() -> None:
    features, labels = clusters(40)
    found = pair_similarity(features, labels)
    for index in (0, 7, 30):
        more, less = np.ones(len(labels)), np.ones(len(labels))
        more[index], less[index] = 1.001, 0.999
        above, below = (of_weighted_pairs(features, labels, weights) for weights in (more, less))
        for name in NAMES:
            slope = len(labels) * (above[name] - below[name]) / 0.002
            assert float(getattr(found, name).influence[index]) == pytest.approx(slope, rel=1e-3, abs=1e-4), name


def test_intervals_are_those_of_resampled_images() -> None:
    features, labels = clusters(90)
    found = pair_similarity(features, labels)
    generator = np.random.default_rng(0)
    size = len(labels)
    drawn = [
        of_weighted_pairs(features, labels, np.bincount(generator.integers(size, size=size), minlength=size) * 1.0)
        for _ in range(150)
    ]
    for name in NAMES:
        low, high = getattr(found, name).interval()
        expected = np.percentile([each[name] for each in drawn], [2.5, 97.5])
        assert high - low == pytest.approx(expected[1] - expected[0], rel=0.3), name
        assert (low + high) / 2 == pytest.approx(expected.mean(), abs=0.25 * (high - low)), name


def test_a_direction_that_all_features_share_moves_the_cosines_and_neither_auc_nor_gap_in_sd() -> None:
    features, labels = clusters(100)
    unit = torch.nn.functional.normalize(features, dim=1)
    plain, shifted = (
        pair_similarity(each, labels) for each in (unit, torch.nn.functional.pad(unit, (0, 1), value=3.0))
    )
    assert shifted.between_class.value > 0.85 > 0.1 > plain.between_class.value
    assert shifted.gap.value == pytest.approx(plain.gap.value / 10, rel=1e-4)
    assert shifted.auc.value == pytest.approx(plain.auc.value, abs=1e-5)
    assert shifted.gap_in_sd.value == pytest.approx(plain.gap_in_sd.value, rel=1e-4)
    assert shifted.gap_in_sd.interval() == pytest.approx(plain.gap_in_sd.interval(), rel=1e-3)


def test_length_and_precision_of_features_do_not_matter() -> None:
    features, labels = clusters(50)
    low = features.bfloat16()
    assert pair_similarity(low, labels).auc.value == pair_similarity(low.float() * 100, labels).auc.value


def test_classes_that_are_told_apart_by_every_pair_have_an_auc_of_one_and_wilsons_interval() -> None:
    labels = torch.arange(40) % 2
    features = torch.eye(2)[labels] + 0.01 * torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
    auc = pair_similarity(features, labels).auc
    assert auc.value == 1
    assert auc.interval() == pytest.approx([each / 100 for each in wilson_interval(40, 40)])


def test_collapsed_features_tell_nothing_apart() -> None:
    found = pair_similarity(torch.ones(12, 5), torch.arange(12) % 3)
    assert (found.auc.value, found.gap_in_sd) == (0.5, None)
    assert found.gap.value == pytest.approx(0, abs=1e-9)


def test_nearly_collapsed_features_keep_their_figures() -> None:
    features, labels = clusters(60)
    features = torch.nn.functional.pad(torch.nn.functional.normalize(features, dim=1), (0, 1), value=30.0)
    found, expected = pair_similarity(features, labels), of_weighted_pairs(features, labels)
    assert expected["between_class"] > 0.998
    assert found.gap_in_sd.value == pytest.approx(expected["gap_in_sd"], rel=1e-3)
    assert found.auc.value == pytest.approx(expected["auc"], abs=1e-3)


def test_the_same_features_differ_by_nothing_and_paired_intervals_are_narrower() -> None:
    features, labels = clusters(150)
    one = pair_similarity(features, labels).auc
    assert (one - one).interval() == (0, 0)
    noise = 0.2 * torch.randn(features.shape, generator=torch.Generator().manual_seed(1))
    difference = one - pair_similarity(features + noise, labels).auc
    widths = [high - low for low, high in (difference.interval(), one.interval())]
    assert widths[0] < 0.7 * widths[1]


@pytest.mark.parametrize("labels", [[0, 0, 0], [0, 1, 2], [4]])
def test_one_kind_of_pairs_alone_is_refused(labels: list[int]) -> None:
    with pytest.raises(ValueError, match="two images of one class, and two classes"):
        pair_similarity(torch.eye(3)[: len(labels)], torch.tensor(labels))
