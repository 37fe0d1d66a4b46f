"""The goals' table: what a training step costs beside the plain version of it (plain/step.py), and its peak memory.

Prints a table. In one process the kinds of step take turns, with this machine's matrix-product limit sampled between
them; peak memory is that of a process for each kind. Command: python benchmarks/step.py (about ten minutes on two
cores), or with --only "ViT-S" for one model.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import gc
import itertools
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from patchmix import recipes
from patchmix.benching.memory import peak_memory
from patchmix.benching.products import ProductLimit, counted_operations
from patchmix.benching.steps import noise_job, take_turns
from patchmix.config import Config
from patchmix.pretraining import take_step
from plain.step import PlainStep
from spinning import begin_again

# Model, recipe, and what differs from it: batches that two cores can do.
CASES: tuple[tuple[str, str, dict[str, Any]], ...] = (
    (
        "ViT-T/4, 32 px, batch 128",
        "cifar10-vit-tiny",
        {"model.patch_size": 4, "method.momentum": 0.996, "optim.batch_size": 128},
    ),
    (
        "ViT-S/16, 224 px, batch 16",
        "imagenet-vit-small",
        {"views.num_local_crops": 0, "optim.batch_size": 16, "data.channels": 3},
    ),
)
PLAIN = "plain, float32"
OURS: dict[str, dict[str, Any]] = {
    "float32": {"run.precision": "32-true"},
    "float32, activation checkpointing": {"run.precision": "32-true", "run.activation_checkpointing": True},
    "bf16-mixed": {"run.precision": "bf16-mixed"},
    "bf16-mixed, activation checkpointing": {"run.precision": "bf16-mixed", "run.activation_checkpointing": True},
}
ROUNDS = 5
CPU = torch.device("cpu")


class Kind(NamedTuple):
    """A kind of step: its config, one step, and the precision whose matrix-product limit it is measured by."""

    config: Config
    step: Callable[[], object]
    precision: str


def kinds(recipe: str, changes: Mapping[str, Any], folder: Path, stack: contextlib.ExitStack) -> dict[str, Kind]:
    """All kinds of step of one model, with the same weights to begin with."""
    found: dict[str, Kind] = {}
    for number, (name, precision) in enumerate(OURS.items()):
        config = recipes.resolve(recipe, None, {"data.num_workers": 0, "run.device": "cpu", **changes, **precision})
        job, batch = noise_job(config, folder / str(number), stack)
        if not found:
            plain = PlainStep(config, job.spec)
            plain.load({part: getattr(job.module, part) for part in ("encoder", "projector", "predictor")})
            found[PLAIN] = Kind(config, functools.partial(plain, batch.views, batch.local_views), "32-true")
        steps = itertools.count(1)
        found[name] = Kind(config, lambda j=job, n=steps, b=batch: take_step(j, next(n), b), job.precision)
    return found


def measure(title: str, recipe: str, changes: Mapping[str, Any]) -> Iterator[str]:
    """The rows of one model."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        found = kinds(recipe, changes, Path(folder), stack)
        limits = {name: ProductLimit(CPU, name) for name in {kind.precision for kind in found.values()}}
        steps = {name: kind.step for name, kind in found.items()}
        seconds = take_turns(steps, ROUNDS, CPU, [limit.sample for limit in limits.values()])
        operations = {name: counted_operations(kind.step) / 1e9 for name, kind in found.items()}
        limit = {name: limits[kind.precision].per_second / 1e9 for name, kind in found.items()}
        configs = {name: kind.config for name, kind in found.items()}
        del found, steps
        stack.close()
        gc.collect()  # the memory of all these models is wanted for the processes
        plain, plain_memory = statistics.median(seconds[PLAIN]), None
        for number, (name, times) in enumerate(seconds.items()):
            kind: Literal["ours", "plain"] = "plain" if name == PLAIN else "ours"
            memory = peak_memory(configs[name], kind, Path(folder, f"memory-{number}")) / 1e6
            plain_memory = plain_memory or memory
            median = statistics.median(times)
            rate = operations[name] / median
            yield (
                f"| {title} | {name} | {median:.2f} ({min(times):.2f}–{max(times):.2f}) | {plain / median:.2f} | "
                f"{operations[name]:,.0f} | {rate:.0f} | {100 * rate / limit[name]:.0f} % of {limit[name]:.0f} | "
                f"{memory:,.0f} | {memory / plain_memory:.2f} |"
            )


def lines(only: str = "") -> Iterator[str]:
    """This benchmark's section of results.md, as it is measured."""
    yield "## A training step beside the plain version of it"
    yield ""
    yield (
        f"`python benchmarks/step.py`; seconds, medians of {ROUNDS} (lowest–highest), taking turns in one process; "
        "times: as fast as plain. Operations are counted, those that checkpointing repeats too; the limit is that of "
        "square matrix products, float32 or bfloat16, in GFLOP/s. Peak memory beyond what is there before a step, each "
        "kind in a process of its own, MB."
    )
    yield ""
    yield "| model | kind | seconds | times | GFLOP | GFLOP/s | of the limit | peak memory | beside plain |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for case in CASES:
        if only in case[0]:
            yield from measure(*case)


def show(measured: Callable[[str], Iterator[str]], description: str | None) -> None:
    """Print lines as they are measured, of the models that the command line names."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--only", default="", help="measure the models whose title has this in it")
    for line in measured(parser.parse_args().only):
        print(line, flush=True)


if __name__ == "__main__":
    begin_again()
    show(lines, __doc__)
