"""Training steps, timed: one after the other with their parts, or in turns with something else."""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from patchmix.benching.inputs import synthetic
from patchmix.config import Config
from patchmix.data.batches import Batch
from patchmix.job import Job
from patchmix.preparation import prepare
from patchmix.pretraining import take_step
from patchmix.timing import measured

DATA_WAIT, REST = "data wait", "the rest"
# As they follow each other; a part that is not among them comes after those that are.
PARTS = (
    DATA_WAIT,
    "views",
    "momentum",
    "mixing",
    *(f"forward {view}" for view in ("view1", "view2", "mixed1", "mixed2", "locals", "mixed_locals")),
    "loss",
    "backward",
    "optimiser",
    "logging",
    REST,
)
WARM_UP = 2  # steps; in the first, memory is taken and AdamW makes its state
PREFETCHED = 2  # batches that a worker makes ahead (data/loading.py)


def wait_for(device: torch.device) -> None:
    """Wait until the device has done what it was asked for."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    """Seconds of one call, its work on the device included."""
    wait_for(device)
    began = time.perf_counter()
    function()
    wait_for(device)
    return time.perf_counter() - began


def noise_job(config: Config, folder: Path, stack: contextlib.ExitStack) -> tuple[Job, Batch]:
    """A run of this config in that folder, on synthetic images, and one batch of noise to which nothing is left to do.

    What a step costs does not depend on what the images show.
    """
    small = synthetic(config, folder / "images", config.optim.batch_size)
    run = dataclasses.replace(config.run, tensorboard=False)
    job = prepare(dataclasses.replace(small, output=str(folder / "run"), run=run), False, None, None, stack)
    count, local = config.optim.batch_size, (config.views.local_size,) * 2
    sizes = [job.spec.image_size] * 2 + [local] * config.views.num_local_crops
    views = [torch.randint(0, 256, (count, job.spec.channels, *size), dtype=torch.uint8) for size in sizes]
    return job, Batch((views[0], views[1]), tuple(views[2:]), torch.arange(count), [])


class Consecutive(NamedTuple):
    """Steps as training takes them, one after the other, each with the batch that comes next.

    parts: mean seconds of each part of a step, data wait included, in the order of a step: means add up.
    samples: seconds of each whole step, data wait included, of which the parts are.
    seconds: mean of a whole step in training; on a GPU not that of `samples`, where the parts' clocks wait for it.
    batch: the last one.
    """

    parts: dict[str, float]
    samples: list[float]
    seconds: float
    batch: Batch

    @property
    def data_wait_share(self) -> float:
        """The share of a step spent waiting for data."""
        return self.parts[DATA_WAIT] / sum(self.parts.values())


def num_steps_needed(steps: int, num_workers: int) -> int:
    """Batches that `consecutive_steps` takes at most."""
    return 2 * steps + WARM_UP + PREFETCHED * num_workers


def consecutive_steps(job: Job, steps: int, warmed_up: Callable[[float], object]) -> Consecutive:
    """Measure `steps` consecutive steps; warm-up steps come before them.

    The batches that the workers have made before the first step are thrown away: a data wait shows itself only when the
    steps must live on what is made meanwhile.

    Args:
        warmed_up: called with the seconds of the last warm-up step.
    """
    batches, device = iter(job.loader), job.fabric.device
    for _ in range(PREFETCHED * job.loader.num_workers):
        next(batches)
    for number in range(1, 1 + WARM_UP):
        parts, _ = _clocked_step(job, number, batches)
    warmed_up(sum(parts.values()))
    seconds = None
    if device.type == "cuda":
        wait_for(device)
        began = time.perf_counter()
        for number in range(1 + WARM_UP, 1 + WARM_UP + steps):
            take_step(job, number, next(batches))
        wait_for(device)
        seconds = (time.perf_counter() - began) / steps
    found = []
    for number in range(1 + WARM_UP + steps, 1 + WARM_UP + 2 * steps):
        parts, batch = _clocked_step(job, number, batches)
        found.append(parts)
    del batches  # ends the workers
    means = {name: statistics.fmean(parts.get(name, 0.0) for parts in found) for name in in_order(found[0])}
    samples = [sum(parts.values()) for parts in found]
    return Consecutive(means, samples, statistics.fmean(samples) if seconds is None else seconds, batch)


def _clocked_step(job: Job, number: int, batches: Iterator[Batch]) -> tuple[dict[str, float], Batch]:
    """Seconds of each part of the next step, and its batch."""
    began = time.perf_counter()
    batch = next(batches)
    arrived = time.perf_counter()
    with measured(job.fabric.device) as timings:
        take_step(job, number, batch)
        wait_for(job.fabric.device)
    whole = time.perf_counter() - arrived
    return {
        DATA_WAIT: arrived - began,
        **timings.seconds,
        REST: whole - sum(timings.seconds.values()),
    }, batch


def in_order(names: Mapping[str, object]) -> list[str]:
    """The names of parts as they follow each other in a step."""
    return sorted(names, key=lambda name: PARTS.index(name) if name in PARTS else len(PARTS))


def take_turns(
    functions: Mapping[str, Callable[[], object]],
    rounds: int,
    device: torch.device,
    between: Sequence[Callable[[], object]] = (),
) -> dict[str, list[float]]:
    """Seconds of each function, called in turns; what is `between` them is called before each.

    One round more goes before the others and does not count.
    """
    found: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(1 + rounds):
        for name, function in functions.items():
            for each in between:
                each()
            found[name].append(seconds_of(function, device))
    return {name: seconds[1:] for name, seconds in found.items()}
