"""Weighted nearest-neighbour classification of frozen features (method.md, Evaluation), and retrieval with them.

DIFFERS: the reference's kNN passes the features through a randomly initialised 1000-way head (decision 0013).

shapes: q test (query) images, n training images, d width, c classes
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from patchmix.config import KnnConfig
from patchmix.errors import UserError
from patchmix.evaluation.baselines import Subject, subjects
from patchmix.evaluation.description import describe_data, describe_settings, describe_skipped
from patchmix.evaluation.opening import open_evaluation
from patchmix.evaluation.results import Interval, print_table, result_path, verdict, with_interval, write_result
from patchmix.evaluation.retrieval import average_precision, found_among, nearest
from patchmix.evaluation.scores import bootstrap_interval, per_class
from patchmix.progress import say

INTERVAL = "95 %, bootstrap over test images (Wilson where all or none are right)"


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
    train_labels = train_labels.to(train_features.device)
    most = min(max(k), available)
    predictions = [
        vote(similarity, train_labels[index], num_classes, k, temperature)
        for similarity, index in nearest(
            train_features, test_features, most, chunk_size=chunk_size, exclude_self=exclude_self
        )
    ]
    if not predictions:
        return torch.empty(len(k), 0, dtype=torch.int64, device=train_features.device)
    return torch.cat(predictions, dim=1)


def vote(similarity: Tensor, classes: Tensor, num_classes: int, k: Sequence[int], temperature: float) -> Tensor:
    """Class with the most votes among the k nearest, for every k: int64 [len(k), q].

    `similarity` and `classes` [q, neighbours] are those of the nearest, nearest first.
    """
    # Only ratios of votes matter: the most similar one votes 1, so that no temperature overflows.
    weights = torch.exp((similarity - similarity[:, :1]) / temperature)
    votes = [
        weights.new_zeros(len(weights), num_classes).scatter_add_(1, classes[:, :number], weights[:, :number])
        for number in k
    ]
    return torch.stack([each.argmax(dim=1) for each in votes])


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

    Metrics are `top1_k{k}`, `recall_at_{N}` (share of test images with an image of their class among the N nearest
    training images) and, with `average_precision`, `map` (`retrieval.average_precision`, mean over test images), with
    `random_init_` and `pixels_` in front for the untrained encoder and raw pixels. With `leave_one_out` the training
    images are the test images, each beside all the others. A k or N above the number of training images keeps its
    name and means all of them: `settings.neighbours` has the numbers used. Raises UserError for whatever the user can
    mend.
    """
    console = console or Console()
    started = time.perf_counter()
    evaluation = open_evaluation("knn", config, leave_one_out=config.leave_one_out)
    path = result_path("knn", evaluation.loaded.run_directory, config.output)
    metrics: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    ks, recall_at = tuple(dict.fromkeys(config.k)), tuple(dict.fromkeys(config.recall_at))
    main = 20 if 20 in ks else ks[0]
    votes, retrievals = [], []
    available = 0
    skipped: dict[str, Any] = {}
    classification: dict[str, Any] = {}
    for subject in subjects(evaluation, console, config.baselines):
        skipped = skipped or describe_skipped(subject.train, subject.test, console)
        available = len(subject.train.features) - config.leave_one_out
        if not available:
            raise UserError(f"only one image of {evaluation.train.name} can be read: there is none to compare it with")
        found = _measure(subject, ks, recall_at, config, evaluation.train.classes, evaluation.device)
        if not classification:
            classification = {
                "metric": f"top1_k{main}",
                **per_class(found.predicted[main], found.labels, evaluation.train.classes),
            }
        for name, scores in found.scores.items():
            metrics[subject.prefix + name] = 100 * float(scores.double().sum()) / len(scores)
            intervals[subject.prefix + name] = bootstrap_interval(scores)
        cells = [
            with_interval(metrics[subject.prefix + name], intervals[subject.prefix + name]) for name in found.scores
        ]
        votes.append([subject.title, *cells[: len(ks)]])
        retrievals.append([subject.title, *cells[len(ks) :]])
    headers = [f"k = {k}" if k <= available else f"k = {k} ({available} used)" for k in ks]
    print_table(console, f"kNN top-1 %, {evaluation.summary}", ["", *headers], votes)
    retrieved = [*(f"recall@{number}" for number in recall_at), *(["mAP"] if config.average_precision else [])]
    print_table(console, "Retrieval of images of the same class, %", ["", *retrieved], retrievals)
    others = "other images" if config.leave_one_out else "training images"
    for option, numbers, what in (("k", ks, "vote"), ("recall_at", recall_at, "count")):
        if bounded := ", ".join(str(number) for number in numbers if number > available):
            say(console, f"{option} = {bounded}: there are only {available} {others}, so all of them {what}.")
    say(console, verdict(metrics, intervals, f"top1_k{main}"))
    # After the tables: a full disk must not take what was measured with it.
    result = write_result(
        path,
        command="knn",
        checkpoint=config.checkpoint,
        data=describe_data(evaluation),
        metrics=metrics,
        intervals=intervals,
        classification=classification,
        skipped=skipped,
        settings={
            **describe_settings(evaluation),
            "neighbours": {str(number): min(number, available) for number in sorted({*ks, *recall_at})},
            "similarity": "cosine, votes exp(similarity / temperature)",
            "interval": INTERVAL,
        },
        seconds=time.perf_counter() - started,
        console=console,
    )
    say(console, f"Written to {path}")
    return result


@dataclass(frozen=True)
class _Found:
    """Per test image, on the CPU: the predicted class for every k, and a score in 0–1 for every metric."""

    labels: Tensor
    predicted: dict[int, Tensor]
    scores: dict[str, Tensor]


def _measure(
    subject: Subject,
    ks: Sequence[int],
    recall_at: Sequence[int],
    config: KnnConfig,
    classes: tuple[str, ...],
    device: torch.device,
) -> _Found:
    assert subject.train.labels is not None
    assert subject.test.labels is not None
    train, train_labels = subject.train.features.to(device), subject.train.labels.to(device)
    test, test_labels = subject.test.features.to(device), subject.test.labels.to(device)
    most = min(max(*ks, *recall_at), len(train) - config.leave_one_out)
    predictions, within = [], []
    chunks = nearest(train, test, most, chunk_size=config.chunk_size, exclude_self=config.leave_one_out)
    for (similarity, index), labels in zip(chunks, torch.split(test_labels, config.chunk_size), strict=True):
        neighbours = train_labels[index]
        predictions.append(vote(similarity, neighbours, len(classes), ks, config.temperature))
        within.append(found_among(neighbours, labels, recall_at))
    predicted = dict(zip(ks, torch.cat(predictions, dim=1).cpu(), strict=True))
    found = dict(zip(recall_at, torch.cat(within, dim=1).cpu(), strict=True))
    scores = {
        **{f"top1_k{k}": predicted[k] == subject.test.labels for k in ks},
        **{f"recall_at_{number}": found[number] for number in recall_at},
    }
    if config.average_precision:
        scores["map"] = average_precision(
            train, train_labels, test, test_labels, chunk_size=config.chunk_size, exclude_self=config.leave_one_out
        ).cpu()
    return _Found(subject.test.labels, predicted, scores)
