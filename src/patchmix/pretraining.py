"""Pre-training: the loop. One step reads top to bottom; what comes before the first is in preparation.py."""

from __future__ import annotations

import contextlib
import shlex
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from patchmix import distributed
from patchmix.choices import Choices
from patchmix.config import Config
from patchmix.endings import memory_advice, refuse_non_finite
from patchmix.environment import program
from patchmix.interruption import Interruption, interruption
from patchmix.job import Job
from patchmix.method import mean_losses
from patchmix.optim import apply_settings
from patchmix.outlook import describe_plan
from patchmix.preparation import prepare, trials
from patchmix.progress import say
from patchmix.randomness import seed_step
from patchmix.schedules import settings_at
from patchmix.skipped import SkippedFiles
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
    config, fabric, optimizer = job.config, job.fabric, job.optimizer
    skipped = SkippedFiles(job.directory.path, job.source, config.data.max_unreadable)
    step = job.directory.steps_done
    if step == 0 and job.is_evaluated(0) and job.main:
        tracker.log_epoch(job.evaluate(0))
    clip = config.optim.clip_grad_norm or float("inf")  # infinity only measures the norm
    began = time.perf_counter()
    for step, batch in enumerate(job.loader, start=step + 1):  # noqa: B020 - counts on from the steps done
        arrived = time.perf_counter()
        epoch = (step - 1) // job.steps_per_epoch
        settings = settings_at(step - 1, config, job.steps_per_epoch)
        apply_settings(optimizer, settings)
        seed_step(config.seed, step, fabric.global_rank)
        if settings.momentum is not None:
            job.module.update_momentum_encoder(settings.momentum)
        views, local_views = job.views(batch)
        plans, local_plans = job.plans(step)
        losses = job.model(views, plans, settings.temperature, local_views, local_plans)
        fabric.backward(losses.total)
        grad_norm = fabric.clip_gradients(job.model, optimizer, max_norm=clip, error_if_nonfinite=False)
        optimizer.step()
        optimizer.zero_grad()

        ended = time.perf_counter()
        record = {
            "step": step,
            "epoch": epoch,
            **mean_losses(losses, with_crops=bool(local_views)),
            **settings._asdict(),
            "grad_norm": grad_norm,
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
