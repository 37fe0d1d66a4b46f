"""What predictions are worth: accuracies with intervals, per class, and who is taken for whom.

shapes: n test images, c classes
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from patchmix.evaluation.results import Interval, spread, wilson_interval

BOOTSTRAP_DRAWS = 2000
FEW_SCORES = 100  # up to so many distinct ones counting them is quicker than drawing images
MOST_DRAWN = 1_000_000  # images held at once
TOP_K = (1, 5)


def bootstrap_interval(scores: Tensor, seed: int = 0, confidence: float = 0.95) -> Interval:
    """Interval in per cent of the mean of per-image scores [n] in 0–1: percentiles of 2,000 resamplings of images.

    Images are drawn with replacement as often as there are images, by a generator of its own. Where all scores are
    0, or all 1, resampling shows no width at all, and Wilson's interval is given (decision 0021).
    Source: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 13.
    """
    values = scores.double().cpu().numpy()
    if len(values) < 1:
        raise ValueError("an interval needs at least one image")
    total = float(values.sum())
    if total in (0.0, float(len(values))):
        return wilson_interval(total, len(values), confidence)
    generator = np.random.Generator(np.random.PCG64(seed))
    # Images of the same score are exchangeable: how often each score is drawn is multinomial.
    distinct, counts = np.unique(values, return_counts=True)
    if len(distinct) <= FEW_SCORES:
        sums = generator.multinomial(len(values), counts / len(values), BOOTSTRAP_DRAWS) @ distinct
    else:
        rows = max(1, MOST_DRAWN // len(values))
        blocks = [min(rows, BOOTSTRAP_DRAWS - first) for first in range(0, BOOTSTRAP_DRAWS, rows)]
        sums = np.concatenate([values[generator.integers(len(values), size=(n, len(values)))].sum(1) for n in blocks])
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(100 * sums / len(values), [tail, 100 - tail])
    return float(low), float(high)


def interval_over_draws(correct: Sequence[Tensor], confidence: float = 0.95) -> Interval:
    """Interval of the mean accuracy (per cent) of several draws of labels; per draw, which images [n] were right.

    Two independent uncertainties: which test images (bootstrap over them, each with the share of draws that had it
    right), and which labels (Student's t over the draws). They are combined by recovering variances from the two
    intervals (MOVER: Zou & Donner, Statistics in Medicine 27, 2008). One draw says nothing about the second, which is
    then left out.
    """
    from scipy.stats import t as student  # type: ignore[import-untyped]  # with scikit-learn

    accuracies = [100 * int(each.sum()) / len(each) for each in correct]
    mean = sum(accuracies) / len(accuracies)
    low, high = bootstrap_interval(mean_correct(correct), confidence=confidence)
    draws = 0.0
    if len(accuracies) > 1:
        quantile = float(student.ppf(0.5 + confidence / 2, len(accuracies) - 1))
        draws = quantile * spread(accuracies) / math.sqrt(len(accuracies))
    return max(0.0, mean - math.hypot(mean - low, draws)), min(100.0, mean + math.hypot(high - mean, draws))


def top_k_correct(logits: Tensor, labels: Tensor, k: int) -> Tensor:
    """Whether the label is among the k largest logits [n, c], per image: bool [n]."""
    found = logits.topk(min(k, logits.shape[1]), dim=1).indices
    return (found == labels[:, None]).any(dim=1)


def accuracies(logits: Tensor, labels: Tensor) -> tuple[dict[str, float], dict[str, Interval]]:
    """`top1` and `top5` in per cent (torchmetrics) of logits [n, c], and their intervals.

    With fewer than five classes top5 counts every image.
    """
    metrics, intervals = {}, {}
    classes = logits.shape[1]
    for k in TOP_K:
        most = min(k, classes)
        found = multiclass_accuracy(logits.float(), labels, num_classes=classes, average="micro", top_k=most)
        # torchmetrics gives the share in float32: a whole number of images stands behind it.
        metrics[f"top{k}"] = 100 * round(float(found) * len(labels)) / len(labels)
        intervals[f"top{k}"] = bootstrap_interval(top_k_correct(logits, labels, most))
    return metrics, intervals


def per_class(predicted: Tensor, labels: Tensor, classes: tuple[str, ...]) -> dict[str, Any]:
    """The entry `classification` of a result: number of images, accuracy of each class, confusion matrix.

    Row i of the matrix counts the images of class i by the class they were taken for. Accuracies are in per cent;
    None for a class without test images.
    """
    matrix = multiclass_confusion_matrix(predicted, labels, num_classes=len(classes))
    counts = matrix.sum(dim=1)
    found = [
        {"class": name, "num_images": int(count), "top1": 100 * int(right) / int(count) if count else None}
        for name, count, right in zip(classes, counts, matrix.diagonal(), strict=True)
    ]
    return {"num_images": len(labels), "per_class": found, "confusion_matrix": matrix.tolist()}


def mean_correct(correct: Sequence[Tensor]) -> Tensor:
    """Share of draws in which each image was right [n], from bool [n] of every draw."""
    return torch.stack([each.double() for each in correct]).mean(dim=0)
