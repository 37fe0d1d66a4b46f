"""Training steps, timed: one after the other with their parts, or in turns with something else."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

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


def num_steps_needed(steps: int, num_workers: int) -> int:
    """Batches that `measure_parts` takes."""
    return steps + WARM_UP + PREFETCHED * num_workers


def measure_parts(job: Job, steps: int) -> tuple[list[dict[str, float]], Batch]:
    """Seconds of each part of `steps` consecutive steps, and the last batch; warm-up steps come before them.

    The batches that the workers have made before the first step are thrown away: a data wait shows itself only when the
    steps must live on what is made meanwhile.
    """
    found: list[dict[str, float]] = []
    batches = iter(job.loader)
    for _ in range(PREFETCHED * job.loader.num_workers):
        next(batches)
    for step in range(1, WARM_UP + steps + 1):
        began = time.perf_counter()
        batch = next(batches)
        arrived = time.perf_counter()
        with measured(job.fabric.device) as timings:
            take_step(job, step, batch)
            wait_for(job.fabric.device)
        whole = time.perf_counter() - arrived
        parts = {DATA_WAIT: arrived - began, **timings.seconds}
        found.append(parts | {REST: whole - sum(timings.seconds.values())})
    del batches  # ends the workers
    return found[WARM_UP:], batch


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
