"""How many images could not be read, and when there are too many of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np
from torch import Tensor

from patchmix.data.batches import Skipped
from patchmix.data.sources import ImageSource
from patchmix.errors import UserError

MIN_TRIED = 200  # before so many images were tried, no share of unreadable ones ends a run


def tsv_field(text: str) -> str:
    """A path or a reason as one field of one line, for any terminal: what cannot be shown is escaped (\\t, \\xff)."""
    valid = os.fsencode(text).decode("utf-8", errors="backslashreplace")
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode("ascii") for each in valid)


class Tried(Protocol):
    """A batch, as far as counting needs it."""

    @property
    def indices(self) -> Tensor: ...
    @property
    def skipped(self) -> list[Skipped]: ...


class UnreadableLimit:
    """Counts unreadable images, each once, and ends a run that has too many.

    Args:
        source: the training images.
        max_share: data.max_unreadable.
        known: paths that were listed before (by the run that is resumed), as `tsv_field`s; they are not new any more.
        where: the directory whose skipped.tsv lists them, for the message.
    """

    def __init__(
        self, source: ImageSource, max_share: float, known: Iterable[str] = (), where: Path | str = "the run"
    ) -> None:
        self.name, self.max_share, self.where = source.name, max_share, where
        self._tried = np.zeros(len(source), dtype=bool)
        self._unreadable = np.zeros(len(source), dtype=bool)
        self._listed = set(known)

    def add(self, batch: Tried) -> list[Skipped]:
        """Count a batch; returns its unreadable images that were not seen before."""
        self._tried[batch.indices.numpy()] = True
        return self.mark(batch.skipped)

    def mark(self, found: Iterable[Skipped]) -> list[Skipped]:
        """Count unreadable images, of another process too; returns those that were not seen before."""
        new = []
        for skipped in found:
            self._tried[skipped.image_index] = self._unreadable[skipped.image_index] = True
            field = tsv_field(skipped.path)
            if field not in self._listed:
                self._listed.add(field)
                new.append(skipped)
        return new

    @property
    def num_unreadable(self) -> int:
        return int(self._unreadable.sum())

    def check_classes(self, source: ImageSource) -> None:
        """Raise a UserError if not one image of a class of `source` can be read: it would not be learned."""
        if source.labels is None or not self._unreadable.any():
            return
        labels = source.labels.numpy()
        lost = sorted(set(np.unique(labels).tolist()) - set(np.unique(labels[~self._unreadable]).tolist()))
        refuse_lost_classes(source, lost)

    def check(self, num_processes: int = 1) -> None:
        """Raise a UserError if, of at least 200 images tried, more than max_share were unreadable.

        Of several processes each tries as many images as this one.
        """
        tried, unreadable = num_processes * int(self._tried.sum()), self.num_unreadable
        if tried >= MIN_TRIED and unreadable > self.max_share * tried:
            raise UserError(
                f"{unreadable} of {tried} images of {self.name} cannot be read, more than "
                f"data.max_unreadable = {self.max_share:g} allows: skipped.tsv in {self.where} says which and "
                "why; mend them, or raise the option"
            )


def refuse_lost_classes(source: ImageSource, lost: Iterable[int]) -> None:
    """Raise a UserError that names the classes of which no training image can be read, if there are any."""
    names = [source.classes[label] for label in lost]
    if names:
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        raise UserError(f"no training image of class {', '.join(names[:5])}{more} can be read: replace its files")
