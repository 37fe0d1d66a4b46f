"""What predictions are worth: accuracies with intervals, per class, and who is taken for whom.

shapes: n test images, c classes
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_accuracy, multiclass_confusion_matrix

from patchmix.evaluation.results import Interval, wilson_interval

BOOTSTRAP_DRAWS = 2000
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
    # Images of the same score are exchangeable: how often each score is drawn is multinomial.
    distinct, counts = np.unique(values, return_counts=True)
    drawn = np.random.Generator(np.random.PCG64(seed)).multinomial(len(values), counts / len(values), BOOTSTRAP_DRAWS)
    tail = 100 * (1 - confidence) / 2
    low, high = np.percentile(100 * (drawn @ distinct) / len(values), [tail, 100 - tail])
    return float(low), float(high)


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
        metrics[f"top{k}"] = 100 * float(found)
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


def mean_correct(correct: list[Tensor]) -> Tensor:
    """Share of draws in which each image was right [n], from bool [n] of every draw."""
    return torch.stack([each.double() for each in correct]).mean(dim=0)
