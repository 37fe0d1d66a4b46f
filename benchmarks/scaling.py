"""How the cost of a step grows with M, with the number of local crops and with the batch, ours and the plain version.

Prints a table and draws docs/images/scaling.png. The model is recipe cifar10-cpu's, with a momentum encoder; kinds of
step take turns in one process. Command: python benchmarks/scaling.py (about two minutes on two quiet cores)
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import matplotlib
import torch

matplotlib.use("agg")
from matplotlib import pyplot as plt

from patchmix import recipes
from patchmix.benching.steps import noise_job, take_turns
from patchmix.pretraining import take_step
from plain.step import PlainStep
from spinning import begin_again

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "scaling.png"
RECIPE = "cifar10-cpu"
COMMON: dict[str, Any] = {
    "method.momentum": 0.996,
    "views.local_size": 16,
    "optim.batch_size": 64,
    "data.num_workers": 0,
    "run.device": "cpu",
}
SERIES: dict[str, tuple[str, tuple[int, ...]]] = {
    "M, images mixed into one": ("method.num_mix", (1, 2, 3, 4, 8)),
    "local crops of 16 px": ("views.num_local_crops", (0, 2, 4, 8)),
    "batch": ("optim.batch_size", (16, 32, 64, 128)),
}
KINDS = {"patchmix": "#b3470f", "plain": "#777777"}
ROUNDS = 5
CPU = torch.device("cpu")
Times = dict[tuple[str, int], list[float]]  # kind and value -> seconds of each round


def measure(option: str, values: tuple[int, ...]) -> Times:
    """Seconds of a step for each value of an option, all in turns."""
    functions: dict[str, Callable[[], object]] = {}
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        for value in values:
            config = recipes.resolve(RECIPE, None, {**COMMON, option: value})
            job, batch = noise_job(config, Path(folder, str(value)), stack)
            numbers = itertools.count(1)
            functions[f"patchmix {value}"] = lambda j=job, n=numbers, b=batch: take_step(j, next(n), b)
            functions[f"plain {value}"] = functools.partial(PlainStep(config, job.spec), batch.views, batch.local_views)
        seconds = take_turns(functions, ROUNDS, CPU)
    return {(name.split()[0], int(name.split()[1])): times for name, times in seconds.items()}


def lines() -> Iterator[str]:
    """This benchmark's section of results.md, as it is measured."""
    yield "## How a step's cost grows"
    yield ""
    yield (
        f"`python benchmarks/scaling.py`; model of recipe `{RECIPE}` with momentum encoder, float32, batch 64, M = 2 "
        "and no crops where the row does not say otherwise. ms, medians of "
        f"{ROUNDS} (lowest–highest), taking turns in one process."
    )
    yield ""
    yield "| what | value | patchmix | plain | ratio of medians |"
    yield "|---|---|---|---|---|"
    found = {}
    for title, (option, values) in SERIES.items():
        found[title] = measure(option, values)
        for value in values:
            ours, plain = (found[title][kind, value] for kind in KINDS)
            ratio = statistics.median(ours) / statistics.median(plain)
            yield f"| {title} | {value} | {in_ms(ours)} | {in_ms(plain)} | {ratio:.2f} |"
    draw(found)


def in_ms(times: list[float]) -> str:
    """Median (lowest–highest)."""
    return f"{1000 * statistics.median(times):.0f} ({1000 * min(times):.0f}–{1000 * max(times):.0f})"


def draw(found: dict[str, Times]) -> None:
    """One panel for each series: medians, and bars from the lowest to the highest."""
    figure, panels = plt.subplots(1, len(found), figsize=(10, 3.3), layout="constrained")
    for axes, (title, times) in zip(panels, found.items(), strict=True):
        for kind, colour in KINDS.items():
            values = sorted(value for each, value in times if each == kind)
            series = [[1000 * second for second in times[kind, value]] for value in values]
            medians = [statistics.median(each) for each in series]
            bars = [
                [median - min(each) for median, each in zip(medians, series, strict=True)],
                [max(each) - median for median, each in zip(medians, series, strict=True)],
            ]
            axes.errorbar(values, medians, yerr=bars, color=colour, marker="o", markersize=4, capsize=2, label=kind)
        axes.set_xlabel(title)
        axes.set_xticks(values)
        axes.set_ylim(bottom=0)
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("a training step, ms")
    panels[0].legend(frameon=False)
    figure.savefig(PICTURE, dpi=144)


if __name__ == "__main__":
    begin_again()
    for line in lines():
        print(line, flush=True)
