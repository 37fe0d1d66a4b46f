"""Trees of image files: found quickly, kept packed, read one by one."""

from __future__ import annotations

import hashlib
import os
from array import array
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from patchmix.data.images import IMAGE_SUFFIXES, read_image
from patchmix.errors import UserError

_SUFFIXES = frozenset(suffix.encode() for suffix in IMAGE_SUFFIXES)


@dataclass
class PackedPaths:
    """Relative paths in one buffer, `offsets[i]` to `offsets[i + 1]` being the i-th.

    A Python list of a million strings would be copied into every worker process as its reference counts
    change.
    """

    buffer: bytes
    offsets: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:
        if not 0 <= index < len(self):
            raise IndexError(f"path {index} of {len(self)}")
        return os.fsdecode(self.buffer[self.offsets[index] : self.offsets[index + 1]])


@dataclass
class Listing:
    """The image files below a folder, in a fixed order: a folder's own files by name, then its subfolders.

    `sizes` are bytes; `tops` says which top-level folder (an index into `top_names`) a file is in, -1 for
    none.
    """

    paths: PackedPaths
    sizes: npt.NDArray[np.int64]
    tops: npt.NDArray[np.int64]
    top_names: tuple[str, ...]

    def fingerprint(self) -> str:
        """16 hex digits of the relative names and sizes."""
        digest = hashlib.blake2b(self.paths.buffer, digest_size=8)
        digest.update(self.paths.offsets.tobytes())
        digest.update(self.sizes.tobytes())
        return digest.hexdigest()


@dataclass
class _Found:
    names: bytearray = field(default_factory=bytearray)
    ends: array[int] = field(default_factory=lambda: array("q", [0]))
    sizes: array[int] = field(default_factory=lambda: array("q"))

    def add(self, folder: bytes, files: list[tuple[bytes, int]]) -> None:
        for name, size in sorted(files):
            self.names += folder + name
            self.ends.append(len(self.names))
            self.sizes.append(size)


def list_images(root: str | os.PathLike[str]) -> Listing:
    """Find all image files below a folder, by suffix in any case.

    Hidden files and folders are left out, and so are other kinds of files. Links to folders are followed; a
    folder that is reached twice (a loop) is read once. 60,000 files take about half a second.

    Raises:
        UserError: `root` or a folder below it is absent, no folder, or cannot be read.
    """
    root_name = os.fsencode(root)
    found, seen = _Found(), set[tuple[int, int]]()
    top_names: list[bytes] = []
    tops = array("q")
    pending: list[tuple[bytes, int]] = [(b"", -1)]  # folders to read: relative path with its slash, top-level folder
    while pending:
        folder, top = pending.pop()
        files, subfolders = _read_folder(os.path.join(root_name, folder), seen)
        found.add(folder, files)
        tops.extend([top] * len(files))
        below = [(folder + name + b"/", top) for name in sorted(subfolders)]
        if not folder:
            top_names = sorted(subfolders)
            below = [(path, number) for number, (path, _) in enumerate(below)]
        pending.extend(reversed(below))
    offsets = np.frombuffer(found.ends, dtype=np.int64)
    return Listing(
        paths=PackedPaths(bytes(found.names), offsets),
        sizes=np.array(found.sizes, dtype=np.int64),
        tops=np.array(tops, dtype=np.int64),
        top_names=tuple(map(os.fsdecode, top_names)),
    )


def _read_folder(path: bytes, seen: set[tuple[int, int]]) -> tuple[list[tuple[bytes, int]], list[bytes]]:
    """(name, bytes) of a folder's images, and its subfolders' names; nothing if it was seen before."""
    files: list[tuple[bytes, int]] = []
    subfolders: list[bytes] = []
    try:
        status = os.stat(path)
        if (status.st_dev, status.st_ino) in seen:
            return files, subfolders
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(path) as entries:
            for entry in entries:
                name = entry.name
                if name.startswith(b"."):
                    continue
                _, dot, suffix = name.rpartition(b".")
                if dot and suffix.lower() in _SUFFIXES and entry.is_file():
                    files.append((name, entry.stat().st_size))
                elif entry.is_dir():
                    subfolders.append(name)
    except OSError as error:
        where = os.fsdecode(error.filename or path)
        raise UserError(
            f"{where} cannot be read ({error.strerror}): give a readable folder, or move this one away"
        ) from None
    return files, subfolders


def subfolder_names(root: Path) -> tuple[str, ...]:
    """The sorted names of the folders in a folder, without hidden ones; none if there is no such folder."""
    if not root.is_dir():
        return ()
    return tuple(map(os.fsdecode, sorted(_read_folder(os.fsencode(root), set())[1])))


class FolderSource:
    """Images of a tree of files (an ImageSource).

    Labels are the top-level folders, if every image lies in one and there are at least two.

    Args:
        name, split: what it is called in messages and results.
        root: the split's own folder.
        classes: the names of all classes, where another split may have some that this one lacks; None: the
            top-level folders here.

    Raises:
        UserError: no such folder, or no images in it.
    """

    in_memory = False

    def __init__(
        self,
        name: str,
        split: str,
        root: Path,
        *,
        channels: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        classes: tuple[str, ...] | None = None,
        image_size: tuple[int, int] | None = None,
    ) -> None:
        listing = list_images(root)
        if not len(listing.paths):
            raise UserError(
                f"{root} holds no images: files in it or its subfolders that end in "
                + ", ".join(f".{suffix}" for suffix in ("jpg", "png", "webp", "bmp", "gif", "tif"))
                + " are taken, hidden ones are not"
            )
        self.name, self.split, self.root = name, split, root
        self.channels, self.mean, self.std = channels, mean, std
        self.image_size = image_size
        self.fingerprint = listing.fingerprint()
        self._paths = listing.paths
        self._root_name = os.fspath(root)
        self.classes: tuple[str, ...] = ()
        self.labels: torch.Tensor | None = None
        classes = classes or listing.top_names
        if len(classes) > 1 and bool((listing.tops >= 0).all()) and set(listing.top_names) <= set(classes):
            number = np.array([classes.index(top) for top in listing.top_names], dtype=np.int64)
            self.classes, self.labels = classes, torch.from_numpy(number[listing.tops])

    def __len__(self) -> int:
        return len(self._paths)

    def path(self, index: int) -> str:
        return os.path.join(self._root_name, self._paths[index])

    def read(self, index: int) -> torch.Tensor:
        return read_image(self.path(index), self.channels)
