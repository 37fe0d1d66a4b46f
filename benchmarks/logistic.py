"""What principal axes save L-BFGS in `patchmix probe --fast`: the same fits with and without, on real features.

The features are the class tokens of four blocks of a small untrained ViT for 4,000 digits: as badly conditioned as
frozen features are, and too few to tell all digits apart. Both ways take turns in one process.
Command: python benchmarks/logistic.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from patchmix.config import DataConfig
from patchmix.data.datasets import open_dataset
from patchmix.evaluation import logistic
from patchmix.evaluation.features import extract
from patchmix.evaluation.logistic import equalise, fit_logistic
from patchmix.evaluation.pooling import ProbeEncoder
from patchmix.models.spec import EncoderSpec
from patchmix.models.vit import create_vit

PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0)
REPEATS = 5


def digits() -> tuple[Tensor, Tensor]:
    """Features [4000, 64] of mnist5k's training digits, and their labels."""
    source = open_dataset(DataConfig(name="mnist5k"), "train")
    spec = EncoderSpec("vit_tiny", (28, 28), 7, 16, 4, 2, 1, "token", tuple(source.mean), tuple(source.std))
    torch.manual_seed(0)
    encoder = ProbeEncoder(create_vit(spec, position_std=1.5), spec)
    found = extract(encoder, source, spec)
    assert found.labels is not None
    features = found.features[:, encoder.slices["last4"]]
    return equalise(features, features)[0], found.labels


def objective(features: Tensor, labels: Tensor, weight: Tensor, bias: Tensor, penalty: float) -> float:
    """What is minimised."""
    loss = F.cross_entropy(F.linear(features, weight, bias), labels)
    return float(loss + weight.square().sum() / (2 * penalty * len(features)))


def run(features: Tensor, labels: Tensor) -> tuple[float, list[float], int]:
    """Seconds, objectives reached, fits that converged."""
    started = time.perf_counter()
    fits = list(fit_logistic(features, labels, 10, PENALTIES))
    seconds = time.perf_counter() - started
    reached = [
        objective(features, labels, weight, bias, c) for (weight, bias, _), c in zip(fits, PENALTIES, strict=True)
    ]
    return seconds, reached, sum(converged for *_, converged in fits)


def without_axes(features: Tensor) -> tuple[Tensor, Tensor]:
    """Equal variances along the features' own axes: no change of coordinates."""
    width = features.shape[1]
    return torch.ones(width), torch.eye(width)


def lines() -> Iterator[str]:
    """This benchmark's section of results.md, as it is measured."""
    features, labels = digits()
    ways = {"own axes": without_axes, "principal axes": logistic._principal_axes}
    times: dict[str, list[float]] = {name: [] for name in ways}
    ends = {}
    for _ in range(REPEATS):
        for name, way in ways.items():
            logistic._principal_axes = way
            seconds, *ends[name] = run(features, labels)
            times[name].append(seconds)
    lowest = [min(each) for each in zip(*(reached for reached, _ in ends.values()), strict=True)]
    yield "## Logistic regression by L-BFGS: principal axes"
    yield ""
    yield (
        f"`python benchmarks/logistic.py`; float32, features {len(features):,} × {features.shape[1]}, "
        f"{len(PENALTIES)} values of C, at most {logistic.MAX_ITERATIONS} iterations each. Medians of {REPEATS} in s "
        "(lowest–highest), taking turns in one process."
    )
    yield ""
    yield "| coordinates | seconds | fits that converged | largest distance from the lower objective, % |"
    yield "|---|---|---|---|"
    for name, (reached, converged) in ends.items():
        taken = times[name]
        distance = max(100 * (value / low - 1) for value, low in zip(reached, lowest, strict=True))
        yield (
            f"| {name} | {statistics.median(taken):.2f} ({min(taken):.2f}–{max(taken):.2f}) | {converged} of "
            f"{len(PENALTIES)} | {distance:.2f} |"
        )


if __name__ == "__main__":
    for line in lines():
        print(line, flush=True)
