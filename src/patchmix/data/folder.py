"""A tree of image files as a data set, its images read one by one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from patchmix.data.files_on_disk import FilesOnDisk
from patchmix.data.listing import LeftOut, list_images, subfolder_names
from patchmix.errors import UserError


class FolderSource(FilesOnDisk):
    """Images of a tree of files (an ImageSource).

    Labels are the top-level folders, if every image lies in one and at least two have images (of a test split: exist).

    Args:
        name, split: what it is called in messages and results.
        root: the split's own folder.
        classes: the names of all classes, where another split may have some that this one lacks; None: the
            top-level folders here.

    Raises:
        UserError: no such folder, or no images in it.
    """

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
            raise UserError(no_images(root, listing.left_out))
        super().__init__(root, listing.paths, channels)
        self.name, self.split, self.root = name, split, root
        self.mean, self.std = mean, std
        self.image_size = image_size
        self.fingerprint = listing.fingerprint()
        self.classes: tuple[str, ...] = ()
        self.labels: torch.Tensor | None = None
        classes = classes or listing.top_names
        several = len(np.unique(listing.tops)) > 1 if split == "train" else len(classes) > 1
        if several and bool((listing.tops >= 0).all()) and set(listing.top_names) <= set(classes):
            number = np.array([classes.index(top) for top in listing.top_names], dtype=np.int64)
            self.classes, self.labels = classes, torch.from_numpy(number[listing.tops])


def no_images(root: Path, left_out: LeftOut) -> str:
    """What to tell of a folder in which only other things were found."""
    if not left_out.total():
        return f"{root} holds no images: there are no files in it or its subfolders"
    archives = any(left_out.others[suffix] for suffix in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"))
    return (
        f"{root} holds no images, but {left_out}; taken are JPEG, PNG, WebP, GIF, BMP, TIFF, PNM, AVIF, JPEG 2000 and "
        f"QOI files, under any name that does not begin with a dot{'; unpack archives first' if archives else ''}"
    )


__all__ = ["FolderSource", "list_images", "no_images", "subfolder_names"]
