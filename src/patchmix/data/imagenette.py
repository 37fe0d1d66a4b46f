"""Imagenette: ten classes of ImageNet at 320 px, found in a folder or downloaded into it."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path

from patchmix import distributed
from patchmix.errors import UserError
from patchmix.interruption import stops_at_once

FOLDER = "imagenette2-320"
ARCHIVE = "https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz"


def imagenette_folder(root: Path) -> Path:
    """The folder with `train/<class>/` and `val/<class>/`: `root/imagenette2-320`, or `root` itself.

    Where neither is there, the first process downloads it (341 MB) while the others wait.

    Raises:
        UserError: it cannot be downloaded, or what is there is incomplete.
    """
    if distributed.from_first(found_imagenette(root)) is None:
        with distributed.first_speaks(), stops_at_once():
            if distributed.rank() == 0:
                _download(root)
    folder = found_imagenette(root) or root / FOLDER
    absent = [name for name in ("train", "val") if not (folder / name).is_dir()]
    if absent:
        raise UserError(
            f"{folder} has no folder {' and no folder '.join(absent)}: Imagenette is incomplete; delete it, to have it "
            f"downloaded again, or unpack {ARCHIVE} in {root}"
        )
    return folder


def found_imagenette(root: Path) -> Path | None:
    """The folder that holds it; None where there is none."""
    if (root / FOLDER).is_dir():
        return root / FOLDER
    return root if (root / "train").is_dir() else None


def _download(root: Path) -> None:
    """By torchvision, beside the place and moved there whole: a download that was cut short is never taken for one."""
    import torchvision.datasets

    beside = root / f".{FOLDER}"
    shutil.rmtree(beside / FOLDER, ignore_errors=True)  # unpacked in part; a whole archive is used again
    try:
        torchvision.datasets.Imagenette(beside, "train", size="320px", download=True)
        (beside / FOLDER).rename(root / FOLDER)
        shutil.rmtree(beside)
    except (OSError, RuntimeError) as error:  # offline (URLError is an OSError), no space, not writable
        with contextlib.suppress(OSError):
            beside.rmdir()  # only if nothing came
        why = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"imagenette is not in {root} and cannot be downloaded ({why}): go online once, or unpack {ARCHIVE} there, "
            f"so that {root / FOLDER}/train is a folder"
        ) from None
