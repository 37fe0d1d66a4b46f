"""What mixing costs beside the rest of a step (goal: at most 1 %), and what targets and losses cost.

Prints a table. Each row times whole training steps of a model in float32, as pre-training takes them, and, in the same
process and on views and keys of the same shapes, (1) drawing the mix plans and mixing the views, (2) targets and losses
with their backward. Medians over the steps, of the processor time of one thread: parts of a millisecond are lost among
other processes by the clock. Command: python benchmarks/mixing_share.py (three minutes)
"""

from __future__ import annotations

import contextlib
import itertools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from patchmix import recipes
from patchmix.benching.steps import noise_job
from patchmix.job import Job
from patchmix.passes import Passes
from patchmix.pretraining import take_step
from spinning import begin_again
from step import CASES as MODELS

# Title, recipe, what differs from it, timed steps: what two cores can do in a minute or so. Last: the goals' models.
CASES: tuple[tuple[str, str, Mapping[str, Any], int], ...] = (
    ("`demo`", "demo", {}, 20),
    ("`cifar10-cpu`", "cifar10-cpu", {}, 8),
    ("`cifar10-vit-tiny`, batch 16", "cifar10-vit-tiny", {"optim.batch_size": 16}, 4),
    *((*model, 3) for model in MODELS),
)
SETTINGS = {"data.num_workers": 0, "run.device": "cpu", "run.num_threads": 1, "run.precision": "32-true"}


def seconds(function: Callable[[], object], repeats: int) -> list[float]:
    """Processor seconds of each call, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function()
        times.append(time.process_time() - start)
    return times


def measure(title: str, recipe: str, changes: Mapping[str, Any], steps: int) -> str:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        config = recipes.resolve(recipe, None, {**SETTINGS, **changes})
        job, batch = noise_job(config, Path(folder), stack)
        numbers = itertools.count(1)
        whole = seconds(lambda: take_step(job, next(numbers), batch), steps)
        views, _ = job.views(batch)
        keys = torch.randn(config.optim.batch_size, config.model.projection_size)
        mixing = seconds(lambda: mix(job, views, next(numbers)), 5 * steps)
        losses = seconds(lambda: targets_and_losses(job, keys), 5 * steps)
    spec, median = job.spec, statistics.median(whole)
    cells = [f"{1000 * each:.2f} ({100 * each / median:.2f} %)" for each in map(statistics.median, (mixing, losses))]
    return (
        f"| {title} | {spec.width} × {spec.depth}, {spec.image_size[0]} px / {spec.patch_size} | "
        f"{config.optim.batch_size} | {1000 * median:.1f} ({1000 * min(whole):.1f}–{1000 * max(whole):.1f}) | "
        f"{' | '.join(cells)} |"
    )


def mix(job: Job, views: tuple[torch.Tensor, torch.Tensor], step: int) -> None:
    """Draw the plans of a step and mix its views."""
    plans, _ = job.plans(step)
    job.module.inputs(views, plans, (), ())


def targets_and_losses(job: Job, keys: torch.Tensor) -> None:
    """All rows of the method's table, forward and backward, from projections that are there."""
    model, queries = job.module, keys.clone().requires_grad_()
    passes = Passes({}, model.shares(job.plans(1)[0], ()), [], len(keys), job.config.method.temperature)
    passes.queries = {row.query: queries for row in model.contrasts}
    passes.keys = {key: keys for row in model.contrasts for key in row.keys}
    model.weighted({row: model.loss_of(row, passes) for row in model.contrasts}).backward()


def lines() -> Iterator[str]:
    """This benchmark's section of results.md, as it is measured."""
    torch.manual_seed(0)
    yield "## Mixing, targets and losses beside a whole training step"
    yield ""
    yield (
        "`python benchmarks/mixing_share.py`; float32, one thread, its processor time: medians in ms (lowest–highest). "
        "The last two rows are the models of the goals."
    )
    yield ""
    yield "| model | width × depth, image / patch | batch | whole step | plans, mixing | targets, losses, backward |"
    yield "|---|---|---|---|---|---|"
    for case in CASES:
        yield measure(*case)


if __name__ == "__main__":
    begin_again()
    for line in lines():
        print(line, flush=True)
