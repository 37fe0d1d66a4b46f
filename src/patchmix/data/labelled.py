"""Batches of labelled, augmented images for training a classifier."""

from __future__ import annotations

import torch

from patchmix.data.augmentation import Augment
from patchmix.data.batches import LabelledBatch
from patchmix.data.loading import BatchLoader, Key, Reader, Steps
from patchmix.data.sources import ImageSource


class LabelledLoader(BatchLoader[LabelledBatch]):
    """Batches of labelled images, one per step, from step `steps_done` + 1 to the end of the last epoch.

    The order of an epoch is that of pre-training with the same seed. The last batch of an epoch is smaller where the
    images do not divide, or is left out with `drop_last`. A batch size above the number of images means all of them:
    one step an epoch. Batches depend neither on the number of workers nor on where the loader started.

    Args:
        source: with labels.
        num_workers: processes that read images; 0 reads in this one.
        pin_memory: for a fast copy to a GPU; does nothing without one.

    Raises:
        UserError: while iterating: no image can be read.
        RunError: while iterating: a worker process died.
    """

    def __init__(
        self,
        source: ImageSource,
        augment: Augment,
        *,
        seed: int,
        batch_size: int,
        epochs: int,
        steps_done: int = 0,
        num_workers: int = 0,
        drop_last: bool = False,
        pin_memory: bool = False,
    ) -> None:
        num_images = len(source)
        self.batch_size = min(batch_size, num_images)
        whole, rest = divmod(num_images, self.batch_size)
        steps_per_epoch = whole if drop_last or not rest else whole + 1
        self.total_steps = epochs * steps_per_epoch
        steps = Steps(num_images, self.batch_size, steps_per_epoch, seed, range(steps_done, self.total_steps))
        super().__init__(_Labelled(source, augment), steps, num_workers, pin_memory)


class _Labelled(Reader[LabelledBatch]):
    """Reads the images of a batch and augments them."""

    def __init__(self, source: ImageSource, augment: Augment) -> None:
        super().__init__(source)
        assert source.labels is not None, "labelled batches need a source with labels"
        self.labels = source.labels.long()
        self.augment = augment

    def batch(self, keys: list[Key]) -> LabelledBatch:
        parts, indices, skipped = self.read(keys, self.augment.batch)
        return LabelledBatch(torch.cat(parts), self.labels[indices], indices, skipped)


__all__ = ["LabelledBatch", "LabelledLoader"]
