"""A training set seen through its augmentation, once: one fixed copy of every image."""

from __future__ import annotations

from torch import Tensor

from patchmix.config import Augmentation, DataConfig
from patchmix.data.augmentation import Augment
from patchmix.data.sources import ImageSource


def probe_augmentation(given: Augmentation | None, data: DataConfig) -> Augmentation:
    """The augmentation of a probe's training images: crop and flip, as published, but for digits."""
    return given or ("digits" if data.name == "mnist5k" else "crop")


class Augmented:
    """Copy number `copy` of every image of a source (an ImageSource): what it looks like in that epoch.

    `name`: what tells this augmentation from others, for the fingerprint.
    """

    def __init__(self, source: ImageSource, augment: Augment, copy: int, name: str) -> None:
        self.name, self.split = source.name, source.split
        self.channels = augment.spec.channels
        self.image_size: tuple[int, int] | None = augment.spec.image_size
        self.classes, self.labels = source.classes, source.labels
        self.mean, self.std = source.mean, source.std
        self.in_memory = False  # augmenting costs something
        self.fingerprint = f"{source.fingerprint}-{name}-{copy}"
        self.source, self.augment, self.copy = source, augment, copy

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> Tensor:
        return self.augment(self.source.read(index), self.copy, index)

    def path(self, index: int) -> str:
        return self.source.path(index)
