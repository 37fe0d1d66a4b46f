"""Fine-tuning: what the whole network learns with labels, from pre-trained weights or from scratch (method.md).

The test images are looked at once, after the last epoch: nothing is chosen by them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from patchmix import checkpoint
from patchmix.config import FinetuneConfig, to_dict
from patchmix.environment import package_versions
from patchmix.errors import UserError
from patchmix.evaluation.description import describe_data, describe_settings
from patchmix.evaluation.features import Features
from patchmix.evaluation.opening import Evaluation, num_workers, open_evaluation
from patchmix.evaluation.results import Interval, print_table, result_path, with_interval, write_result
from patchmix.evaluation.scores import accuracies, per_class
from patchmix.evaluation.training_progress import TrainingProgress
from patchmix.evaluation.tuning import Tuner, random_state_kept, refuse_non_finite
from patchmix.evaluation.tuning_recipe import learning_rate
from patchmix.evaluation.work import MODEL_FILE, Work, encoder_identity, open_work
from patchmix.interruption import interruption
from patchmix.models.loading import CLASSIFIER_PREFIX, LoadedEncoder, untrained
from patchmix.progress import counted, say
from patchmix.skipped import SkippedFiles

SCRATCH = "none"
FLUSH_EVERY = 20  # steps on a GPU between looks at the losses, which wait for it
ENCODER_PREFIX = "encoder."


def finetune(config: FinetuneConfig, console: Console | None = None) -> dict[str, Any]:
    """Train, measure on the test images, print, write and return the result.

    Metrics are `top1` and `top5` of the trained network, `top1_ema` and `top5_ema` of its weights' moving average;
    `classification` has the network's figures per class. The network is kept in results/finetune/model.safetensors,
    a file that `--checkpoint` takes. Raises UserError for whatever the user can mend, RunError where the loss or the
    logits are not finite or the disk is full.
    """
    console = console or Console()
    started = time.perf_counter()
    evaluation = open_evaluation("finetune", config, loaded=_untrained(config))
    path = result_path("finetune", evaluation.loaded.run_directory, config.output)
    with random_state_kept(evaluation.device):
        tuner = Tuner(
            evaluation.loaded,
            evaluation.train,
            evaluation.spec,
            config,
            device=evaluation.device,
            precision=evaluation.precision,
            num_workers=num_workers(config.data, evaluation.train, evaluation.device),
        )
        with contextlib.closing(open_work("finetune", config, path, _identity(evaluation, tuner))) as work:
            for line in (*work.messages, _describe(evaluation, tuner)):
                say(console, line)
            started -= 0.0 if work.resumed is None else work.resumed.metadata["seconds"]
            skipped = _train(tuner, work, console, started)
            measured = {"": tuner.logits(evaluation.test, console=console)}
            _refuse_unreadable(evaluation, measured[""])
            if tuner.ema is not None:
                measured["_ema"] = tuner.logits(evaluation.test, ema=True, console=console, title="moving average")
            _write_network(work.path / MODEL_FILE, evaluation, tuner)
            work.finish()
    return _report(evaluation, tuner, measured, skipped, path, time.perf_counter() - started, console)


def _untrained(config: FinetuneConfig) -> LoadedEncoder | None:
    """With --checkpoint none the architecture that is named, before training; it belongs to no run."""
    if config.checkpoint != SCRATCH:
        return None
    assert config.architecture is not None
    return untrained(config.architecture, num_heads=config.num_heads, seed=config.seed)


def _identity(evaluation: Evaluation, tuner: Tuner) -> dict[str, Any]:
    """What must be the same for the work to go on."""
    return {
        "encoder": encoder_identity(evaluation.loaded),
        "input": evaluation.spec.to_dict(),
        "train": evaluation.train.fingerprint,
        "test": evaluation.test.fingerprint,
        "plan": dataclasses.asdict(tuner.plan),
        "precision": evaluation.precision,
    }


def _describe(evaluation: Evaluation, tuner: Tuner) -> str:
    """What is about to happen, in words."""
    config, plan = tuner.config, tuner.plan
    trained = sum(each.numel() for each in tuner.network.parameters() if each.requires_grad)
    photos = plan.augmentation in ("crop", "pad")
    changes = [plan.augmentation, *([config.rand_augment or f"jitter {config.jitter:g}"] if photos else [])]
    lines = [
        f"{evaluation.loaded.description}.",
        f"{len(evaluation.train):,} training images of {evaluation.train.name}, {len(evaluation.train.classes)} "
        f"classes; {counted(config.epochs, 'epoch')} of {counted(plan.steps_per_epoch, 'step')}, batch "
        f"{plan.batch_size}, warm-up {counted(plan.warmup_steps, 'step')}, peak learning rate "
        f"{plan.peak:.3g}; augmentation {', '.join(changes)}.",
        f"{trained / 1e6:.2f} M parameters trained{' (the head alone)' if config.freeze else ''}; "
        f"{evaluation.device.type}, {counted(evaluation.num_threads, 'thread')}, {evaluation.precision}.",
    ]
    if config.ema_decay and plan.total_steps * (1 - config.ema_decay) < 1:
        lines.append(
            f"The moving average of the weights reaches back {1 / (1 - config.ema_decay):,.0f} steps, further than "
            f"these {plan.total_steps:,}: top1_ema will stay near the new head's. --ema_decay 0 leaves it out."
        )
    return "\n".join(lines)


def _train(tuner: Tuner, work: Work, console: Console, started: float) -> list[tuple[str, str]]:
    """All steps that are left, saved at the ends of epochs and when a signal comes; returns what cannot be read."""
    plan, config = tuner.plan, tuner.config
    if work.resumed is not None:
        tuner.load(work.resumed)
    loader = tuner.batches(work.steps_done)
    skipped = SkippedFiles(work.path, tuner.train, config.data.max_unreadable)
    flush_every = 1 if tuner.fabric.device.type == "cpu" else FLUSH_EVERY
    step = work.steps_done
    with (
        interruption() as interrupted,
        TrainingProgress(
            console,
            "finetune",
            total_steps=loader.total_steps,
            steps_per_epoch=loader.steps_per_epoch,
            epochs=config.epochs,
            steps_done=work.steps_done,
        ) as progress,
    ):
        for step, batch in enumerate(loader, start=step + 1):  # noqa: B020 - counts on from the steps done
            loss = tuner.step(step, batch)
            skipped.note(batch)
            progress.advance(step, loss, len(batch.labels), lr=learning_rate(config, plan, step - 1))
            end = step % (config.checkpoint_every_epochs * plan.steps_per_epoch) == 0 or step == plan.total_steps
            if end or interrupted or step % flush_every == 0:
                records = progress.records()
                work.log(records)
                refuse_non_finite(torch.tensor([each["loss"] for each in records]), step)
            if end or interrupted:
                about = {"scaler": tuner.scaler(), "seconds": time.perf_counter() - started}
                work.save(step, tuner.tensors(), about)
            if interrupted:
                break
    if interrupted:
        work.stop(interrupted, step, console)
    return skipped.listed()


def _refuse_unreadable(evaluation: Evaluation, measured: Features) -> None:
    """UserError where more than `data.max_unreadable` of the test images cannot be read."""
    try:
        evaluation.check_readable(evaluation.test, measured.skipped)
    except UserError as error:
        raise UserError(f"{error}. What was trained is saved: raise the option and measure with --resume") from None


def _write_network(path: Path, evaluation: Evaluation, tuner: Tuner) -> None:
    """The trained network as a file that `resolve_encoder` reads: the encoder, and the classifier apart."""
    loaded = evaluation.loaded
    own = loaded.encoder.state_dict().keys()
    tensors: dict[str, Tensor] = {
        (ENCODER_PREFIX if name in own else CLASSIFIER_PREFIX) + name: value
        for name, value in tuner.network.state_dict().items()
    }
    # Position embeddings keep the size that they were made for, whatever size was trained on.
    spec = dataclasses.replace(evaluation.spec, image_size=loaded.spec.image_size)
    metadata = {
        "step": tuner.plan.total_steps,
        "command": "finetune",
        "encoder": spec.to_dict(),
        "num_classes": len(evaluation.train.classes),
        "classes": list(evaluation.train.classes),
        "config": loaded.config,
        "finetune": to_dict(tuner.config),
        "versions": package_versions(),
    }
    checkpoint.write(path, tensors, metadata)


def _report(
    evaluation: Evaluation,
    tuner: Tuner,
    measured: dict[str, Features],
    skipped: list[tuple[str, str]],
    path: Path,
    seconds: float,
    console: Console,
) -> dict[str, Any]:
    """Write and print the result."""
    config = tuner.config
    metrics: dict[str, float] = {}
    intervals: dict[str, Interval] = {}
    rows = []
    for suffix, title in (("", "trained network"), ("_ema", "moving average")):
        if suffix in measured:
            labels = measured[suffix].labels
            assert labels is not None
            found, bounds = accuracies(measured[suffix].features, labels)
            metrics |= {name + suffix: value for name, value in found.items()}
            intervals |= {name + suffix: bound for name, bound in bounds.items()}
            rows.append([title, *(with_interval(found[name], bounds[name]) for name in ("top1", "top5"))])
    first = measured[""]
    assert first.labels is not None
    left_out = {"train": [list(each) for each in skipped], "test": [[file, why] for _, file, why in first.skipped]}
    for split, found_bad in left_out.items():
        if found_bad:
            say(console, f"{len(found_bad):,} {split} images cannot be read; the first: {': '.join(found_bad[0])}")
    on = evaluation.summary_of(len(first.labels)).removeprefix(f"{SCRATCH} ")
    begun = f"From scratch, {config.architecture}, " if config.checkpoint == SCRATCH else "Fine-tuned, "
    print_table(console, f"{begun}{counted(config.epochs, 'epoch')}, {on}", ["", "top-1 %", "top-5 %"], rows)
    # After the tables: a full disk must not take what was measured with it.
    result = write_result(
        path,
        command="finetune",
        checkpoint=config.checkpoint,
        data=describe_data(evaluation),
        metrics=metrics,
        intervals=intervals,
        classification=per_class(first.features.argmax(dim=1), first.labels, evaluation.train.classes),
        skipped=left_out,
        settings={
            **describe_settings(evaluation),
            "features": "the network begins as the momentum encoder where there is one, with a new linear head",
            "plan": dataclasses.asdict(tuner.plan),
            "interval": "95 %, bootstrap over test images",
            "network": str(path.with_suffix("") / MODEL_FILE),
        },
        seconds=seconds,
        console=console,
    )
    say(console, f"Written to {path}; the network to {path.with_suffix('') / MODEL_FILE}")
    return result
