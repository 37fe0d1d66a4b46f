"""The image files below a folder: found quickly, in a fixed order, kept packed."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import stat
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from patchmix.data.kinds import COMPANION_SUFFIXES, HEAD_BYTES, IMAGE_SUFFIXES, RAW_SUFFIXES, image_kind
from patchmix.errors import UserError

Result = TypeVar("Result")

COMPANIONS_LOOKED_AT = 100  # of each suffix in a tree; if none is an image, the others are not opened

_TAKEN, _COMPANIONS, _NEVER = (
    frozenset(suffix.encode() for suffix in suffixes) for suffixes in (IMAGE_SUFFIXES, COMPANION_SUFFIXES, RAW_SUFFIXES)
)
_THREADS = 32  # for distant disks, where each file costs a round trip; on a local one they neither help nor harm
_CHUNK = 64  # files a thread takes at a time


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
class LeftOut:
    """What below a folder is not taken: hidden entries, links that lead nowhere, and other files by suffix."""

    num_hidden: int = 0
    num_broken_links: int = 0
    others: Counter[str] = field(default_factory=Counter)

    def add(self, name: bytes) -> None:
        """Count a file of another kind; odd suffixes (frame.000123) are counted together."""
        suffix = os.fsdecode(_suffix(name))
        word = f".{suffix}" if suffix.isalnum() and len(suffix) < 8 else "with odd suffixes"
        self.others[word if suffix else "without suffix"] += 1

    def total(self) -> int:
        return self.num_hidden + self.num_broken_links + self.others.total()

    def __str__(self) -> str:
        """`4 other files (3 .txt, 1 without suffix), 2 hidden entries`, or '' for nothing."""
        parts = []
        if self.others:
            shown = self.others.most_common(5)
            kinds = [f"{count:,} {word}" for word, count in shown] + ["…"] * (len(self.others) > len(shown))
            parts = [f"{_counted(self.others.total(), 'other file')} ({', '.join(kinds)})"]
        if self.num_broken_links:
            parts.append(_counted(self.num_broken_links, "broken link"))
        if self.num_hidden:
            parts.append(_counted(self.num_hidden, "hidden entry", "hidden entries"))
        return ", ".join(parts)


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
    left_out: LeftOut

    def fingerprint(self) -> str:
        """16 hex digits of the relative names and sizes."""
        digest = hashlib.blake2b(self.paths.buffer, digest_size=8)
        digest.update(self.paths.offsets.tobytes())
        digest.update(self.sizes.tobytes())
        return digest.hexdigest()


def list_images(root: str | os.PathLike[str]) -> Listing:
    """Find all image files below a folder: by an image suffix in any case, or by their first bytes.

    Left out are hidden files and folders, other kinds of files, sockets and the like, and links that lead nowhere.
    Links are followed; a folder that is reached twice (a loop) is read once. A million files with image suffixes take
    about four seconds and 90 MB (benchmarks/listing.py).

    Raises:
        UserError: `root` or a folder below it is absent, no folder, or cannot be read.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        return _Search(os.fsencode(root), pool).run()


def subfolder_names(root: str | os.PathLike[str]) -> tuple[str, ...]:
    """The sorted names of the folders in a folder, without hidden ones; none if there is no such folder."""
    if not os.path.isdir(root):
        return ()
    return tuple(map(os.fsdecode, _entries(os.fsencode(root), LeftOut())[1]))


class _Search:
    """Goes through a tree and packs what it finds."""

    def __init__(self, root: bytes, pool: ThreadPoolExecutor) -> None:
        self.root, self.pool = root, pool
        self.seen: set[tuple[int, int]] = set()
        self.looked_at: Counter[bytes] = Counter()  # companions, by suffix
        self.misnamed: set[bytes] = set()  # companions' suffixes that some image has
        self.names = bytearray()
        self.ends, self.sizes, self.tops = array("q", [0]), array("q"), array("q")
        self.left_out = LeftOut()

    def run(self) -> Listing:
        top_names: list[bytes] = []
        pending: list[tuple[bytes, int]] = [(b"", -1)]  # relative path with its slash, top-level folder
        while pending:
            folder, top = pending.pop()
            subfolders = self._read(folder, top)
            below = [(folder + name + b"/", top) for name in subfolders]
            if not folder:
                top_names = subfolders
                below = [(path, number) for number, (path, _) in enumerate(below)]
            pending.extend(reversed(below))
        return Listing(
            paths=PackedPaths(bytes(self.names), np.array(self.ends, dtype=np.int64)),
            sizes=np.array(self.sizes, dtype=np.int64),
            tops=np.array(self.tops, dtype=np.int64),
            top_names=tuple(map(os.fsdecode, top_names)),
            left_out=self.left_out,
        )

    def _read(self, folder: bytes, top: int) -> list[bytes]:
        """Take the images of one folder, unless it was seen before; returns its subfolders' names."""
        path = os.path.join(self.root, folder)
        with _mendable(path):
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        try:
            status = os.fstat(descriptor)
            if (status.st_dev, status.st_ino) in self.seen:
                return []
            self.seen.add((status.st_dev, status.st_ino))
            files, subfolders = _entries(path, self.left_out)
            images = self._images(files, descriptor)
            with _mendable(path):
                sizes = self._for_each(lambda name: _size(name, descriptor), images)
        finally:
            os.close(descriptor)
        if None in sizes:  # gone since
            images = [name for name, size in zip(images, sizes, strict=True) if size is not None]
        for name in images:
            self.names += folder + name
            self.ends.append(len(self.names))
        self.sizes.extend(size for size in sizes if size is not None)
        self.tops.extend(itertools.repeat(top, len(images)))
        return subfolders

    def _images(self, files: list[bytes], descriptor: int) -> list[bytes]:
        """Those of a folder's files that are images; the others are counted."""
        verdicts = [self._judge(name, descriptor) for name in files]
        doubtful = [name for name, verdict in zip(files, verdicts, strict=True) if verdict is None]
        looked = iter(self._for_each(lambda name: _is_image(name, descriptor), doubtful))
        taken = [next(looked) if verdict is None else verdict for verdict in verdicts]
        for name, image in zip(files, taken, strict=True):
            if not image:
                self.left_out.add(name)
        return list(itertools.compress(files, taken))

    def _judge(self, name: bytes, descriptor: int) -> bool | None:
        """Whether a file is an image; None if it must be opened to tell."""
        suffix = _suffix(name)
        if suffix in _TAKEN:
            return True
        if suffix in _NEVER:
            return False
        if suffix not in _COMPANIONS or suffix in self.misnamed:
            return None
        self.looked_at[suffix] += 1
        if self.looked_at[suffix] > COMPANIONS_LOOKED_AT or not _is_image(name, descriptor):
            return False
        self.misnamed.add(suffix)
        return True

    def _for_each(self, function: Callable[[bytes], Result], names: list[bytes]) -> list[Result]:
        """The function's results in order; the system calls in it release Python's lock."""
        if len(names) <= _CHUNK:
            return [function(name) for name in names]
        chunks = [names[start : start + _CHUNK] for start in range(0, len(names), _CHUNK)]
        parts = self.pool.map(lambda chunk: [function(name) for name in chunk], chunks)
        return list(itertools.chain.from_iterable(parts))


def _entries(path: bytes, left_out: LeftOut) -> tuple[list[bytes], list[bytes]]:
    """The sorted names of a folder's files and of its subfolders; what is hidden or a broken link is counted."""
    files: list[bytes] = []
    subfolders: list[bytes] = []
    with _mendable(path), os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith(b"."):
                left_out.num_hidden += 1
            elif entry.is_file(follow_symlinks=False):
                files.append(entry.name)
            elif entry.is_dir(follow_symlinks=False):
                subfolders.append(entry.name)
            elif entry.is_symlink():
                try:
                    mode = entry.stat().st_mode
                except OSError:  # its target is absent, or itself, or out of reach
                    left_out.num_broken_links += 1
                    continue
                if stat.S_ISREG(mode):
                    files.append(entry.name)
                elif stat.S_ISDIR(mode):
                    subfolders.append(entry.name)
    return sorted(files), sorted(subfolders)


def _is_image(name: bytes, folder: int) -> bool:
    """Whether a file's first bytes are those of an image; one that cannot be opened is none."""
    try:
        file = os.open(name, os.O_RDONLY | os.O_NONBLOCK, dir_fd=folder)  # never waits, whatever it has become
        try:
            return image_kind(os.read(file, HEAD_BYTES)) is not None
        finally:
            os.close(file)
    except OSError:
        return False


def _size(name: bytes, folder: int) -> int | None:
    """A file's bytes; None if it is gone."""
    try:
        return os.stat(name, dir_fd=folder).st_size
    except FileNotFoundError:
        return None


def _suffix(name: bytes) -> bytes:
    """What follows the last dot, in lower case; empty if there is none."""
    _, dot, suffix = name.rpartition(b".")
    return suffix.lower() if dot else b""


def _counted(count: int, word: str, words: str | None = None) -> str:
    return f"{count:,} {word if count == 1 else words or word + 's'}"


@contextlib.contextmanager
def _mendable(path: bytes) -> Iterator[None]:
    """Says what cannot be read: a class that is silently missing would be worse than an error."""
    try:
        yield
    except OSError as error:
        where = os.fsdecode(path.rstrip(b"/") or b"/")
        raise UserError(
            f"{where} cannot be read ({error.strerror}): give a readable folder, or move this one away"
        ) from None
