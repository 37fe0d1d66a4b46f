"""A look at the encoder while it trains: on training images only, and without leaving a trace in training."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from patchmix.config import Config
from patchmix.data.datasets import ImageSource, UnreadableImage, view_size
from patchmix.data.loading import normalise
from patchmix.data.sources import limited
from patchmix.data.views import ViewMaker
from patchmix.evaluation.diagnostics import alignment, feature_std, rankme, uniformity
from patchmix.evaluation.features import Input, InputSpec, NothingReadableError, autocast, evaluating, extract
from patchmix.evaluation.knn import leave_one_out_knn

FIXED_SEED = 0  # not the run's: runs that differ in their seed look at the same images and views
NUM_NEIGHBOURS = 20
ALIGNMENT_IMAGES = 256
BATCH_SIZE = 64


def online_evaluation(
    encoder: nn.Module,
    source: ImageSource,
    config: Config,
    device: torch.device | str,
    *,
    spec: InputSpec | None = None,
    precision: str = "32-true",
    num_workers: int = 0,
) -> dict[str, float]:
    """`rankme`, `alignment`, `uniformity`, `feature_std`, and with labels `knn_top1`, of the encoder now.

    At most `run.eval_images` training images, always the same ones (stratified where there are labels), not
    augmented; knn_top1 is leave-one-out with k = 20, in per cent; alignment compares two training views of at
    most 256 of them. The encoder gets its train/eval flags back, gradients and global random state are not
    touched, and nothing the encoder caches is an inference tensor. Unreadable images are left out; with fewer
    than two left the record is empty, with none for `alignment` it is not in the record. `spec` None: mean,
    std and size of the training views.
    """
    spec = spec or _input_of(source, config)
    subset = limited(source, config.run.eval_images)
    try:
        found = extract(
            encoder,
            subset,
            spec,
            batch_size=BATCH_SIZE,
            device=device,
            precision=precision,
            num_workers=num_workers,
            inference=False,
        )
    except NothingReadableError:
        return {}
    features = found.features.to(device)
    record: dict[str, float] = {}
    if len(features) < 2:
        return record
    if found.labels is not None and len(source.classes) > 1:
        record["knn_top1"] = leave_one_out_knn(features, found.labels, len(source.classes), k=NUM_NEIGHBOURS)
    record["rankme"] = rankme(features)
    views = _view_features(
        encoder,
        limited(source, min(ALIGNMENT_IMAGES, config.run.eval_images)),
        config,
        spec,
        torch.device(device),
        precision,
    )
    if views is not None:
        record["alignment"] = alignment(*views)
    record["uniformity"] = uniformity(features)
    record["feature_std"] = feature_std(features)
    return record


def _view_features(
    encoder: nn.Module,
    source: ImageSource,
    config: Config,
    spec: InputSpec,
    device: torch.device,
    precision: str,
) -> tuple[Tensor, Tensor] | None:
    """Features of the two global views of every readable image of `source`; None if there is none."""
    views = dataclasses.replace(config.views, num_local_crops=0)
    make = ViewMaker(views, spec.image_size, FIXED_SEED)
    first: list[Tensor] = []
    second: list[Tensor] = []
    for start in range(0, len(source), BATCH_SIZE):
        images, keys = [], []
        for index in range(start, min(start + BATCH_SIZE, len(source))):
            try:
                images.append(source.read(index))
            except UnreadableImage:
                continue
            keys.append((0, index))
        if not images:
            continue
        pair = make(images, keys)
        with torch.no_grad(), evaluating(encoder):
            for view, kept in zip(pair[:2], (first, second), strict=True):
                pixels = normalise(view.to(device), spec.mean, spec.std, torch.float32)
                with autocast(device, precision):
                    kept.append(encoder(pixels).float())
    return (torch.cat(first), torch.cat(second)) if first else None


def _input_of(source: ImageSource, config: Config) -> Input:
    return Input(view_size(source, config.data), source.channels, tuple(source.mean), tuple(source.std))
