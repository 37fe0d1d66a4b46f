"""Files that are whole or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from patchmix.errors import RunError


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what the block wrote there is flushed to disk and takes its place.

    On any error the temporary file is removed and `path` is as it was. A link stays: the file that it leads to is
    replaced. What is no file to replace (`is_stream`) gets all that the block wrote when it is whole.

    Raises:
        OSError: `path` is a folder, or cannot be written.
    """
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    final = Path(os.path.realpath(path)) if path.is_symlink() else path
    with _poured_into(path) if is_stream(path) else _beside(final) as temporary:
        yield temporary


def is_stream(path: Path) -> bool:
    """Whether something is there that must not be replaced by a file.

    That is a device, a pipe, or the file into which this process prints (by its name, or as /dev/stdout).
    """
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    if not stat.S_ISREG(found.st_mode):
        return not stat.S_ISDIR(found.st_mode)
    for stream in (sys.__stdout__, sys.__stderr__):
        with contextlib.suppress(AttributeError, OSError, ValueError):  # there is none, or it is closed
            if os.path.samestat(found, os.fstat(stream.fileno())):  # type: ignore[union-attr]  # None: suppressed
                return True
    return False


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """The way of a regular file, there or not."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as file:
            os.fchmod(file.fileno(), 0o666 & ~_umask())  # some writers (safetensors) give the owner alone a look
            os.fsync(file.fileno())
        temporary.replace(path)
        with contextlib.suppress(OSError):  # so that the rename survives a power cut, where that can be asked for
            descriptor = os.open(path.parent, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _poured_into(path: Path) -> Iterator[Path]:
    """The way of a stream: the temporary file lies elsewhere, since some writers seek, or rename files themselves."""
    with tempfile.TemporaryDirectory(prefix="patchmix-") as folder:
        temporary = Path(folder, path.name)
        yield temporary
        # Appended: what this process has printed there before stays.
        with temporary.open("rb") as source, path.open("ab") as target:
            shutil.copyfileobj(source, target)


def _umask() -> int:
    """The permissions that this process takes away from new files; the system tells it only by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


def write_text(path: Path, text: str) -> None:
    """Write a whole text file or none.

    Raises:
        RunError: it cannot be written; names the file and why.
    """
    try:
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}") from error
