"""What is about to happen, in words, before it happens: images, steps, parameters, device, expected time."""

from __future__ import annotations

import math
import time

import torch

from patchmix import schedules
from patchmix.contrasts import has_momentum, mixes
from patchmix.cost import forward_units
from patchmix.job import Job
from patchmix.progress import counted, duration

MOST_PASSES, MOST_SECONDS = 8, 3.0


def estimate_step_seconds(job: Job, images: int = 16) -> float:
    """Least seconds a step, from the fastest of a few forward passes of the encoder and method.md's cost units.

    A view that asks costs three forward passes (a backward counts two), a view that answers one; with
    local crops by their area. The heads and the data are not counted.
    """
    local_batch = job.config.optim.batch_size // job.fabric.world_size
    images = min(images, local_batch)
    batch = torch.zeros(images, job.spec.channels, *job.spec.image_size, device=job.fabric.device)
    encoder = job.module.encoder
    encoder.eval()  # no drop path, so no random numbers are used up
    fastest, begun = math.inf, time.perf_counter()
    with torch.no_grad(), job.fabric.autocast():
        for number in range(MOST_PASSES):  # the first passes only warm up
            _wait(job.fabric.device)
            start = time.perf_counter()
            encoder(batch)
            _wait(job.fabric.device)
            fastest = min(fastest, time.perf_counter() - start)
            if time.perf_counter() - begun > MOST_SECONDS and number > 0:
                break
    seconds = fastest / images * local_batch
    encoder.train()
    return seconds * forward_units(job.config, job.spec.image_size)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def describe_plan(job: Job) -> str:
    """What is about to happen, in words: images, steps, parameters, device, expected time."""
    config, spec = job.config, job.spec
    remaining = job.stop_step - job.directory.steps_done
    encoder = sum(parameter.numel() for parameter in job.module.encoder.parameters())
    trained = sum(parameter.numel() for parameter in job.module.parameters() if parameter.requires_grad)
    warmup = schedules.num_warmup_steps(config, job.steps_per_epoch)
    shortened = warmup < round(config.optim.warmup_epochs * job.steps_per_epoch)
    processes = f"{job.fabric.world_size} × " if job.fabric.world_size > 1 else ""
    seconds = estimate_step_seconds(job) * remaining
    expected = f"at least {duration(seconds)}" if seconds >= 5 else "a few seconds"
    return (
        f"{len(job.source):,} images of {job.source.name}; {counted(config.optim.epochs, 'epoch')} of "
        f"{counted(job.steps_per_epoch, 'step')}, batch {config.optim.batch_size}, warm-up {counted(warmup, 'step')}"
        + (" (shortened to half the run)" if shortened else "")
        + f".\n{spec.name}, width {spec.width}{f', depth {spec.depth}' if spec.is_vit else ''}: "
        f"{encoder / 1e6:.2f} M parameters "
        f"({trained / 1e6:.2f} M trained with heads), "
        f"{spec.image_size[0]} × {spec.image_size[1]} px{_patches(job)}, {_method(job)}, "
        f"{'momentum encoder' if has_momentum(config.method) else 'no momentum encoder'}.\n"
        f"{processes}{job.fabric.device.type}, {counted(torch.get_num_threads(), 'thread')}, {job.precision}, "
        f"{counted(job.loader.num_workers, 'data worker')}; {counted(remaining, 'step')} to go, "
        f"{expected}.\n"
        f"Writing to {job.directory.path}."
    )


def _method(job: Job) -> str:
    method = job.config.method
    mixed = f"M = {method.num_mix}" if _mixes(job) else "no mixing"
    return mixed if method.name == "patchmix" else f"{method.name}, {mixed}"


def _mixes(job: Job) -> bool:
    return mixes(job.config.method, job.config.views.num_local_crops > 0)


def _patches(job: Job) -> str:
    """The model's patches, and the mixing squares where they are others."""
    of_model = f" in patches of {job.spec.patch_size}" if job.spec.is_vit else ""
    other = job.mix_size != job.spec.patch_size and job.config.method.num_mix > 1 and _mixes(job)
    return of_model + (f", mixed in squares of {job.mix_size}" if other else "")
