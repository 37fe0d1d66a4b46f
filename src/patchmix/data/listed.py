"""Image files that a list names, with labels: what torchvision's data sets know of themselves."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from patchmix.data.files_on_disk import FilesOnDisk
from patchmix.data.listing import PackedPaths


class ListedSource(FilesOnDisk):
    """Image files below a folder, in the order of their names (an ImageSource).

    Whether they are all there shows when they are read. `fingerprint` is of relative names and labels.

    Args:
        root: the folder.
        paths: the files, relative to it.
        labels: one for each, an index into `classes`.
    """

    def __init__(
        self,
        name: str,
        split: str,
        root: Path,
        paths: Sequence[str],
        labels: Sequence[int],
        classes: tuple[str, ...],
        *,
        channels: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        image_size: tuple[int, int] | None = None,
    ) -> None:
        self.name, self.split, self.classes = name, split, classes
        self.mean, self.std, self.image_size = mean, std, image_size
        encoded = [os.fsencode(path) for path in paths]
        order = sorted(range(len(encoded)), key=encoded.__getitem__)  # some come as the file system lists them
        encoded = [encoded[place] for place in order]
        ends = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
        super().__init__(root, PackedPaths(b"".join(encoded), ends), channels)
        numbers = np.asarray(labels, dtype=np.int64)[order]
        self.labels: torch.Tensor | None = torch.from_numpy(numbers)
        digest = hashlib.blake2b(self._paths.buffer, digest_size=8)
        digest.update(ends.tobytes())
        digest.update(numbers.tobytes())
        self.fingerprint = digest.hexdigest()
