"""Pre-training: the loop. One step reads top to bottom; what comes before the first is in preparation.py."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rich.console import Console

from patchmix import distributed
from patchmix.checkpoint import list_checkpoints
from patchmix.config import Config
from patchmix.errors import RunError
from patchmix.evaluation.online import online_evaluation
from patchmix.interruption import Interruption, interruption
from patchmix.optim import apply_settings
from patchmix.outlook import describe_plan
from patchmix.preparation import Job, prepare, trials
from patchmix.randomness import seed_step
from patchmix.schedules import settings_at
from patchmix.skipped import SkippedFiles
from patchmix.tracking import Tracker

# What a process has to tell the others after a step: files it skipped (1), a signal, a loss that is not finite.
STOPPING, BROKEN = 2, 3


@dataclass(frozen=True)
class RunResult:
    """How a run ended: exit_code 0 done, 130 after Ctrl-C, 143 after SIGTERM."""

    directory: Path
    step: int
    exit_code: int


def pretrain(
    config: Config, *, resume: bool = False, recipe: str | None = None, console: Console | None = None
) -> RunResult:
    """Pre-train as the config says, or go on with the run in `config.output`.

    Raises:
        UserError: what the user can mend, before anything is written.
        RunError: a run that could not go on: non-finite loss, out of memory, disk full.
    """
    console = console or Console()
    with interruption() as interrupted, memory_advice(config), contextlib.ExitStack() as stack:
        job = prepare(config, resume, recipe, stack)
        for line in job.directory.messages if job.main else ():
            console.print(line, highlight=False, soft_wrap=True)
        done, path = job.directory.steps_done, job.directory.path
        if done >= job.stop_step:
            if job.main:
                console.print(
                    f"The run in {path} is finished: {done:,} steps. Raise {job.end} to go on.", soft_wrap=True
                )
            return RunResult(path, done, 0)
        trials(job)
        if job.main:
            console.print(describe_plan(job), highlight=False, soft_wrap=True)
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
        if interrupted and job.main:
            console.print(
                f"Stopped by {interrupted.signal.name if interrupted.signal else ''} after step {step:,}, saved. "
                f"Go on with: patchmix pretrain --output {path} --resume",
                soft_wrap=True,
            )
        return RunResult(path, step, interrupted.exit_code)


def train(job: Job, tracker: Tracker, interrupted: Interruption) -> int:
    """All steps from where the run stands; returns the last one done (saved)."""
    config, fabric, optimizer = job.config, job.fabric, job.optimizer
    skipped = SkippedFiles(job.directory.path, job.source, config.data.max_unreadable)
    step = job.directory.steps_done
    if step == 0:
        evaluate(job, tracker, step)
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
            "loss": losses.total,
            "loss_origin_to_origin": losses.origin_to_origin,
            "loss_mix_to_origin": losses.mix_to_origin,
            "loss_mix_to_mix": losses.mix_to_mix,
            **settings._asdict(),
            "grad_norm": grad_norm,
            "images_per_second": config.optim.batch_size / (ended - began),
            "data_wait": (arrived - began) / (ended - began),
        }
        if local_views:
            record |= {"loss_local": losses.local, "loss_local_mix": losses.local_mix}
        broken = tracker.log_step(record) is not None
        # All processes stop at the same step, whichever of them got the signal or the loss.
        own = BROKEN if broken else STOPPING if interrupted else 0
        trouble = distributed.highest(max(own, int(skipped.add(batch))), fabric.device)
        if trouble == BROKEN:
            raise non_finite(job, tracker.flush() or step)
        if trouble:
            skipped.share()
        if step % job.steps_per_epoch == 0:
            evaluate(job, tracker, step)
        if is_due(job, step) or trouble == STOPPING:
            if (bad := tracker.flush()) is not None:
                raise non_finite(job, bad)
            job.save(step)
        if trouble == STOPPING:
            break
        began = time.perf_counter()  # what was evaluated and saved is no waiting for data
    return step


def is_due(job: Job, step: int) -> bool:
    """Whether a checkpoint is written after this step."""
    every = job.config.run.checkpoint_every_steps or job.steps_per_epoch
    return step % every == 0 or step == job.stop_step


def evaluate(job: Job, tracker: Tracker, step: int) -> None:
    """Online evaluation at the ends of epochs, on training images only, before the checkpoint is written.

    Not where max_steps or a signal happens to stop: a resumed run logs what an uninterrupted one does.
    """
    every = job.config.run.eval_every_epochs
    epoch = step // job.steps_per_epoch
    if not every or not job.main or (epoch % every and step != job.last_step):
        return
    found = online_evaluation(
        job.module.evaluation_encoder,
        job.source,
        job.config,
        job.fabric.device,
        spec=job.spec,
        precision=job.fabric.strategy.precision.precision,
        num_workers=job.loader.num_workers,
    )
    tracker.log_epoch({"step": step, "epoch": epoch, **found})


def non_finite(job: Job, step: int) -> RunError:
    """What ends the run where a loss is not finite; nothing is saved after it."""
    whole = list_checkpoints(job.directory.path)
    last = f"the last good checkpoint is {whole[0]}" if whole else "there is no checkpoint yet"
    return RunError(
        f"the loss of step {step} is not finite; {last}, nothing was overwritten. Lower optim.lr, lengthen "
        "optim.warmup_epochs, set optim.clip_grad_norm to 1, or take run.precision 32-true or bf16-mixed"
    )


@contextlib.contextmanager
def memory_advice(config: Config) -> Iterator[None]:
    """Out of memory, on any device, becomes one line that names what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if isinstance(error, RuntimeError) and "out of memory" not in text and "can't allocate memory" not in text:
            raise
        raise RunError(
            f"out of memory: lower optim.batch_size (now {config.optim.batch_size}), data.image_size, the model's size "
            "or views.num_local_crops"
        ) from error
