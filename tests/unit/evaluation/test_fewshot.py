"""Draws of labelled images, and logistic regression on their features."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from patchmix.errors import UserError
from patchmix.evaluation.fewshot import draw_labelled, equalise, fewshot_accuracy, require_labels


@settings(max_examples=30, deadline=None)
@given(
    per_class=st.integers(1, 6),
    classes=st.integers(2, 5),
    seed=st.integers(0, 2**32 - 1),
    draw=st.integers(0, 9),
)
def test_a_draw_has_so_many_images_of_every_class_and_none_twice(
    per_class: int, classes: int, seed: int, draw: int
) -> None:
    labels = torch.arange(classes * 6) % classes
    drawn = draw_labelled(labels, classes, per_class, seed=seed, draw=draw)
    assert len(set(drawn.tolist())) == per_class * classes
    assert labels[torch.from_numpy(drawn)].bincount(minlength=classes).tolist() == [per_class] * classes
    again = draw_labelled(labels, classes, per_class, seed=seed, draw=draw)
    assert np.array_equal(drawn, again)


def test_draws_and_seeds_differ_and_leave_global_random_state_alone() -> None:
    labels = torch.arange(400) % 4
    np.random.seed(3)  # noqa: NPY002 - the legacy global state is what must not move
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    drawn = {tuple(draw_labelled(labels, 4, 10, seed=seed, draw=draw).tolist()) for seed in (0, 1) for draw in range(5)}
    assert len(drawn) == 10
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@settings(max_examples=20, deadline=None)
@given(scale=st.floats(1e-3, 1e3), shift=st.floats(-10, 10))
def test_equalised_features_ignore_scale_and_offset(scale: float, shift: float) -> None:
    features = torch.randn(40, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    train, test = equalise(features[:30] * scale + shift, features[30:] * scale + shift)
    expected_train, expected_test = equalise(features[:30], features[30:])
    torch.testing.assert_close(train, expected_train, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(test, expected_test, rtol=1e-6, atol=1e-6)
    assert train.var(dim=0, correction=0).mean() == pytest.approx(1)


def test_equalising_keeps_the_proportions_of_the_dimensions() -> None:
    features = torch.randn(200, 2) * torch.tensor([10.0, 0.1])
    train, _ = equalise(features, features)
    ratio = features.std(dim=0)[0] / features.std(dim=0)[1]
    torch.testing.assert_close(train.std(dim=0)[0] / train.std(dim=0)[1], ratio)


def test_collapsed_features_are_no_division_by_zero() -> None:
    train, test = equalise(torch.ones(5, 3), torch.ones(2, 3))
    assert torch.equal(train, torch.zeros(5, 3))
    assert torch.equal(test, torch.zeros(2, 3))


def test_accuracy_is_that_of_scikit_learns_logistic_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = torch.randn(60, 5, generator=generator) + 1.5 * torch.eye(3, 5)[labels]
    model = LogisticRegression(max_iter=2000).fit(features[:30].double().numpy(), labels[:30].numpy())
    expected = 100 * model.score(features[30:].double().numpy(), labels[30:].numpy())
    assert fewshot_accuracy(features[:30], labels[:30], features[30:], labels[30:]) == pytest.approx(expected)


def test_classes_with_too_few_images_are_named_with_what_is_possible() -> None:
    with pytest.raises(UserError, match=r"labels_per_class = 3 .*: cat \(2\), newt \(0\); at most 0 is possible"):
        require_labels(torch.tensor([0, 0, 1, 1, 1]), ("cat", "dog", "newt"), 3)
