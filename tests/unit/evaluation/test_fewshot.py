"""Amounts and draws of labelled images, and logistic regression on their features."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from patchmix.config import DataConfig, FewshotConfig, FinetuneConfig
from patchmix.errors import UserError
from patchmix.evaluation import fewshot as module
from patchmix.evaluation.few_labels import Amount, choose_amounts, draw_labelled
from patchmix.evaluation.fewshot import enough_epochs, predict_logistic
from patchmix.evaluation.logistic import equalise
from patchmix.models.loading import LoadedEncoder


@settings(max_examples=30, deadline=None)
@given(
    each_class=st.lists(st.integers(1, 6), min_size=2, max_size=5),
    seed=st.integers(0, 2**32 - 1),
    draw=st.integers(0, 9),
)
def test_a_draw_has_so_many_images_of_every_class_and_none_twice(each_class: list[int], seed: int, draw: int) -> None:
    classes = len(each_class)
    labels = torch.arange(classes * 6) % classes
    drawn = draw_labelled(labels, each_class, seed=seed, draw=draw)
    assert len(set(drawn.tolist())) == sum(each_class)
    assert labels[torch.from_numpy(drawn)].bincount(minlength=classes).tolist() == each_class
    again = draw_labelled(labels, each_class, seed=seed, draw=draw)
    assert np.array_equal(drawn, again)


def test_draws_and_seeds_differ_and_leave_global_random_state_alone() -> None:
    labels = torch.arange(400) % 4
    np.random.seed(3)  # noqa: NPY002 - the legacy global state is what must not move
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    drawn = {
        tuple(draw_labelled(labels, [10] * 4, seed=seed, draw=draw).tolist()) for seed in (0, 1) for draw in range(5)
    }
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


def test_predictions_are_those_of_scikit_learns_logistic_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = torch.randn(60, 5, generator=generator) + 1.5 * torch.eye(3, 5)[labels]
    model = LogisticRegression(max_iter=2000).fit(features[:30].double().numpy(), labels[:30].numpy())
    predicted, converged = predict_logistic(features[:30], labels[:30], features[30:])
    assert predicted.tolist() == model.predict(features[30:].double().numpy()).tolist()
    assert converged


def test_a_fit_that_stops_early_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ITERATIONS", 1)
    features = torch.randn(30, 5, generator=torch.Generator().manual_seed(0))
    _, converged = predict_logistic(features, torch.arange(30) % 3, features)
    assert not converged


def chosen(labels: torch.Tensor, **options: Any) -> tuple[list[str], list[str]]:
    config = FewshotConfig(checkpoint="x", **options)
    classes = ("cat", "dog", "newt")[: int(labels.max()) + 1]
    return tuple([amount.name for amount in found] for found in choose_amounts(labels, classes, config))


def test_usual_amounts_that_some_class_cannot_give_are_left_out() -> None:
    labels = torch.arange(14) % 2
    assert chosen(labels) == (["1_per_class", "5_per_class"], ["10_per_class"])
    assert chosen(torch.arange(20) % 2) == (["1_per_class", "5_per_class", "10_per_class"], [])


def test_shares_alone_are_measured_alone_and_beside_amounts_that_are_asked_for() -> None:
    labels = torch.arange(40) % 2
    assert chosen(labels, percent=(1.0, 12.5)) == (["1_percent", "12.5_percent"], [])
    assert chosen(labels, percent=(10.0,), labels_per_class=(2, 2)) == (["2_per_class", "10_percent"], [])


def test_a_class_without_any_image_is_none_to_learn() -> None:
    labels = torch.tensor([0, 2] * 10)
    classes = ("cat", "dog", "newt", "owl")
    config = FewshotConfig(checkpoint="x", labels_per_class=(10,), percent=(10.0,))
    amounts, left_out = choose_amounts(labels, classes, config)
    assert ([amount.name for amount in amounts], left_out) == (["10_per_class", "10_percent"], [])
    for amount, each in zip(amounts, (10, 1), strict=True):
        of_each_class = amount.of_each_class(labels.bincount(minlength=4).tolist())
        assert of_each_class == [each, 0, each, 0]
        assert len(draw_labelled(labels, of_each_class, seed=0, draw=0)) == 2 * each
    config = FewshotConfig(checkpoint="x", labels_per_class=(11,))
    with pytest.raises(UserError, match=r": cat \(10\), newt \(10\); at most 10 is possible"):
        choose_amounts(labels, classes, config)


@pytest.mark.parametrize(("name", "num_images", "epochs"), [("imagenet", 2000, 200), ("folder", 2000, 100)])
def test_fine_tuning_has_enough_steps_of_the_batch_size_it_takes(encoder, spec, name, num_images, epochs) -> None:
    options = FinetuneConfig(checkpoint="x", data=DataConfig(name=name, root="images"))
    assert enough_epochs(options, LoadedEncoder(encoder, spec, "one"), spec, num_images) == epochs


def test_a_share_is_rounded_in_each_class_and_at_least_one() -> None:
    assert Amount(10, percent=True).of_each_class([100, 26, 3]) == [10, 3, 1]
    assert Amount(100, percent=True).of_each_class([7, 1]) == [7, 1]
    assert Amount(3).of_each_class([7, 4]) == [3, 3]


def test_classes_with_too_few_images_are_named_with_what_is_possible() -> None:
    labels = torch.tensor([0, 0, 1, 1, 1, 2])
    with pytest.raises(UserError, match=r"labels_per_class = 3 .*: cat \(2\), newt \(1\); at most 1 is possible"):
        chosen(labels, labels_per_class=(1, 3))
