"""Recall and average precision against scikit-learn, torchmetrics and plain loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torchmetrics.functional.retrieval import retrieval_average_precision, retrieval_hit_rate

from patchmix.evaluation import retrieval as module
from patchmix.evaluation.retrieval import average_precision, found_among, nearest


def features(number: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, classes, (number,), generator=generator)
    return torch.eye(classes, 6)[labels] + torch.randn(number, 6, generator=generator), labels


@settings(max_examples=25, deadline=None)
@given(
    number=st.integers(1, 60),
    classes=st.integers(1, 5),
    chunk_size=st.integers(1, 8),
    block=st.integers(1, 50),
    seed=st.integers(0, 1000),
)
def test_average_precision_equals_scikit_learns_and_torchmetrics(
    number: int, classes: int, chunk_size: int, block: int, seed: int
) -> None:
    train, labels = features(number, classes, seed)
    test, test_labels = features(12, classes, seed + 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "TRAIN_BLOCK", block)
        found = average_precision(train, labels, test, test_labels, chunk_size=chunk_size)
    similarity = F.normalize(test, dim=1) @ F.normalize(train, dim=1).T
    for value, row, label in zip(found.tolist(), similarity, test_labels, strict=True):
        relevant = labels == label
        if not relevant.any():
            assert value == 0
            continue
        assert value == pytest.approx(average_precision_score(relevant.numpy(), row.numpy()), abs=1e-6)
        # torchmetrics takes what is not above 0 as not retrieved.
        assert value == pytest.approx(float(retrieval_average_precision(row + 2, relevant)), abs=1e-5)


def test_images_of_equal_similarity_count_together_in_any_order() -> None:
    train = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [1.0, 0.0]])
    query = torch.tensor([[1.0, 0.0]])
    for labels in ([0, 1, 1, 1], [1, 0, 1, 1], [1, 1, 1, 0]):
        assert average_precision(train, torch.tensor(labels), query, torch.tensor([0])).tolist() == pytest.approx(
            [1 / 3]
        )


@settings(max_examples=20, deadline=None)
@given(number=st.integers(2, 30), classes=st.integers(1, 4), chunk_size=st.integers(1, 9), seed=st.integers(0, 99))
def test_leaving_an_image_out_equals_removing_it(number: int, classes: int, chunk_size: int, seed: int) -> None:
    train, labels = features(number, classes, seed)
    found = average_precision(train, labels, train, labels, chunk_size=chunk_size, exclude_self=True)
    for index in range(number):
        rest = torch.arange(number) != index
        one = slice(index, index + 1)
        alone = average_precision(train[rest], labels[rest], train[one], labels[one])
        assert found[index].item() == pytest.approx(alone.item(), abs=1e-6)


def test_a_class_that_is_in_no_training_image_scores_nothing() -> None:
    train, _ = features(5, 2, 0)
    assert average_precision(train, torch.zeros(5, dtype=torch.long), train[:2], torch.tensor([7, 0]))[0] == 0


@pytest.mark.parametrize("number", [1, 5, 10])
def test_recall_equals_torchmetrics_hit_rate(number: int) -> None:
    train, labels = features(40, 4, seed=1)
    test, test_labels = features(30, 4, seed=2)
    [(_, index)] = nearest(train, test, 10)
    found = found_among(labels[index], test_labels, (number,))[0]
    similarity = F.normalize(test, dim=1) @ F.normalize(train, dim=1).T
    expected = [
        bool(retrieval_hit_rate(row, labels == label, top_k=number))
        for row, label in zip(similarity, test_labels, strict=True)
    ]
    assert found.tolist() == expected


def test_rows_are_sorted_as_torch_sorts_them() -> None:
    rows = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    expected = rows.sort(dim=1).values
    assert torch.equal(module._ascending(rows.clone()), expected)
    assert np.array_equal(module._ascending(rows.clone()[:, 10:40].clone()), rows[:, 10:40].sort(dim=1).values)
