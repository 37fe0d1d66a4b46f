"""What a data loader hands over for one step."""

from __future__ import annotations

from typing import NamedTuple

import torch

from patchmix.data.photometric import Photometrics


class Skipped(NamedTuple):
    """An image that could not be read, and was replaced by the next one that could."""

    image_index: int
    path: str
    why: str


class Batch(NamedTuple):
    """The views of one step on one rank: uint8 [n, channels, height, width] each.

    `indices` [n] are the images that are really in it, `skipped` those that should have been. `photometrics` are the
    changes that are still to be applied to the views and then to the local views (`run.photometrics`); empty: none.
    """

    views: tuple[torch.Tensor, torch.Tensor]
    local_views: tuple[torch.Tensor, ...]
    indices: torch.Tensor
    skipped: list[Skipped]
    photometrics: tuple[Photometrics, ...] = ()


class LabelledBatch(NamedTuple):
    """One step's images, uint8 [n, channels, height, width], and their labels, int64 [n].

    `indices` [n] are the images that are really in it, `skipped` those that should have been; labels are those of
    the images that are in it.
    """

    images: torch.Tensor
    labels: torch.Tensor
    indices: torch.Tensor
    skipped: list[Skipped]
