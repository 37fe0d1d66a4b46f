"""The linear probe of the paper (method.md, Evaluation), for many heads in one pass of the frozen encoder.

SGD with momentum 0.9 and no weight decay, learning rate per 256 images by width, cosine to 0 over 100 epochs, random
resized crop and flip. Two sets of heads learn side by side: one from all training images, whose figures are reported,
and one from all but those held out, which only chooses among them.
"""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from patchmix.config import ProbeConfig
from patchmix.data.augmentation import create_augment
from patchmix.data.labelled import LabelledLoader
from patchmix.data.loading import normalise
from patchmix.data.sources import Subset
from patchmix.data.unreadable import tsv_field
from patchmix.errors import RunError, UserError
from patchmix.evaluation.augmented import probe_augmentation
from patchmix.evaluation.description import say_skipped
from patchmix.evaluation.features import Features, autocast, evaluating
from patchmix.evaluation.opening import Evaluation, num_workers
from patchmix.evaluation.pooling import ProbeEncoder
from patchmix.evaluation.probe_heads import LinearHeads, held_out
from patchmix.evaluation.probe_outcome import GridEntry, Outcome, Row, available, best
from patchmix.evaluation.training_progress import TrainingProgress
from patchmix.evaluation.work import encoder_identity, open_work
from patchmix.interruption import interruption
from patchmix.progress import say
from patchmix.schedules import cosine
from patchmix.skipped import SkippedFiles

PUBLISHED_LR = {192: 0.05, 384: 0.02}  # by width, up to this one; else:
WIDEST_LR = 0.01
FACTORS = (0.1, 1 / 3, 1.0, 3.0, 10.0, 30.0, 100.0)
BATCH_SIZES = {"imagenet": 1024}
BATCH_SIZE = 256


def published_lr(width: int) -> float:
    """The published learning rate per 256 images of the paper's ViT of this width; of the next wider one between."""
    return next((lr for widest, lr in PUBLISHED_LR.items() if width <= widest), WIDEST_LR)


def learning_rates(config: ProbeConfig, width: int) -> tuple[float, ...]:
    """The grid, ascending: as given, else the published rate of this width and others around it."""
    return tuple(sorted(set(config.lr or (factor * published_lr(width) for factor in FACTORS))))


def protocol_probe(evaluation: Evaluation, config: ProbeConfig, path: Path, console: Console) -> Outcome:
    """Train both sets of heads, choose by the held-out images, and score the test images."""
    train, labels = evaluation.train, evaluation.train.labels
    assert labels is not None
    encoder = ProbeEncoder(evaluation.loaded.encoder, evaluation.spec).to(evaluation.device)
    held = held_out(labels, config.holdout, config.seed)
    if not bool(held.any()):
        raise UserError("every class has one training image only: none can be held out to choose the head")
    lrs = learning_rates(config, evaluation.spec.width)
    slices = available(encoder.slices, config.poolings)
    heads = LinearHeads(slices, lrs, len(train.classes), sets=2, seed=config.seed, device=evaluation.device)
    unreadable = dict(_train(evaluation, config, encoder, heads, held, path, console))

    chosen_by = evaluation.features(
        encoder, Subset(train, held.nonzero()[:, 0].numpy()), evaluation.spec, "held out", console
    )
    accuracies = _accuracies(heads, chosen_by.features, chosen_by.labels, evaluation.device)
    grid = [GridEntry(head.pooling, head.lr, accuracy) for head, accuracy in zip(heads.heads, accuracies, strict=True)]
    if all(each.holdout_top1 is None for each in grid):
        raise RunError("every head diverged: give smaller learning rates (--lr)")
    test = evaluation.features(encoder, evaluation.test, evaluation.spec, "encoder", console)
    expected = test.labels
    assert expected is not None
    chosen = best(grid)

    def row(title: str, suffix: str, entry: GridEntry) -> Row:
        scores = _logits(heads, test.features, entry, evaluation.device)
        return Row("", suffix, f"{title} ({entry.pooling}, lr {entry.value:.3g})", scores, expected)

    rows = [row("chosen head", "", chosen)]
    published = GridEntry(next(iter(encoder.slices)), published_lr(evaluation.spec.width), None)
    rows += [
        row("published head", "_published", each)
        for each in grid
        if (each.pooling, each.value) == (published.pooling, published.value) and each.holdout_top1 is not None
    ]
    unreadable |= _named(chosen_by)  # since training began
    skipped = {
        "train": say_skipped("train", list(unreadable.items()), len(train), console),
        "test": say_skipped("test", list(_named(test).items()), len(evaluation.test), console),
    }
    return Outcome("lr", int(held.sum()), grid, chosen, rows, skipped, {"num_blocks": encoder.num_blocks})


def protocol_settings(config: ProbeConfig, evaluation: Evaluation) -> dict[str, Any]:
    """What the result says about how this was done."""
    return {
        "protocol": f"frozen encoder, {config.epochs} epochs of SGD (momentum 0.9, no decay), cosine to 0, "
        f"batch {batch_size(config)}, augmentation {probe_augmentation(config.augmentation, config.data)}",
        "selection": f"pooling and learning rate by heads that learn from all but {100 * config.holdout:.3g} % of the "
        "training images and are scored on those; reported are the same heads, learned from all of them",
        "published_lr": published_lr(evaluation.spec.width),
    }


def batch_size(config: ProbeConfig) -> int:
    """Images per step: as given, else as published for this data set."""
    return config.batch_size or BATCH_SIZES.get(config.data.name, BATCH_SIZE)


def _train(
    evaluation: Evaluation,
    config: ProbeConfig,
    encoder: ProbeEncoder,
    heads: LinearHeads,
    held: Tensor,
    path: Path,
    console: Console,
) -> list[tuple[str, str]]:
    """All steps that are left, saved at the ends of epochs and when a signal comes; returns what cannot be read."""
    kind = probe_augmentation(config.augmentation, config.data)
    identity = {
        "train": evaluation.train.fingerprint,
        "encoder": encoder_identity(evaluation.loaded),
        "lrs": list(heads.lrs),
        "batch_size": batch_size(config),
        "augmentation": kind,
        "precision": evaluation.precision,
    }
    with interruption() as interrupted, contextlib.closing(open_work("probe", config, path, identity)) as work:
        for line in work.messages:
            say(console, line)
        if work.resumed is not None:
            heads.load(work.resumed.tensors)
        loader = LabelledLoader(
            evaluation.train,
            create_augment(kind, evaluation.spec, config.seed),
            seed=config.seed,
            batch_size=batch_size(config),
            epochs=config.epochs,
            steps_done=work.steps_done,
            num_workers=num_workers(config.data, evaluation.train, evaluation.device),
            pin_memory=evaluation.device.type == "cuda",
        )
        skipped = SkippedFiles(work.path, evaluation.train, config.data.max_unreadable)
        peak = loader.batch_size / 256
        with (
            TrainingProgress(
                console,
                "probe",
                total_steps=loader.total_steps,
                steps_per_epoch=loader.steps_per_epoch,
                epochs=config.epochs,
                steps_done=work.steps_done,
            ) as progress,
            evaluating(encoder),
        ):
            for step, batch in enumerate(loader, start=work.steps_done + 1):
                skipped.note(batch)
                labels = batch.labels.to(evaluation.device)
                # [n, sets]: all images teach the heads that are reported, the kept ones those that choose.
                kept = (~held[batch.indices]).double()
                counts = torch.stack([torch.ones_like(kept), kept], dim=1)
                weights = (counts / counts.sum(dim=0).clamp(min=1)).float().to(evaluation.device)
                features = _features(evaluation, encoder, batch.images)
                share = learning_rate_share(step, loader.total_steps)
                losses = heads.step(features, labels, weights, peak * share)
                progress.advance(step, losses[:, : len(heads.lrs)].min(), len(labels))
                done = step == loader.total_steps
                if done or interrupted or step % (config.checkpoint_every_epochs * loader.steps_per_epoch) == 0:
                    work.log(progress.records())
                    work.save(step, heads.tensors(), {"epoch": step / loader.steps_per_epoch})
                if interrupted and not done:
                    work.stop(interrupted, step, console)
        work.finish()
        return skipped.listed()


def learning_rate_share(step: int, total_steps: int) -> float:
    """What a step, counted from 1, takes of a head's learning rate: cosine to 0; of a single step all, not 0."""
    return 1.0 if total_steps == 1 else cosine(1.0, 0.0, step - 1, total_steps)


def _named(features: Features) -> dict[str, str]:
    """Path, as skipped.tsv has it, and why of each image that could not be read."""
    return {tsv_field(path): tsv_field(why) for _, path, why in features.skipped}


def _features(evaluation: Evaluation, encoder: ProbeEncoder, images: Tensor) -> Tensor:
    images = images.to(evaluation.device, non_blocking=True)
    pixels = normalise(images, evaluation.spec.mean, evaluation.spec.std, torch.float32)
    with torch.inference_mode(), autocast(evaluation.device, evaluation.precision):
        found: Tensor = encoder(pixels).float()
    return found


def _logits(heads: LinearHeads, features: Tensor, entry: GridEntry, device: torch.device) -> Tensor:
    """Test logits [n, classes] of the reported set's head."""
    return heads.head_logits(features.to(device), entry.pooling, heads.lrs.index(entry.value)).cpu()


def _accuracies(
    heads: LinearHeads, features: Tensor, labels: Tensor | None, device: torch.device
) -> list[float | None]:
    """Accuracy in per cent of each head of the choosing set; None for one that diverged."""
    assert labels is not None
    features, labels = features.to(device), labels.to(device)
    found: list[float | None] = []
    for pooling in heads.slices:
        for place in range(len(heads.lrs)):
            # One head at a time: those of all together would not fit into the memory for many classes.
            scores = heads.head_logits(features, pooling, len(heads.lrs) + place)
            right = (scores.argmax(dim=1) == labels).double().mean()
            found.append(100 * float(right) if bool(torch.isfinite(scores).all()) else None)
    return found
