"""`patchmix detect`: a Mask R-CNN on an encoder, trained on marked objects and scored as COCO scores.

The images that are scored are looked at once, after the last epoch: nothing is chosen by them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from patchmix.config import to_dict
from patchmix.config.detection import DetectConfig
from patchmix.environment import resolve_device, resolve_precision, set_threads
from patchmix.evaluation.finetune import SCRATCH
from patchmix.evaluation.results import print_table, result_path, write_result
from patchmix.evaluation.training_progress import TrainingProgress
from patchmix.evaluation.tuning import random_state_kept, refuse_non_finite
from patchmix.evaluation.work import Work, encoder_identity, open_work
from patchmix.interruption import interruption
from patchmix.models.loading import LoadedEncoder, resolve_encoder, untrained
from patchmix.progress import counted, say
from patchmix.skipped import SkippedFiles
from patchmix.transfer.coco_results import Found, Record, to_records, write_results
from patchmix.transfer.detection_data import DetectionImages, open_splits, scoring_loader, training_loader
from patchmix.transfer.detection_training import DetectionTrainer, Plan, learning_rate, make_plan
from patchmix.transfer.pictures import draw_pictures
from patchmix.transfer.scoring import Scorer, score_records

PREDICTIONS_FILE = "predictions.json"
FLUSH_EVERY = 20  # steps on a GPU between looks at the losses, which wait for it
SHOWN = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large", "ar100")
HEADINGS = ("AP", "AP50", "AP75", "small", "medium", "large", "AR100")


def detect(config: DetectConfig, console: Console | None = None) -> dict[str, Any]:
    """Train a detector, score it on the val images, print, write and return the result.

    Metrics are COCO's, in per cent: `box_ap`, `box_ap50`, …, with masks `mask_ap`, … (transfer/scoring.py). What was
    found is kept in results/detect/predictions.json, in COCO's result format. Raises UserError for whatever the user
    can mend, RunError where the loss is not finite or the disk is full.
    """
    console = console or Console()
    started = time.perf_counter()
    device = resolve_device(config.run.device)
    threads = set_threads(config.run.num_threads)
    precision = resolve_precision(config.run.precision, device)
    loaded = _loaded(config)
    path = result_path("detect", loaded.run_directory, config.output)
    train, val = open_splits(config)
    plan = make_plan(config, len(train), device, loaded.spec.patch_size)
    with random_state_kept(device):
        trainer = DetectionTrainer(
            loaded, len(train.annotations.categories), plan, config, device=device, precision=precision
        )
        identity = _identity(loaded, train, val, plan, precision)
        with contextlib.closing(open_work("detect", config, path, identity)) as work:
            about = _describe(loaded, trainer, train, val, f"{device.type}, {counted(threads, 'thread')}, {precision}")
            for line in (*work.messages, *about):
                say(console, line)
            started -= 0.0 if work.resumed is None else work.resumed.metadata["seconds"]
            skipped = {"train": _train(trainer, train, work, console, started)}
            records, skipped["val"] = _find(trainer, val)
            write_results(work.path / PREDICTIONS_FILE, records)
            work.finish()
    scorer = score_records(records, val.annotations, masks=config.masks)
    folder = path.with_suffix("")
    settings = {
        **to_dict(config),
        "encoder": loaded.spec.to_dict(),
        "loaded": loaded.description,
        "plan": dataclasses.asdict(plan),
        "predictions": str(folder / PREDICTIONS_FILE),
        "used": {"device": str(device), "precision": precision, "num_threads": threads},
    }
    result = _report(config, scorer, (train, val), skipped, settings, path, time.perf_counter() - started, console)
    draw_pictures(folder, val, records, scorer, number=config.overlays, masks=config.masks)
    say(console, f"What was found, and pictures of it, is in {folder}")
    return result


def _loaded(config: DetectConfig) -> LoadedEncoder:
    """The encoder that training begins from."""
    if config.checkpoint != SCRATCH:
        return resolve_encoder(config.checkpoint, num_heads=config.num_heads)
    assert config.architecture is not None
    return untrained(config.architecture, num_heads=config.num_heads, seed=config.seed)


def _identity(
    loaded: LoadedEncoder, train: DetectionImages, val: DetectionImages, plan: Plan, precision: str
) -> dict[str, Any]:
    """What must be the same for the work to go on."""
    return {
        "encoder": encoder_identity(loaded),
        "train": train.fingerprint,
        "val": val.fingerprint,
        "plan": dataclasses.asdict(plan),
        "precision": precision,
    }


def _describe(
    loaded: LoadedEncoder, trainer: DetectionTrainer, train: DetectionImages, val: DetectionImages, machine: str
) -> list[str]:
    """What is about to happen, in words, and what was left out of the annotations."""
    plan, config = trainer.plan, trainer.config
    trained = sum(each.numel() for each in trainer.detector.parameters() if each.requires_grad)
    lines = [
        f"{loaded.description}.",
        f"{len(train):,} training images with {train.num_objects:,} objects of "
        f"{counted(len(train.annotations.categories), 'category').replace('categorys', 'categories')}, "
        f"{len(val):,} to score on; {'boxes and masks' if config.masks else 'boxes'}.",
        f"{counted(config.epochs, 'epoch')} of {counted(plan.steps_per_epoch, 'step')}, {plan.batch_size} images of "
        f"{plan.image_size} px a step, warm-up {counted(plan.warmup_steps, 'step')}, peak learning rate "
        f"{plan.peak:.3g}; {trained / 1e6:.1f} M parameters trained"
        f"{' (the encoder is frozen)' if config.freeze else ''}; {machine}.",
    ]
    for split in (train, val):
        dropped = {reason: number for reason, number in split.annotations.dropped.items() if number}
        if dropped:
            listed = ", ".join(f"{number:,} {reason}" for reason, number in dropped.items())
            lines.append(f"Left out of {split.annotations.name}: {listed}.")
    return lines


def _train(
    trainer: DetectionTrainer, train: DetectionImages, work: Work, console: Console, started: float
) -> list[tuple[str, str]]:
    """All steps that are left, saved at the ends of epochs and when a signal comes; returns what cannot be read."""
    plan, config = trainer.plan, trainer.config
    if work.resumed is not None:
        trainer.load(work.resumed)
    loader = training_loader(
        train,
        seed=config.seed,
        image_size=plan.image_size,
        batch_size=plan.batch_size,
        epochs=config.epochs,
        steps_done=work.steps_done,
        jitter=config.jitter,
        flip=plan.flip,
        num_workers=config.data.num_workers,
        pin_memory=trainer.fabric.device.type == "cuda",
    )
    skipped = SkippedFiles(work.path, train.source, config.data.max_unreadable)
    flush_every = 1 if trainer.fabric.device.type == "cpu" else FLUSH_EVERY
    step = work.steps_done
    with (
        interruption() as interrupted,
        TrainingProgress(
            console,
            "detect",
            total_steps=plan.total_steps,
            steps_per_epoch=plan.steps_per_epoch,
            epochs=config.epochs,
            steps_done=work.steps_done,
        ) as progress,
    ):
        for step, batch in enumerate(loader, start=step + 1):  # noqa: B020 - counts on from the steps done
            loss, parts = trainer.step(step, batch.images, batch.targets)
            skipped.note(batch)
            progress.advance(step, loss, len(batch.images), lr=learning_rate(plan, step - 1), **parts)
            end = step % (config.checkpoint_every_epochs * plan.steps_per_epoch) == 0 or step == plan.total_steps
            if end or interrupted or step % flush_every == 0:
                records = progress.records()
                work.log(records)
                refuse_non_finite(torch.tensor([each["loss"] for each in records]), step)
            if end or interrupted:
                about = {"scaler": trainer.scaler(), "seconds": time.perf_counter() - started}
                work.save(step, trainer.tensors(), about)
            if interrupted:
                break
    if interrupted:
        work.stop(interrupted, step, console)
    return skipped.listed()


def _find(trainer: DetectionTrainer, val: DetectionImages) -> tuple[list[Record], list[tuple[str, str]]]:
    """What the detector finds in the val images, as COCO's records; and which of them cannot be read, and why."""
    records: list[Record] = []
    unreadable: list[tuple[str, str]] = []
    config = trainer.config
    for batch in scoring_loader(val, batch_size=config.run.batch_size, num_workers=config.data.num_workers):
        unreadable += [(path, why) for _, path, why in batch.skipped]
        for image_id, found in zip(batch.image_ids, trainer.detect(batch.images), strict=True):
            masks = found["masks"][:, 0] > 0.5 if "masks" in found else None
            each = Found(found["boxes"], found["scores"], found["labels"], masks)
            records += to_records(image_id, each, val.annotations)
    return records, unreadable


def _report(
    config: DetectConfig,
    scorer: Scorer,
    splits: tuple[DetectionImages, DetectionImages],
    skipped: Mapping[str, list[tuple[str, str]]],
    settings: Mapping[str, Any],
    path: Path,
    seconds: float,
    console: Console,
) -> dict[str, Any]:
    """Write and print the result."""
    metrics = scorer.metrics()
    rows = [
        [kind, *(f"{metrics[f'{kind}_{name}']:.1f}" if f"{kind}_{name}" in metrics else "–" for name in SHOWN)]
        for kind in (("box", "mask") if config.masks else ("box",))
    ]
    begun = f"From scratch, {config.architecture}" if config.checkpoint == SCRATCH else config.checkpoint
    title = f"{begun}, {counted(config.epochs, 'epoch')}, scored on {len(splits[1]):,} images, %"
    print_table(console, title, ["", *HEADINGS], rows)
    train, val = splits
    for split, unreadable in skipped.items():
        if unreadable:
            say(console, f"{len(unreadable):,} {split} images cannot be read; the first: {': '.join(unreadable[0])}")
    result = write_result(
        path,
        command="detect",
        checkpoint=config.checkpoint,
        data={
            "name": config.data.name,
            "num_train": len(train),
            "num_val": len(val),
            "categories": [category.name for category in train.annotations.categories],
            "dropped": {split.annotations.name: dict(split.annotations.dropped) for split in splits},
            "fingerprint": {"train": train.fingerprint, "val": val.fingerprint},
        },
        metrics=metrics,
        intervals={},
        per_category=scorer.per_category(),
        skipped={split: [list(each) for each in unreadable] for split, unreadable in skipped.items()},
        settings=settings,
        seconds=seconds,
        console=console,
    )
    say(console, f"Written to {path}")
    return result
