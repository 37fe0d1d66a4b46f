"""Multinomial logistic regression by L-BFGS, on any device and in bounded memory beside the features.

It minimises what scikit-learn's LogisticRegression does, divided by its C·n:
    mean over images of the cross-entropy + ‖W‖² / (2·C·n),   the bias not penalised.
For two classes scikit-learn has one vector, the difference w₁ − w₂: it penalises that one, twice what ‖W‖² is.

Frozen features are badly conditioned: a few directions carry most of their variance, and L-BFGS spends hundreds of
steps on the others. So it works on the principal axes, each scaled by what the objective's curvature along it is about
where the last fit ended: the same minimum in a fraction of the steps (benchmarks/results.md).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 65_536  # rows whose logits are held at a time
MAX_ITERATIONS = 300
TOLERANCE = 1e-5  # largest gradient at which a fit stops
CONVERGED = 1e-4  # largest gradient of one that has converged, as scikit-learn's default tolerance counts it


def fit_logistic(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    penalties: Sequence[float],
    *,
    num_images: int | None = None,
    tolerance: float = TOLERANCE,
    max_iterations: int = MAX_ITERATIONS,
) -> Iterator[tuple[Tensor, Tensor, bool]]:
    """(weight [classes, d], bias [classes], whether it converged) for every C of `penalties`, in their order.

    features [n, d], about centred, in the precision to compute in; labels int64 [n]. `num_images` (null: n) is the
    number of images that the rows are copies of: C then means the same with any number of copies. Each fit begins at
    the one before, so ascending C is quickest. Memory holds the features twice.
    """
    rows, width = features.shape
    images = num_images or rows
    variances, axes = _principal_axes(features)
    rotated = features @ axes
    weight = features.new_zeros(num_classes, width)
    bias = features.new_zeros(num_classes).requires_grad_()
    for given in penalties:
        penalty = given / 2 if num_classes == 2 else given
        curvature = _curvature(rotated, weight, bias)
        scales = (curvature * variances + 1 / (penalty * images)).rsqrt()
        scaled = (weight / scales).requires_grad_()
        optimizer = torch.optim.LBFGS(
            [scaled, bias],
            max_iter=max_iterations,
            max_eval=2 * max_iterations,
            tolerance_grad=tolerance,
            tolerance_change=0.0,
            history_size=20,
            line_search_fn="strong_wolfe",
        )

        def closure(
            optimizer: torch.optim.LBFGS = optimizer,
            penalty: float = penalty,
            scaled: Tensor = scaled,
            scales: Tensor = scales,
        ) -> Tensor:
            optimizer.zero_grad()
            total = features.new_zeros(())
            for start in range(0, rows, CHUNK):
                logits = F.linear(rotated[start : start + CHUNK], scaled * scales, bias)
                loss = F.cross_entropy(logits, labels[start : start + CHUNK], reduction="sum") / rows
                loss.backward()  # type: ignore[no-untyped-call]  # torch's own
                total += loss.detach()
            square = (scaled * scales).square().sum() / (2 * penalty * images)
            square.backward()  # type: ignore[no-untyped-call]
            return total + square.detach()

        with torch.inference_mode(False), torch.enable_grad():
            optimizer.step(closure)  # type: ignore[no-untyped-call]
        assert scaled.grad is not None
        assert bias.grad is not None
        weight = (scaled * scales).detach()
        gradient = (scaled.grad / scales) @ axes.T
        largest = max(float(gradient.abs().max()), float(bias.grad.abs().max()))
        yield weight @ axes.T, bias.detach().clone(), largest <= max(tolerance, CONVERGED)


def _curvature(rotated: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Mean of p·(1 − p) over images and classes: how much the cross-entropy bends along an axis of variance 1."""
    with torch.no_grad():
        total = rotated.new_zeros(())
        for start in range(0, len(rotated), CHUNK):
            probabilities = F.linear(rotated[start : start + CHUNK], weight, bias).softmax(dim=1)
            total += (probabilities * (1 - probabilities)).sum()
        return total / (len(rotated) * len(bias))


def _principal_axes(features: Tensor) -> tuple[Tensor, Tensor]:
    """Variances along the principal axes [d], none below 0, and the axes as columns [d, d]."""
    covariance = torch.zeros(features.shape[1], features.shape[1], dtype=torch.float64, device=features.device)
    mean = features.mean(dim=0, dtype=torch.float64)
    for start in range(0, len(features), CHUNK):
        centred = features[start : start + CHUNK].double() - mean
        covariance += centred.T @ centred
    variances, axes = torch.linalg.eigh(covariance / len(features))
    return variances.clamp(min=0).to(features.dtype), axes.to(features.dtype)


def equalise(train: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """Both centred by the training mean and scaled by one number, so that training variances average 1.

    One number keeps the features' geometry and makes C mean the same for any encoder (see fewshot.py).
    """
    mean = train.mean(dim=0)
    scale = (train - mean).square().mean().sqrt().clamp(min=1e-12)
    return (train - mean) / scale, (test - mean) / scale
