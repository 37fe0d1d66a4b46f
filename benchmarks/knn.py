"""Time and memory of kNN on features of CIFAR-10's size, beside a plain loop over the test images.

Prints two tables. The loop takes one test image at a time: similarities, topk(200), weighted votes for each k; it is
timed on the first LOOP_QUERIES test images and scaled to all of them. Both take turns in one process, and give the
same classes. Memory is measured in a fresh process for each chunk size, on Linux. Command: python benchmarks/knn.py
"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from patchmix.evaluation.knn import knn_predict
from patchmix.evaluation.retrieval import average_precision

NUM_TRAIN, NUM_TEST, WIDTH, NUM_CLASSES = 50_000, 10_000, 192, 10
K = (10, 20, 100, 200)
TEMPERATURE = 0.07
LOOP_QUERIES = 200
REPEATS, MAP_REPEATS = 7, 3
CHUNK_SIZES = (64, 256, 1024, 4096)


def drawn() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Features and labels of overlapping classes: train, labels, test, labels."""
    generator = torch.Generator().manual_seed(0)
    centres = torch.randn(NUM_CLASSES, WIDTH, generator=generator)
    parts = []
    for number in (NUM_TRAIN, NUM_TEST):
        labels = torch.randint(0, NUM_CLASSES, (number,), generator=generator)
        parts += [centres[labels] + 3 * torch.randn(number, WIDTH, generator=generator), labels]
    return parts[0], parts[1], parts[2], parts[3]


def plain_loop(train: Tensor, labels: Tensor, test: Tensor) -> Tensor:
    """What `knn_predict` computes, one test image at a time: int64 [len(K), q]."""
    train = F.normalize(train, dim=1)
    columns = []
    for query in F.normalize(test, dim=1):
        similarity, index = (train @ query).topk(max(K))
        weights, classes = torch.exp(similarity / TEMPERATURE), labels[index]
        votes = [torch.zeros(NUM_CLASSES).scatter_add_(0, classes[:k], weights[:k]) for k in K]
        columns.append(torch.stack([each.argmax() for each in votes]))
    return torch.stack(columns, dim=1)


def timed(work: Callable[[], Tensor]) -> tuple[float, Tensor]:
    """Seconds, and what came out."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def peak(chunk_size: int) -> tuple[float, float]:
    """MiB above the features that kNN, and kNN and mean average precision, take at most; in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak, (chunk_size,))


def _peak(chunk_size: int) -> tuple[float, float]:
    train, labels, test, test_labels = drawn()
    test, test_labels = test[: max(CHUNK_SIZES)], test_labels[: max(CHUNK_SIZES)]  # a whole chunk is the most there is
    before = _highest()
    knn_predict(train, labels, test, num_classes=NUM_CLASSES, k=K, chunk_size=chunk_size)
    after_knn = _highest()
    average_precision(train, labels, test, test_labels, chunk_size=chunk_size)
    return after_knn - before, _highest() - before


def _highest() -> float:
    # Not getrusage: its maximum is that of the parent where that was larger.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def lines() -> Iterator[str]:
    """This benchmark's section of results.md, as it is measured."""
    train, labels, test, test_labels = drawn()
    options: dict[str, Any] = {"num_classes": NUM_CLASSES, "k": K, "temperature": TEMPERATURE}
    scale = NUM_TEST / LOOP_QUERIES
    loop_times, our_times, map_times = [], [], []
    plain_loop(train, labels, test[:20])  # the first calls are not counted
    knn_predict(train, labels, test[:1024], **options)
    for repeat in range(REPEATS):
        seconds, expected = timed(lambda: plain_loop(train, labels, test[:LOOP_QUERIES]))
        loop_times.append(scale * seconds)
        seconds, found = timed(lambda: knn_predict(train, labels, test, **options))
        our_times.append(seconds)
        # Two similarities that differ in their last bit may change places, and a vote may be that close.
        assert (found[:, :LOOP_QUERIES] == expected).double().mean() > 0.999
        if repeat < MAP_REPEATS:
            map_times.append(timed(lambda: average_precision(train, labels, test, test_labels))[0])
    yield f"## kNN: {NUM_TRAIN:,} training and {NUM_TEST:,} test images, width {WIDTH}, k = {', '.join(map(str, K))}"
    yield ""
    yield (
        f"`python benchmarks/knn.py`; float32, CPU. Seconds, medians of {REPEATS} (lowest–highest), taking turns in "
        f"one process; the loop's {LOOP_QUERIES} test images are scaled to {NUM_TEST:,}."
    )
    yield ""
    yield f"| plain loop over test images | `knn_predict` | ratio of medians | mean average precision ({MAP_REPEATS}) |"
    yield "|---|---|---|---|"
    ratio = statistics.median(our_times) / statistics.median(loop_times)
    yield f"| {_spread(loop_times)} | {_spread(our_times)} | {ratio:.3f} | {_spread(map_times)} |"
    yield ""
    yield "| `--chunk_size` | peak memory of kNN beside the features, MiB | with mean average precision, MiB |"
    yield "|---|---|---|"
    for chunk_size in CHUNK_SIZES:
        alone, both = peak(chunk_size)
        yield f"| {chunk_size} | {alone:.0f} | {both:.0f} |"


def _spread(times: list[float]) -> str:
    return f"{statistics.median(times):.2f} ({min(times):.2f}–{max(times):.2f})"


if __name__ == "__main__":
    for line in lines():
        print(line, flush=True)
