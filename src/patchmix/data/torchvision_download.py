"""Downloads of torchvision's data sets, beside their place and moved there whole."""

from __future__ import annotations

import contextlib
import shutil
import socket
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from http.client import HTTPException
from pathlib import Path

from patchmix.data.torchvision_table import Part, TorchvisionSet
from patchmix.errors import UserError

SILENCE = 30.0  # seconds; torchvision would wait for a silent server without end

_ARCHIVES = (".gz", ".tgz", ".tar", ".zip")
_FAILURES = (
    OSError,
    RuntimeError,
    ValueError,
    EOFError,
    HTTPException,
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
)


def download(name: str, entry: TorchvisionSet, part: Part, root: Path) -> None:
    """Fetch one part of a data set into `root`; one that was cut short is never taken for a whole one.

    Raises:
        UserError: offline, gone from its server, no space, not writable, or not downloadable at all.
    """
    import torchvision.datasets

    call = ", ".join(f"{key}={value!r}" for key, value in part.arguments.items())
    if entry.by_hand is not None:
        raise UserError(
            f"torchvision:{name} is not in {root} and cannot be downloaded by torchvision: get it from "
            f"{entry.by_hand}, so that {root / part.place} is there (see torchvision.datasets.{name})"
        )
    beside, is_new = root / f".torchvision-{name}", not root.exists()
    try:
        beside.mkdir(parents=True, exist_ok=True)
        _keep_archives(beside)
        with _impatient():
            getattr(torchvision.datasets, name)(beside, download=True, **part.arguments)
        _merge(beside, root)
    except _FAILURES as error:
        with contextlib.suppress(OSError):
            _remove_empty(beside)
            if is_new:
                root.rmdir()  # only if nothing came
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"torchvision:{name} is not in {root} and cannot be downloaded ({why[:200]}): go online once, or run "
            f"torchvision.datasets.{name}('DIR', {call + ', ' if call else ''}download=True) elsewhere and copy what "
            f"is then in DIR to {root}, so that {root / part.place} is there"
        ) from None


def _keep_archives(beside: Path) -> None:
    """Remove what was unpacked in part; torchvision checks archives and uses whole ones again."""
    for path in beside.rglob("*"):
        if path.is_file() and path.suffix not in _ARCHIVES:
            path.unlink()
    _remove_empty(beside)
    beside.mkdir(exist_ok=True)


def _remove_empty(folder: Path) -> None:
    """Remove the folders that hold no file."""
    for path in sorted((each for each in folder.rglob("*") if each.is_dir()), reverse=True):
        with contextlib.suppress(OSError):
            path.rmdir()
    with contextlib.suppress(OSError):
        folder.rmdir()


def _merge(source: Path, target: Path) -> None:
    """Move what is in a folder into another; a file that is there already is kept."""
    for path in sorted(source.iterdir()):
        place = target / path.name
        if path.is_dir() and place.is_dir():
            _merge(path, place)
        elif not place.exists():
            path.rename(place)
    shutil.rmtree(source, ignore_errors=True)


@contextlib.contextmanager
def _impatient() -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(SILENCE)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)
