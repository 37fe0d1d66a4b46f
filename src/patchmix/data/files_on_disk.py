"""Image files by their packed names: what sources of files have in common."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from patchmix.data.images import read_image
from patchmix.data.listing import PackedPaths


class FilesOnDisk:
    """Names below a root, read one by one: the part of an ImageSource that needs no labels."""

    in_memory = False

    def __init__(self, root: Path, paths: PackedPaths, channels: int) -> None:
        self.channels = channels
        self._paths, self._root_name = paths, os.fspath(root)

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, index: int) -> str:
        return os.path.join(self._root_name, self._paths[index])

    def read(self, index: int) -> torch.Tensor:
        return read_image(self.path(index), self.channels)
