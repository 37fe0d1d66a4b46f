"""Decoded images that are kept after their first reading, where all of them fit: later epochs read no files."""

from __future__ import annotations

import torch
from torch.utils.data import get_worker_info

from patchmix.data.sources import ImageSource

MOST_BYTES = 2**30  # of decoded images, in all processes that read for one loader together


class Kept:
    """A source whose images are kept in memory, each process its own (an ImageSource).

    An image is kept if all would fit, were they all as large: in 1 GiB, shared among the worker processes. Unreadable
    ones are tried again each time. A pickled copy has none yet.
    """

    def __init__(self, source: ImageSource) -> None:
        self.source = source
        self.name, self.split, self.channels, self.classes = source.name, source.split, source.channels, source.classes
        self.labels, self.image_size, self.fingerprint = source.labels, source.image_size, source.fingerprint
        self.mean, self.std, self.in_memory = source.mean, source.std, source.in_memory
        self._images: dict[int, torch.Tensor] = {}

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_images": {}}

    def __len__(self) -> int:
        return len(self.source)

    def read(self, index: int) -> torch.Tensor:
        image = self._images.get(index)
        if image is None:
            image = self.source.read(index)
            worker = get_worker_info()
            if image.nbytes * len(self.source) * (1 if worker is None else worker.num_workers) <= MOST_BYTES:
                self._images[index] = image
        return image

    def path(self, index: int) -> str:
        return self.source.path(index)


def kept(source: ImageSource) -> ImageSource:
    """The source, its images kept in memory after their first reading, if they are not there already."""
    return source if source.in_memory else Kept(source)
