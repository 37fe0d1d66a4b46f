"""What an encoder is compared with: the same network untrained, and raw pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from torch import nn

from patchmix.data.datasets import ImageSource
from patchmix.evaluation.features import Features, Input, InputSpec
from patchmix.evaluation.opening import Evaluation

LARGEST_PIXEL_SIDE = 64
THUMBNAIL = (32, 32)
PIXELS = "pixels_"
"""Prefix of the metrics of raw pixels."""


@dataclass(frozen=True)
class Subject:
    """One row of a table: features of both splits, and the prefix of its metrics' names."""

    prefix: str
    title: str
    train: Features
    test: Features


def subjects(evaluation: Evaluation, console: Console, baselines: bool) -> Iterator[Subject]:
    """The encoder, then (with `baselines`) the untrained encoder and raw pixels, one at a time in memory.

    The untrained encoder has the same architecture, initialised as before pre-training; `seed` seeds it.
    """

    def features(title: str, prefix: str, encoder: nn.Module) -> Subject:
        encoder = encoder.to(evaluation.device)
        return Subject(prefix, title, *_both_splits(evaluation, encoder, evaluation.spec, title, console))

    yield features("encoder", "", evaluation.loaded.encoder)
    if baselines:
        untrained = evaluation.loaded.untrained(evaluation.config.seed)
        yield features("untrained encoder", "random_init_", untrained)
        yield pixel_subject(evaluation, console)


def pixel_evaluation(evaluation: Evaluation) -> tuple[Evaluation, Input]:
    """How raw pixels in [0, 1] are evaluated: with `nn.Flatten()` in the encoder's place, and this input.

    Images that all have one size of at most 64 px a side are taken as they are; any others as 32 × 32
    thumbnails (shorter side, centre crop), because full photographs would fill the memory and compare worse.
    """
    channels = evaluation.train.channels
    size = pixel_size(evaluation.train, evaluation.test)
    plain = Input(size, channels, mean=(0.0,) * channels, std=(1.0,) * channels)
    config = dataclasses.replace(evaluation.config, crop_ratio=1.0)
    return dataclasses.replace(evaluation, config=config, precision="32-true"), plain


def pixel_subject(evaluation: Evaluation, console: Console) -> Subject:
    """Raw pixels with the mean training image subtracted."""
    whole, plain = pixel_evaluation(evaluation)
    train, test = _both_splits(whole, nn.Flatten(), plain, "raw pixels", console)
    mean = train.features.mean(dim=0)
    train.features.sub_(mean)
    if test is not train:
        test.features.sub_(mean)
    return Subject(PIXELS, "raw pixels", train, test)


def _both_splits(
    evaluation: Evaluation, encoder: nn.Module, spec: InputSpec, title: str, console: Console
) -> tuple[Features, Features]:
    """Features of the training and of the test images: the same object where those are the same images."""
    train = evaluation.features(encoder, evaluation.train, spec, title, console)
    if evaluation.leaves_one_out:
        return train, train
    return train, evaluation.features(encoder, evaluation.test, spec, title, console)


def pixel_size(train: ImageSource, test: ImageSource) -> tuple[int, int]:
    """The size at which raw pixels are compared."""
    size = train.image_size
    if size is not None and size == test.image_size and max(size) <= LARGEST_PIXEL_SIDE:
        return size
    return THUMBNAIL
