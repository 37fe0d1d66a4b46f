"""Weighted nearest-neighbour classification of frozen features (method.md, Evaluation).

DIFFERS: the reference's kNN passes the features through a randomly initialised 1000-way head (decision 0013).

shapes: q test (query) images, n training images, d width, c classes
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from torch import Tensor

from patchmix.config import KnnConfig
from patchmix.evaluation.baselines import Subject, subjects
from patchmix.evaluation.opening import describe_data, describe_settings, describe_skipped, open_evaluation
from patchmix.evaluation.results import (
    Interval,
    print_table,
    result_path,
    verdict,
    wilson_interval,
    with_interval,
    write_result,
)
from patchmix.progress import say

# Training images compared at once: a block of chunk_size = 1024 similarities is then at most 256 MiB.
TRAIN_BLOCK = 65_536


def knn_predict(
    train_features: Tensor,
    train_labels: Tensor,
    test_features: Tensor,
    *,
    num_classes: int,
    k: Sequence[int],
    temperature: float = 0.07,
    chunk_size: int = 1024,
    exclude_self: bool = False,
) -> Tensor:
    """Predicted class of every test image for every k: int64 [len(k), q], on the features' device.

    Features [n, d] and [q, d] of any length and precision are L2-normalised and compared in float32. The k
    most similar training images vote, each with exp(similarity / temperature); k beyond the number of
    training images means all of them. Memory is bounded by `chunk_size` test images at once (times 65,536
    training images). With `exclude_self`, test image i is training image i and does not vote on itself.
    """
    available = len(train_features) - exclude_self
    if available < 1 or min(k) < 1:
        raise ValueError(f"k = {list(k)} needs at least one neighbour; there are {available}")
    if exclude_self and len(train_features) != len(test_features):
        raise ValueError("exclude_self needs the training images themselves as test images")
    bounded = [min(number, available) for number in k]
    train_labels = train_labels.to(train_features.device)
    predictions = []
    most = max(bounded)
    for similarity, index in _neighbours(train_features, test_features, most, chunk_size, exclude_self):
        # Only ratios of votes matter: the most similar one votes 1, so that no temperature overflows.
        weights = torch.exp((similarity - similarity[:, :1]) / temperature)
        classes = train_labels[index]
        votes = [
            weights.new_zeros(len(weights), num_classes).scatter_add_(1, classes[:, :n], weights[:, :n])
            for n in bounded
        ]
        predictions.append(torch.stack([each.argmax(dim=1) for each in votes]))
    if not predictions:
        return torch.empty(len(k), 0, dtype=torch.int64, device=train_features.device)
    return torch.cat(predictions, dim=1)


def leave_one_out_knn(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    k: int = 20,
    temperature: float = 0.07,
    chunk_size: int = 1024,
) -> float:
    """Top-1 accuracy in per cent of classifying each image by the k nearest of all the others."""
    predicted = knn_predict(
        features,
        labels,
        features,
        num_classes=num_classes,
        k=(k,),
        temperature=temperature,
        chunk_size=chunk_size,
        exclude_self=True,
    )[0]
    return 100 * float((predicted == labels.to(predicted.device)).double().mean())


def knn(config: KnnConfig, console: Console | None = None) -> dict[str, Any]:
    """Classify the test images by their nearest training images; print, write and return the result.

    Metrics are `top1_k{k}` for the encoder, with `random_init_` and `pixels_` in front for the untrained
    encoder and raw pixels. A k above the number of training images keeps its name and means all of them:
    `settings.neighbours` has the numbers used. Raises UserError for whatever the user can mend.
    """
    console = console or Console()
    started = time.perf_counter()
    evaluation = open_evaluation("knn", config)
    path = result_path("knn", evaluation.loaded.run_directory, config.output)
    metrics: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    rows = []
    ks = tuple(dict.fromkeys(config.k))
    used: dict[int, int] = {}
    skipped: dict[str, Any] = {}
    for subject in subjects(evaluation, console, config.baselines):
        skipped = skipped or describe_skipped(subject.train, subject.test, console)
        number = len(subject.train.features)
        used = {k: min(k, number) for k in ks}
        row = [subject.title]
        num_classes = len(evaluation.train.classes)
        for k, correct, total in _count_correct(subject, num_classes, ks, config, evaluation.device):
            name = f"{subject.prefix}top1_k{k}"
            metrics[name] = 100 * correct / total
            intervals[name] = wilson_interval(correct, total)
            row.append(with_interval(metrics[name], intervals[name]))
        rows.append(row)
    result = write_result(
        path,
        command="knn",
        checkpoint=config.checkpoint,
        data=describe_data(evaluation),
        metrics=metrics,
        intervals=intervals,
        skipped=skipped,
        settings={
            **describe_settings(evaluation),
            "neighbours": {str(k): number for k, number in used.items()},
            "similarity": "cosine, votes exp(similarity / temperature)",
            "interval": "95 %, Wilson, over test images",
        },
        seconds=time.perf_counter() - started,
    )
    headers = [f"k = {k}" if used[k] == k else f"k = {k} ({used[k]} used)" for k in ks]
    print_table(console, f"kNN top-1 %, {evaluation.summary}", ["", *headers], rows)
    bounded = ", ".join(str(k) for k in ks if used[k] < k)
    if bounded:
        say(console, f"k = {bounded}: there are only {used[max(ks)]} training images, so all of them vote.")
    say(console, verdict(metrics, intervals, f"top1_k{20 if 20 in ks else ks[0]}"))
    say(console, f"Written to {path}")
    return result


def _count_correct(
    subject: Subject, num_classes: int, ks: Sequence[int], config: KnnConfig, device: torch.device
) -> Iterator[tuple[int, int, int]]:
    """(k, correct, test images) for every k."""
    assert subject.train.labels is not None
    assert subject.test.labels is not None
    predicted = knn_predict(
        subject.train.features.to(device),
        subject.train.labels.to(device),
        subject.test.features.to(device),
        num_classes=num_classes,
        k=ks,
        temperature=config.temperature,
        chunk_size=config.chunk_size,
    ).cpu()
    for k, row in zip(ks, predicted, strict=True):
        yield k, int((row == subject.test.labels).sum()), len(row)


def _neighbours(
    train: Tensor, test: Tensor, k: int, chunk_size: int, exclude_self: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Per chunk of test images the k largest similarities [chunk, k], descending, and their indices."""
    train = F.normalize(train.float(), dim=1)
    for start in range(0, len(test), chunk_size):
        queries = F.normalize(test[start : start + chunk_size].float(), dim=1)
        best: tuple[Tensor, Tensor] | None = None
        for first in range(0, len(train), TRAIN_BLOCK):
            similarity = queries @ train[first : first + TRAIN_BLOCK].T
            if exclude_self:
                similarity.diagonal(offset=start - first).fill_(-torch.inf)
            values, index = similarity.topk(min(k, similarity.shape[1]), dim=1)
            index += first
            if best is not None:
                values, index = torch.cat([best[0], values], dim=1), torch.cat([best[1], index], dim=1)
                values, order = values.topk(min(k, values.shape[1]), dim=1)
                index = index.gather(1, order)
            best = values, index
        assert best is not None
        yield best
