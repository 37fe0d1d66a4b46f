"""`patchmix bench`: measures what a training step of a run costs on this machine, and where the time goes."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import math
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from rich.console import Console

from patchmix import distributed
from patchmix.benching import inputs
from patchmix.benching.memory import STEPS, peak_memory
from patchmix.benching.pipeline import input_cost
from patchmix.benching.plain import PLAIN_PRECISION, load_plain, why_no_plain_step
from patchmix.benching.products import ProductLimit, counted_operations
from patchmix.benching.request import Request
from patchmix.benching.steps import DATA_WAIT, consecutive_steps, num_steps_needed, take_turns
from patchmix.benching.tables import show_figures, show_parts, show_stages
from patchmix.config import Config, to_dict
from patchmix.data.batches import Batch
from patchmix.data.crops import SMALL
from patchmix.data.views import change_views
from patchmix.endings import memory_advice
from patchmix.environment import environment
from patchmix.files import write_text
from patchmix.job import Job
from patchmix.preparation import prepare
from patchmix.pretraining import take_step
from patchmix.progress import counted, duration, say

MEGABYTE = 1e6
# For a rough word on how long it takes: a plain step beside ours, a process until it begins, all input pipelines.
PLAIN_STEPS, PROCESS_SECONDS, PIPELINE_SECONDS = 1.5, 10.0, 5.0


def bench(request: Request, console: Console | None = None) -> dict[str, Any]:
    """Measure a run's steps and write the figures to `request.output`; returns what the file holds.

    The run is made in a temporary directory, of which nothing is left. Its data are those of the config where they are
    on this machine, else synthetic images. `metrics` that were not measured are None.

    Raises:
        UserError: what `pretrain` would refuse.
        RunError: out of memory, or the file cannot be written any more.
    """
    console = console or Console()
    began = time.perf_counter()
    asked = request.start.config
    with (
        _ends_tidily(),
        memory_advice(asked),
        tempfile.TemporaryDirectory(prefix="patchmix-bench-") as scratch,
        contextlib.ExitStack() as stack,
    ):
        stack.push(lambda error, *_: distributed.leave(failed=error is not None))
        config = _for_a_few_steps(asked, Path(scratch), request.steps)
        is_synthetic = not inputs.is_there(config.data)
        if is_synthetic:
            say(console, f"{config.data.name} is not on this machine: synthetic images take its place.")
            config = inputs.synthetic(config, Path(scratch, "images"))
        job = prepare(config, False, request.start.recipe, request.start.choices, stack)
        why_not = why_no_plain_step(job.config, job.spec, job.mix_size)
        say(console, _what(job, request))
        told = consecutive_steps(
            job, request.steps, lambda seconds: say(console, _how_long(seconds, request.steps, plain=why_not is None))
        )
        metrics, samples = _turns(job, told.batch, request.steps, plain=why_not is None)
        # Small images of a set that is absent are in memory where it is there.
        rate = config.optim.batch_size / told.seconds
        cost = input_cost(job, in_memory=is_synthetic and max(job.spec.image_size) <= SMALL)
        metrics |= {
            "images_per_second": rate,
            "consecutive_step_seconds": told.seconds,
            "data_wait_seconds": told.parts[DATA_WAIT],
            "data_wait_share": told.data_wait_share,
            "worker_ms_per_sample": cost.worker,
            "worker_kept_ms_per_sample": cost.worker_kept,
            "plain_worker_ms_per_sample": cost.plain,
            **_memory(config, job, Path(scratch), plain=why_not is None),
        }
    whole = sum(told.parts.values())
    result: dict[str, Any] = {
        "command": "bench",
        "metrics": metrics,
        "parts": {name: {"seconds": seconds, "share": seconds / whole} for name, seconds in told.parts.items()},
        "worker_stages_ms": cost.stages,
        "samples": {"consecutive_step_seconds": told.samples, **samples},
        "not_measured": {"plain_step": why_not, "plain_worker": cost.why_no_plain},
        "data": {"name": asked.data.name, "synthetic": is_synthetic, "num_images": len(job.source)},
        "settings": _settings(asked, request, job),
        "environment": environment(),
        "seconds": round(time.perf_counter() - began, 3),
    }
    # Before anything more is shown: whoever reads that may have left.
    write_text(request.output, json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    show_parts(console, told)
    show_stages(console, cost)
    show_figures(console, metrics, job.precision, why_not, cost)
    wait = 100 * told.data_wait_share
    say(console, f"In training {rate:,.{0 if rate >= 10 else 1}f} images/s; {wait:.1f} % of the time waiting for data.")
    say(console, f"Written to {request.output}.")
    return result


def _how_long(step: float, steps: int, *, plain: bool) -> str:
    """Roughly how long the rest takes, where a step takes so many seconds."""
    # Consecutive ones; then, plain ones too, those in turns, one whose operations are counted, those of peak memory.
    alone, each = steps, 1 + steps + 1 + STEPS
    processes = 2 if plain else 1
    seconds = step * (alone + each * (1 + PLAIN_STEPS * plain)) + processes * PROCESS_SECONDS + PIPELINE_SECONDS
    taken = f"{step:.2g} s" if step < 10 else duration(step)
    return f"A step takes {taken} to begin with: about {duration(10 * math.ceil(seconds / 10))} to go …"


def _for_a_few_steps(config: Config, scratch: Path, steps: int) -> Config:
    """The same run in that directory, long enough for the steps that are timed."""
    workers = config.data.num_workers if config.data.num_workers is not None else 64
    needed = num_steps_needed(steps, workers)
    run = dataclasses.replace(config.run, tensorboard=False)
    # An epoch has one step at least. Epochs change the schedules only, not what a step costs.
    optim = dataclasses.replace(config.optim, epochs=max(config.optim.epochs, needed))
    return dataclasses.replace(config, output=str(scratch / "run"), max_steps=None, run=run, optim=optim)


def _what(job: Job, request: Request) -> str:
    config, spec = job.config, job.spec
    sizes = f"width {spec.width}{f', depth {spec.depth}' if spec.is_vit else ''}"
    crops = f" and {counted(config.views.num_local_crops, 'local crop')}" if config.views.num_local_crops else ""
    return (
        f"{request.start.recipe or config.data.name}: {spec.name}, {sizes}, "
        f"{spec.image_size[0]} × {spec.image_size[1]} px{crops}, batch {config.optim.batch_size}; "
        f"{job.fabric.device.type}, {counted(torch.get_num_threads(), 'thread')}, {job.precision}, "
        f"{counted(job.loader.num_workers, 'data worker')}. {counted(request.steps, 'step')} of each kind …"
    )


def _turns(
    job: Job, batch: Batch, steps: int, *, plain: bool
) -> tuple[dict[str, float | None], dict[str, list[float]]]:
    """Steps of ours and, if there is one, of the plain version in turns, with the limits between them."""
    device = job.fabric.device
    numbers = itertools.count(1)
    functions: dict[str, Any] = {"step_seconds": lambda: take_step(job, next(numbers), batch)}
    if plain:
        other = load_plain("step").PlainStep(job.config, job.spec, device)
        other.load({name: getattr(job.module, name) for name in ("encoder", "projector", "predictor")})
        count = len(batch.views)
        # The plain pipeline's workers would hand over whole views.
        views = change_views((*batch.views, *batch.local_views), batch.photometrics)
        functions["plain_step_seconds"] = lambda: other(views[:count], views[count:])
    limits = {precision: ProductLimit(device, precision) for precision in {job.precision, PLAIN_PRECISION}}
    samples = take_turns(functions, steps, device, [each.sample for each in limits.values()])
    metrics: dict[str, float | None] = {}
    for prefix, products in (("", limits[job.precision]), ("plain_", limits[PLAIN_PRECISION])):
        name = f"{prefix}step_seconds"
        seconds = statistics.median(samples[name]) if name in samples else None
        operations = counted_operations(functions[name]) if name in functions else None
        metrics |= {
            name: seconds,
            f"{prefix}gigaflop_per_step": operations and operations / 1e9,
            f"{prefix}gigaflop_per_second": seconds and operations and operations / seconds / 1e9,
            f"{prefix}limit_gigaflop_per_second": products.per_second / 1e9,
            f"{prefix}flops_share_of_limit": seconds and operations and operations / seconds / products.per_second,
        }
    rate = metrics["gigaflop_per_second"]
    metrics["flops_share_of_plain_limit"] = rate and rate * 1e9 / limits[PLAIN_PRECISION].per_second
    return metrics, samples


def _memory(config: Config, job: Job, scratch: Path, *, plain: bool) -> dict[str, float | None]:
    """Peak memory of our steps and of plain ones, in megabytes."""
    data = dataclasses.replace(
        config.data, image_size=max(job.spec.image_size), channels=1 if job.spec.channels == 1 else 3
    )
    alike = dataclasses.replace(config, data=data)
    ours = peak_memory(alike, "ours", scratch / "ours") / MEGABYTE
    other = peak_memory(alike, "plain", scratch / "plain") / MEGABYTE if plain else None
    return {"peak_memory_mb": ours, "plain_peak_memory_mb": other}


def _settings(config: Config, request: Request, job: Job) -> dict[str, Any]:
    asked = {name: value for name, value in to_dict(config).items() if name not in ("output", "max_steps")}
    used = {
        "device": job.fabric.device.type,
        "precision": job.precision,
        "num_threads": torch.get_num_threads(),
        "num_workers": job.loader.num_workers,
    }
    return {"recipe": request.start.recipe, "steps": request.steps, **asked, "used": used}


@contextlib.contextmanager
def _ends_tidily() -> Iterator[None]:
    """Let SIGTERM end the block as an exception does, so that temporary files and other processes go too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def leave(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
