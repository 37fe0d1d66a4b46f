"""What a data set is here: numbered images that can be read one by one, with or without labels."""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from patchmix.data.images import UnreadableImage
from patchmix.data.streams import Purpose, keyed_generator
from patchmix.errors import UserError

MOST_IN_A_ROW = 1000  # so many unreadable files one after the other are not searched further


class ImageSource(Protocol):
    """Images of one split of a data set.

    `labels` are int64 [len], None where unknown, and index `classes` (empty where there are none).
    `image_size` is (height, width) if all images have it. `fingerprint` is the same for the same data only.
    `mean` and `std` are per channel, in [0, 1]. `in_memory` tells that reading costs nothing.
    """

    name: str
    split: str
    channels: int
    classes: tuple[str, ...]
    labels: torch.Tensor | None
    image_size: tuple[int, int] | None
    fingerprint: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    in_memory: bool

    def __len__(self) -> int: ...

    def read(self, index: int) -> torch.Tensor:
        """The image as uint8 [channels, height, width]; raises UnreadableImage."""
        ...

    def path(self, index: int) -> str:
        """Its file, or `mnist5k/train/123`."""
        ...


class ArraySource:
    """Images in one tensor, uint8 [n, channels, height, width] (an ImageSource)."""

    in_memory = True

    def __init__(
        self,
        name: str,
        split: str,
        images: torch.Tensor,
        labels: torch.Tensor | None,
        classes: tuple[str, ...],
        *,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        self.name, self.split = name, split
        self.images, self.labels, self.classes = images.contiguous(), labels, classes
        self.channels = int(images.shape[1])
        self.image_size: tuple[int, int] | None = (int(images.shape[2]), int(images.shape[3]))
        self.mean, self.std = mean, std
        digest = hashlib.blake2b(repr(tuple(images.shape)).encode(), digest_size=8)
        digest.update(self.images.numpy().data)
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> torch.Tensor:
        return self.images[index]

    def path(self, index: int) -> str:
        return f"{self.name}/{self.split}/{index}"


class Subset:
    """Some images of another source, renumbered from 0 (an ImageSource)."""

    def __init__(self, source: ImageSource, indices: npt.NDArray[np.int64]) -> None:
        self.name, self.split, self.channels, self.classes = (
            source.name,
            source.split,
            source.channels,
            source.classes,
        )
        self.image_size, self.mean, self.std = source.image_size, source.mean, source.std
        self.in_memory = source.in_memory
        self.labels = None if source.labels is None else source.labels[torch.from_numpy(indices)]
        self.source, self.indices = source, indices
        self.fingerprint = hashlib.blake2b(source.fingerprint.encode() + indices.tobytes(), digest_size=8).hexdigest()

    def __len__(self) -> int:
        return len(self.indices)

    def read(self, index: int) -> torch.Tensor:
        return self.source.read(int(self.indices[index]))

    def path(self, index: int) -> str:
        return self.source.path(int(self.indices[index]))


def limited(source: ImageSource, limit: int | None) -> ImageSource:
    """A fixed subset of `limit` images in their order, the same for every seed; all if there are no more.

    With labels it is stratified: every class has its share, rounded up or down.
    """
    num_images = len(source)
    if limit is None or limit >= num_images:
        return source
    order = keyed_generator(Purpose.SUBSET, 0).permutation(num_images)
    if source.labels is None:
        return Subset(source, np.sort(order[:limit]))
    labels = source.labels.numpy()[order]
    counts = np.bincount(labels)
    whole, remainders = np.divmod(counts * limit, num_images)
    whole[np.argsort(-remainders, kind="stable")[: limit - whole.sum()]] += 1
    by_class = np.argsort(labels, kind="stable")  # random order within a class
    rank = np.arange(num_images) - np.repeat(np.cumsum(counts) - counts, counts)
    return Subset(source, np.sort(order[by_class[rank < np.repeat(whole, counts)]]))


def read_or_next(source: ImageSource, index: int) -> tuple[torch.Tensor, int, list[UnreadableImage]]:
    """Read an image, or the next readable one, wrapping round at the end: (image, its index, what failed).

    Which one that is depends on the index alone. The failures are those of index, index + 1, … in this order.

    Raises:
        UserError: none of the images, or of the next 1,000, can be read.
    """
    failures: list[UnreadableImage] = []
    for step in range(min(len(source), MOST_IN_A_ROW)):
        used = (index + step) % len(source)
        try:
            return source.read(used), used, failures
        except UnreadableImage as failure:
            failures.append(failure)
    raise UserError(
        f"{len(failures):,} images of {source.name} in a row cannot be read, the first being {failures[0]}"
        if failures
        else f"{source.name} has no images"
    )
