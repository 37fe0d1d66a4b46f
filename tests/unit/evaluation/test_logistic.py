"""L-BFGS against scikit-learn's logistic regression, on scikit-learn's real digits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from patchmix.evaluation.logistic import equalise, fit_logistic

PENALTIES = (0.01, 0.1, 1.0)


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor, Tensor]:
    """900 images to learn from, their labels, and 897 others."""
    data = load_digits()
    pixels = torch.from_numpy(data.data)
    train, test = equalise(pixels[:900], pixels[900:])
    return train, torch.from_numpy(data.target[:900]).long(), test


def objective(weight: Tensor, bias: Tensor, train: Tensor, labels: Tensor, penalty: float) -> float:
    loss = torch.nn.functional.cross_entropy(train @ weight.T + bias, labels)
    return float(loss + weight.square().sum() / (2 * penalty * len(train)))


def test_it_finds_what_scikit_learn_finds(digits: tuple[Tensor, Tensor, Tensor]) -> None:
    train, labels, test = digits
    fits = fit_logistic(train, labels, 10, PENALTIES, tolerance=1e-7)
    for penalty, (weight, bias, converged) in zip(PENALTIES, fits, strict=True):
        theirs = LogisticRegression(C=penalty, tol=1e-9, max_iter=5000).fit(train.numpy(), labels.numpy())
        assert converged
        np.testing.assert_allclose(weight.numpy(), theirs.coef_, atol=1e-3 * np.abs(theirs.coef_).max())
        agree = (test @ weight.T + bias).argmax(dim=1).numpy() == theirs.predict(test.numpy())
        assert agree.mean() > 0.998


def test_with_two_classes_too(digits: tuple[Tensor, Tensor, Tensor]) -> None:
    train, labels, _ = digits
    for penalty, (weight, bias, _) in zip(
        PENALTIES, fit_logistic(train, labels % 2, 2, PENALTIES, tolerance=1e-8), strict=True
    ):
        theirs = LogisticRegression(C=penalty, tol=1e-9, max_iter=5000).fit(train.numpy(), (labels % 2).numpy())
        expected = theirs.decision_function(train.numpy())
        found = (train @ (weight[1] - weight[0]) + bias[1] - bias[0]).numpy()
        np.testing.assert_allclose(found, expected, atol=1e-3 * np.abs(expected).max())


def test_in_float32_with_the_default_tolerance_it_is_as_good_as_scikit_learn_by_default(
    digits: tuple[Tensor, Tensor, Tensor],
) -> None:
    train, labels, _ = digits
    fits = fit_logistic(train.float(), labels, 10, PENALTIES)
    for penalty, (weight, bias, converged) in zip(PENALTIES, fits, strict=True):
        theirs = LogisticRegression(C=penalty, max_iter=2000).fit(train.numpy(), labels.numpy())
        ours = objective(weight.double(), bias.double(), train, labels, penalty)
        coef, intercept = torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_)
        assert converged
        assert ours <= objective(coef, intercept, train, labels, penalty) * (1 + 1e-4)


def test_copies_of_images_change_nothing(digits: tuple[Tensor, Tensor, Tensor]) -> None:
    train, labels, _ = digits
    ((once, _, _),) = fit_logistic(train, labels, 10, [1.0], tolerance=1e-7)
    ((thrice, _, _),) = fit_logistic(
        train.repeat(3, 1), labels.repeat(3), 10, [1.0], num_images=len(train), tolerance=1e-7
    )
    torch.testing.assert_close(once, thrice, atol=1e-3, rtol=1e-3)


def test_a_fit_that_is_cut_short_says_so(digits: tuple[Tensor, Tensor, Tensor]) -> None:
    train, labels, _ = digits
    ((_, _, converged),) = fit_logistic(train, labels, 10, [100.0], max_iterations=3)
    assert not converged
