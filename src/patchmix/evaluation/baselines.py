"""What an encoder is compared with: the same network untrained, and raw pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from torch import nn

from patchmix.data.datasets import ImageSource
from patchmix.evaluation.features import Features, Input
from patchmix.evaluation.opening import Evaluation

LARGEST_PIXEL_SIDE = 64
THUMBNAIL = (32, 32)


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
        train, test = (
            evaluation.features(encoder, source, evaluation.spec, title, console)
            for source in (evaluation.train, evaluation.test)
        )
        return Subject(prefix, title, train, test)

    yield features("encoder", "", evaluation.loaded.encoder)
    if baselines:
        untrained = evaluation.loaded.untrained(evaluation.config.seed)
        yield features("untrained encoder", "random_init_", untrained)
        yield pixel_subject(evaluation, console)


def pixel_subject(evaluation: Evaluation, console: Console) -> Subject:
    """Pixels in [0, 1] with the mean training image subtracted, flattened.

    Images that all have one size of at most 64 px a side are taken as they are; any others as 32 × 32
    thumbnails (shorter side, centre crop), because full photographs would fill the memory and compare worse.
    """
    train, test = evaluation.train, evaluation.test
    size = pixel_size(train, test)
    channels = train.channels
    plain = Input(size, channels, mean=(0.0,) * channels, std=(1.0,) * channels)
    whole = dataclasses.replace(
        evaluation, config=dataclasses.replace(evaluation.config, crop_ratio=1.0), precision="32-true"
    )
    found = [whole.features(nn.Flatten(), source, plain, "raw pixels", console) for source in (train, test)]
    mean = found[0].features.mean(dim=0)
    for each in found:
        each.features.sub_(mean)
    return Subject("pixels_", "raw pixels", found[0], found[1])


def pixel_size(train: ImageSource, test: ImageSource) -> tuple[int, int]:
    """The size at which raw pixels are compared."""
    size = train.image_size
    if size is not None and size == test.image_size and max(size) <= LARGEST_PIXEL_SIDE:
        return size
    return THUMBNAIL
