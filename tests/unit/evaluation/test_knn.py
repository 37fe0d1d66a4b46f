"""Nearest neighbours against scikit-learn and plain loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.neighbors import KNeighborsClassifier

from patchmix.evaluation import retrieval as module
from patchmix.evaluation.knn import knn_predict, leave_one_out_knn


def clusters(number: int, classes: int, width: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, classes, (number,), generator=generator)
    return centres[labels] + 1.5 * torch.randn(number, width, generator=generator), labels


def plain_loop(train, labels, test, classes: int, k: int, temperature: float, leave_out: bool = False) -> list[int]:
    predicted = []
    for i, query in enumerate(test.double()):
        similar = []
        for j, key in enumerate(train.double()):
            if not (leave_out and i == j):
                similar.append((float(query @ key / (query.norm() * key.norm())), int(labels[j])))
        similar.sort(reverse=True)
        votes = [0.0] * classes
        for value, label in similar[:k]:
            votes[label] += math.exp(value / temperature)
        predicted.append(max(range(classes), key=votes.__getitem__))
    return predicted


@pytest.mark.parametrize("k", [1, 10, 20, 200])
def test_predictions_equal_scikit_learns(k: int) -> None:
    train, labels = clusters(500, 7, 16, seed=1)
    test, _ = clusters(211, 7, 16, seed=2)
    reference = KNeighborsClassifier(
        n_neighbors=k,
        metric="cosine",
        algorithm="brute",
        weights=lambda distance: np.exp((1 - distance) / 0.07),
    )
    expected = reference.fit(train.double().numpy(), labels.numpy()).predict(test.double().numpy())
    found = knn_predict(train, labels, test, num_classes=7, k=(k,), chunk_size=64)
    assert found[0].tolist() == expected.tolist()


@settings(max_examples=25, deadline=None)
@given(
    number=st.integers(1, 40),
    ks=st.lists(st.integers(1, 60), min_size=1, max_size=4),
    chunk_size=st.integers(1, 12),
    block=st.integers(1, 50),
    temperature=st.sampled_from([0.01, 0.07, 1.0]),
    seed=st.integers(0, 1000),
)
def test_predictions_equal_a_plain_loop_for_any_chunks(
    number: int, ks: list[int], chunk_size: int, block: int, temperature: float, seed: int
) -> None:
    train, labels = clusters(number, 4, 6, seed)
    test, _ = clusters(9, 4, 6, seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TRAIN_BLOCK", block)
        found = knn_predict(train, labels, test, num_classes=4, k=ks, temperature=temperature, chunk_size=chunk_size)
    for k, row in zip(ks, found, strict=True):
        assert row.tolist() == plain_loop(train, labels, test, 4, k, temperature)


@settings(max_examples=25, deadline=None)
@given(number=st.integers(2, 40), k=st.integers(1, 50), chunk_size=st.integers(1, 12), block=st.integers(1, 50))
def test_leave_one_out_equals_a_plain_loop(number: int, k: int, chunk_size: int, block: int) -> None:
    features, labels = clusters(number, 3, 5, seed=number)
    expected = plain_loop(features, labels, features, 3, k, 0.07, leave_out=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TRAIN_BLOCK", block)
        found = leave_one_out_knn(features, labels, 3, k=k, chunk_size=chunk_size)
    assert found == pytest.approx(100 * np.mean(np.array(expected) == labels.numpy()))


def test_an_image_does_not_vote_on_itself_even_beside_its_duplicate() -> None:
    features = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    assert leave_one_out_knn(features, torch.tensor([0, 1, 1, 0]), 2, k=1) == 0
    assert leave_one_out_knn(features, torch.tensor([0, 0, 1, 1]), 2, k=1) == 100


def test_the_length_of_features_does_not_matter() -> None:
    train, labels = clusters(60, 4, 8, seed=3)
    test, _ = clusters(20, 4, 8, seed=4)
    one = knn_predict(train, labels, test, num_classes=4, k=(5,))
    other = knn_predict(train * torch.rand(60, 1).add(0.1), labels, test * 100, num_classes=4, k=(5,))
    assert torch.equal(one, other)


def test_more_neighbours_than_training_images_means_all_of_them() -> None:
    train, labels = clusters(12, 3, 8, seed=3)
    test, _ = clusters(30, 3, 8, seed=4)
    found = knn_predict(train, labels, test, num_classes=3, k=(12, 200))
    assert torch.equal(found[0], found[1])


def test_a_tiny_temperature_does_not_overflow() -> None:
    train, labels = clusters(50, 4, 8, seed=3)
    assert leave_one_out_knn(train, labels, 4, k=9, temperature=1e-4) == leave_one_out_knn(train, labels, 4, k=1)


def test_half_precision_features_are_compared_in_float32() -> None:
    train, labels = clusters(50, 4, 8, seed=3)
    low = train.bfloat16()
    mixed = knn_predict(low, labels, low, num_classes=4, k=(10,))
    assert torch.equal(mixed, knn_predict(low.float(), labels, low.float(), num_classes=4, k=(10,)))


def test_no_test_images_give_no_predictions() -> None:
    train, labels = clusters(5, 2, 3, seed=0)
    assert knn_predict(train, labels, train[:0], num_classes=2, k=(1, 2)).shape == (2, 0)


def test_no_neighbour_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one neighbour"):
        leave_one_out_knn(torch.ones(1, 2), torch.zeros(1, dtype=torch.long), 2)
