"""Pre-training: the loop. One step reads top to bottom; what comes before the first is in preparation.py."""

from __future__ import annotations

import contextlib
import shlex
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from patchmix import distributed
from patchmix.choices import Choices
from patchmix.config import Config
from patchmix.data.batches import Batch
from patchmix.endings import memory_advice, refuse_non_finite
from patchmix.environment import program
from patchmix.interruption import Interruption, interruption
from patchmix.job import Job
from patchmix.optim import apply_settings
from patchmix.outlook import describe_plan
from patchmix.preparation import prepare, trials
from patchmix.progress import say
from patchmix.randomness import seed_step
from patchmix.schedules import settings_at
from patchmix.skipped import SkippedFiles
from patchmix.step_losses import mean_losses
from patchmix.timing import part
from patchmix.tracking import Tracker

SKIPPED, STOPPING = 1, 2  # what a process has to tell the others after a step: skipped files, a signal


@dataclass(frozen=True)
class RunResult:
    """How a run ended: exit_code 0 done, 130 after Ctrl-C, 143 after SIGTERM."""

    directory: Path
    step: int
    exit_code: int


def pretrain(
    config: Config,
    *,
    resume: bool = False,
    recipe: str | None = None,
    choices: Choices | None = None,
    console: Console | None = None,
) -> RunResult:
    """Pre-train as the config says, or go on with the run in `config.output`.

    `recipe` is the one that the config comes from, `choices` what it chose; both are said and recorded.

    Raises:
        UserError: what the user can mend, before anything is written.
        RunError: a run that could not go on: non-finite loss, out of memory, disk full.
    """
    with interruption() as interrupted, memory_advice(config), contextlib.ExitStack() as stack:
        stack.push(lambda error, *_: distributed.leave(failed=error is not None))
        job = prepare(config, resume, recipe, choices, stack)
        console = console if console is not None and job.main else Console(quiet=not job.main)
        for line in (*job.directory.messages, *([choices.text] if choices else [])):
            say(console, line)
        done, path = job.directory.steps_done, job.directory.path
        if done >= job.stop_step:
            say(console, f"The run in {path} is finished: {done:,} steps. Raise {job.end} to go on.")
            return RunResult(path, done, 0)
        trials(job)
        if job.main:
            say(console, describe_plan(job))
        with Tracker(
            path,
            config,
            console,
            done,
            total_steps=job.stop_step,
            steps_per_epoch=job.steps_per_epoch,
            title=job.recipe or config.data.name,
            main=job.main,
        ) as tracker:
            step = train(job, tracker, interrupted)
        if interrupted.signal is not None:
            how = f"Go on with: {program()} pretrain --output {shlex.quote(str(path))} --resume"
            say(console, f"Stopped by {interrupted.signal.name} after step {step:,}, saved. {how}")
        else:
            run = shlex.quote(str(path))
            then = f"knn --checkpoint {run}" if job.source.classes else f"report {run}"
            say(console, f"Saved step {step:,} in {path}/checkpoints. Next: {program()} {then}")
        return RunResult(path, step, interrupted.exit_code)


def train(job: Job, tracker: Tracker, interrupted: Interruption) -> int:
    """All steps from where the run stands; returns the last one done (saved)."""
    config, fabric = job.config, job.fabric
    skipped = SkippedFiles(job.directory.path, job.source, config.data.max_unreadable)
    step = job.directory.steps_done
    if step == 0 and job.is_evaluated(0) and job.main:
        tracker.log_epoch(job.evaluate(0))
    began = time.perf_counter()
    for step, batch in enumerate(job.loader, start=step + 1):  # noqa: B020 - counts on from the steps done
        arrived = time.perf_counter()
        found = take_step(job, step, batch)
        ended = time.perf_counter()
        record = {
            "step": step,
            "epoch": (step - 1) // job.steps_per_epoch,
            **found,
            "images_per_second": config.optim.batch_size / (ended - began),
            "data_wait": (arrived - began) / (ended - began),
        }
        refuse_non_finite(job, tracker.log_step(record))
        # All processes share what they skipped, and stop at the same step, whichever of them got the signal.
        news = SKIPPED if skipped.add(batch) else 0
        news = distributed.highest(STOPPING if interrupted else news, fabric.device)
        if news:
            skipped.share()
        if job.is_evaluated(step) and job.main:
            tracker.log_epoch(job.evaluate(step))
        if job.is_due(step) or news == STOPPING:
            refuse_non_finite(job, tracker.flush())
            job.save(step)
        if news == STOPPING:
            break
        began = time.perf_counter()  # what was evaluated and saved is no waiting for data
    return step


def take_step(job: Job, step: int, batch: Batch) -> dict[str, Any]:
    """One optimiser update, number `step` from 1: what is logged of it. On a GPU nothing here waits for the device."""
    config, fabric = job.config, job.fabric
    settings = settings_at(step - 1, config, job.steps_per_epoch)
    apply_settings(job.optimizer, settings)
    seed_step(config.seed, step, fabric.global_rank)
    if settings.momentum is not None:
        with part("momentum"):
            job.module.update_momentum_encoder(settings.momentum)
    with part("views"):
        views, local_views = job.views(batch)
        plans, local_plans = job.plans(step)
    passes = job.module.begin(views, plans, settings.temperature, local_views, local_plans)
    del views, local_views  # so that a view goes when it has run
    losses = []
    while passes.stages:
        # Gradients of the stages add up; processes share them once, with the last.
        with fabric.no_backward_sync(job.model, enabled=fabric.world_size > 1 and len(passes.stages) > 1):
            loss = job.model(passes)
            with part("backward"):
                fabric.backward(loss)
        losses.append(loss.detach())
    with part("optimiser"):
        clip = config.optim.clip_grad_norm or float("inf")  # infinity only measures the norm
        grad_norm = fabric.clip_gradients(job.model, job.optimizer, max_norm=clip, error_if_nonfinite=False)
        job.optimizer.step()
        job.optimizer.zero_grad()
    with part("logging"):
        logged = mean_losses(passes.losses, torch.stack(losses).sum())
        return {**logged, **settings._asdict(), "grad_norm": grad_norm}
