"""Batches for training: the order of the images, the worker processes, and what could not be read."""

from __future__ import annotations

import itertools
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.data import DataLoader, Dataset, Sampler
from torchvision.transforms.v2 import functional as transforms

from patchmix.config import Config
from patchmix.data.batches import Batch, Skipped
from patchmix.data.datasets import ImageSource, read_or_next, view_size
from patchmix.data.kept import kept
from patchmix.data.photometric import joined
from patchmix.data.streams import Purpose, keyed_generator
from patchmix.data.unreadable import UnreadableLimit
from patchmix.data.views import ViewMaker, change_views
from patchmix.data.workers import choose_num_workers, start_loading, start_worker
from patchmix.errors import RunError, UserError

Key = tuple[int, int]  # epoch, image index
Made = TypeVar("Made")
Part = TypeVar("Part")

MOST_PIXELS = 32_000_000  # of decoded images held at a time: a batch of photographs from a camera would fill the memory


def epoch_order(num_images: int, seed: int, epoch: int) -> npt.NDArray[np.int64]:
    """The order of the images in an epoch: a permutation keyed by (seed, epoch)."""
    return keyed_generator(Purpose.ORDER, seed, epoch).permutation(num_images).astype(np.int64, copy=False)


def photometrics_on_device(config: Config) -> bool:
    """Whether the main process applies photometric changes, where the model runs (`run.photometrics`)."""
    if config.run.photometrics == "auto":
        return config.run.device != "cpu" and torch.cuda.is_available()
    return config.run.photometrics == "device"


def normalise(
    images: torch.Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """(images / 255 - mean) / std, per channel: uint8 [n, c, h, w] -> dtype, on the same device."""
    scaled: torch.Tensor = transforms.to_dtype(images, torch.float32, scale=True)
    # As torchvision's normalize, which would let the step wait for the device when it sends these two there.
    middle, spread = torch.tensor((mean, std), dtype=torch.float32).to(images.device, non_blocking=True)[
        ..., None, None
    ]
    return scaled.sub_(middle).div_(spread).to(dtype)


class BatchLoader(Generic[Made]):
    """Batches that `num_workers` processes make (0: this one), one for each list of keys that `steps` has.

    The processes live as long as the iteration. While iterating:

    Raises:
        UserError: no image can be read.
        RunError: a worker process died.
    """

    def __init__(self, reader: Reader[Made], steps: Steps, num_workers: int, pin_memory: bool) -> None:
        self.num_workers = num_workers
        self.steps_per_epoch = steps.steps_per_epoch
        self._steps = steps
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of more workers than cores: who asks for them may have them
            self._loader: DataLoader[Any] = DataLoader(
                reader,
                batch_sampler=steps,
                num_workers=num_workers,
                collate_fn=_as_it_is,
                pin_memory=pin_memory and torch.cuda.is_available(),
                worker_init_fn=start_worker,
                prefetch_factor=2 if num_workers else None,
                generator=torch.Generator().manual_seed(0),  # or it would draw from the global generator
            )

    def __len__(self) -> int:
        return len(self._steps)

    def __iter__(self) -> Iterator[Made]:
        batches = start_loading(self._loader)
        try:
            while (batch := self._next(batches)) is not None:
                if isinstance(batch, Exception):
                    raise type(batch)(str(batch))
                yield batch
        finally:
            # Ends the workers now: left to an exception's traceback and the garbage collector, it takes 20 s.
            del batches

    def _next(self, batches: Iterator[Any]) -> Made | UserError | RunError | None:
        try:
            batch: Made | UserError | None = next(batches, None)
        except (RuntimeError, EOFError, ConnectionError) as error:
            if not _is_lost_worker(error):
                raise
            return RunError(
                "a process that reads images died, probably for want of memory: lower data.num_workers "
                f"({self.num_workers} now; 0: no such processes), or give a container more shared memory"
            )
        return batch


class TrainingLoader(BatchLoader[Batch]):
    """Batches of one rank, one per step, from step `steps_done` + 1 to `total_steps`.

    Rank r takes the contiguous slice r of every global batch; incomplete last batches of an epoch are
    dropped. The worker processes live over all epochs, and starting in the middle of an epoch costs nothing.
    The batches do not depend on the number of workers, on the number of ranks, or on where the loader
    started.

    Args:
        num_workers: processes that read images; 0 reads in this one (`choose_num_workers` has a default).

    Raises:
        UserError: fewer images than a global batch; while iterating: no image can be read.
        RunError: while iterating: a worker process died.
    """

    def __init__(
        self,
        source: ImageSource,
        config: Config,
        *,
        steps_done: int,
        total_steps: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
    ) -> None:
        batch_size = config.optim.batch_size
        check_batch_size(source, batch_size, world_size)
        steps = Steps(
            len(source),
            batch_size,
            len(source) // batch_size,
            config.seed,
            range(steps_done, total_steps),
            rank=rank,
            world_size=world_size,
        )
        view_maker = ViewMaker(config.views, view_size(source, config.data), config.seed)
        reader = _Views(source, view_maker, geometric_only=photometrics_on_device(config))
        super().__init__(reader, steps, num_workers, config.run.device != "cpu")


def _is_lost_worker(error: Exception) -> bool:
    """Whether this is how torch says that a worker process is gone: by name, or by a connection that broke."""
    text = str(error)
    if isinstance(error, RuntimeError):
        return "DataLoader worker (pid" in text or "ancdata" in text
    return "Caught " not in text  # else it was raised in a worker that lives


def check_batch_size(source: ImageSource, batch_size: int, world_size: int = 1) -> None:
    """Raise a UserError if there are fewer images than one global batch takes, or only one image."""
    num_images = len(source)
    if num_images < 2:
        raise UserError(f"{source.name} has {num_images} image: pre-training compares images and needs at least two")
    if num_images < batch_size:
        largest = num_images - num_images % world_size
        mend = f"lower it to {largest} or less" if largest else f"use at most {num_images} processes"
        raise UserError(
            f"optim.batch_size = {batch_size} is more than the {num_images} training images of {source.name}: {mend}"
        )


class Steps(Sampler[list[Key]]):
    """For each step the keys of this rank's slice of the global batch."""

    def __init__(
        self,
        num_images: int,
        batch_size: int,
        steps_per_epoch: int,
        seed: int,
        steps: range,
        *,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self.num_images, self.batch_size, self.seed, self.steps = num_images, batch_size, seed, steps
        self.steps_per_epoch = steps_per_epoch
        self.local_batch_size = batch_size // world_size
        self.offset = rank * self.local_batch_size

    def __len__(self) -> int:
        return len(self.steps)

    def __iter__(self) -> Iterator[list[Key]]:
        for epoch, steps in itertools.groupby(self.steps, lambda step: step // self.steps_per_epoch):
            order = epoch_order(self.num_images, self.seed, epoch)
            for step in steps:
                start = (step % self.steps_per_epoch) * self.batch_size + self.offset
                yield [(epoch, index) for index in order[start : start + self.local_batch_size].tolist()]


class Reader(Dataset[Made], ABC):
    """Reads the images of a batch and makes of them what a step takes (`batch`)."""

    def __init__(self, source: ImageSource) -> None:
        self.source = kept(source)

    @abstractmethod
    def batch(self, keys: list[Key]) -> Made:
        """What a step takes, of these images."""

    def __getitems__(self, keys: list[Key]) -> Made | UserError:
        """One batch. A UserError is returned: DataLoader would turn its message into a traceback."""
        threads = torch.get_num_threads()
        # How sums are split among threads changes their last bit: views must not depend on the machine's
        # threads.
        torch.set_num_threads(1)
        try:
            return self.batch(keys)
        except UserError as error:
            return error
        finally:
            torch.set_num_threads(threads)

    def read(
        self, keys: list[Key], make: Callable[[list[torch.Tensor], list[Key]], Part]
    ) -> tuple[list[Part], torch.Tensor, list[Skipped]]:
        """What `make` gives for some images at a time, the indices of the images really read, and what was skipped."""
        images: list[torch.Tensor] = []
        parts: list[Part] = []
        num_done, num_pixels, indices, skipped = 0, 0, [], []
        for place, (_, index) in enumerate(keys, start=1):
            image, used, failures = read_or_next(self.source, index)
            images.append(image)
            num_pixels += image.shape[-2] * image.shape[-1]
            indices.append(used)
            skipped += [
                Skipped((index + step) % len(self.source), failure.path, failure.why)
                for step, failure in enumerate(failures)
            ]
            if place == len(keys) or num_pixels > MOST_PIXELS:
                # A replacement keeps the key of the image it replaces: should both be in the batch, their views
                # differ.
                parts.append(make(images, keys[num_done:place]))
                num_done, num_pixels, images = place, 0, []
        return parts, torch.tensor(indices), skipped


class _Views(Reader[Batch]):
    """Reads the images of a batch and makes their views, with `geometric_only` up to the photometric changes."""

    def __init__(self, source: ImageSource, view_maker: ViewMaker, *, geometric_only: bool) -> None:
        super().__init__(source)
        self.view_maker, self.geometric_only = view_maker, geometric_only

    def batch(self, keys: list[Key]) -> Batch:
        parts, indices, skipped = self.read(keys, self.view_maker.geometric)
        views = [torch.cat(view) if len(view) > 1 else view[0] for view in zip(*(one for one, _ in parts), strict=True)]
        changes = tuple(joined(one) for one in zip(*(one for _, one in parts), strict=True))
        if not self.geometric_only:
            views, changes = list(change_views(views, changes)), ()
        first, second, *local_views = views
        return Batch((first, second), tuple(local_views), indices, skipped, changes)


def _as_it_is(batch: Any) -> Any:
    return batch


__all__ = [
    "Batch",
    "BatchLoader",
    "Reader",
    "Skipped",
    "Steps",
    "TrainingLoader",
    "UnreadableLimit",
    "check_batch_size",
    "choose_num_workers",
    "epoch_order",
    "normalise",
    "photometrics_on_device",
]
