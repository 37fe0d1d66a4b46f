"""Images with objects for detectors: one by one, in training batches, and for scoring."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Dataset

from patchmix.config.detection import DetectConfig
from patchmix.data.batches import Skipped
from patchmix.data.images import UnreadableImage
from patchmix.data.loading import BatchLoader, Key, Reader, Steps
from patchmix.data.sources import read_or_next
from patchmix.data.streams import KeyedStream, Purpose
from patchmix.data.workers import MOST_WORKERS
from patchmix.environment import usable_cores
from patchmix.transfer.annotations import Annotations, Object, check_segmentations, read_annotations, with_categories_of
from patchmix.transfer.jitter import Window, cut_objects, draw_window
from patchmix.transfer.photos import AnnotatedSource, PhotoSource, limited
from patchmix.transfer.scenes import CANVAS, SceneSet

Target = dict[str, Any]


class DetectionImages(Dataset[tuple[Tensor, Target]]):
    """Images of a split as they are, with their objects.

    An item is the image, uint8 [3, height, width], and a target: boxes float32 [n, 4] as x, y, x, y in its pixels,
    labels int64 [n] from 1, iscrowd int64 [n], image_id, and, with `masks`, masks uint8 [n, height, width]. Crowd
    regions are among them; in training they are not.

    Raises:
        UserError: with `masks`, some objects have no segmentation.
    """

    def __init__(self, source: AnnotatedSource, *, masks: bool = True) -> None:
        self.source, self.annotations, self.masks = source, source.annotations, masks
        self.fingerprint = source.fingerprint
        if masks:
            check_segmentations(self.annotations)

    def __len__(self) -> int:
        return len(self.source)

    @property
    def num_objects(self) -> int:
        return self.annotations.num_objects

    def __getitem__(self, index: int) -> tuple[Tensor, Target]:
        """Raises UnreadableImage, and UserError for an image of another size than annotated."""
        about = self.annotations.images[index]
        whole = Window(0, 0, about.height, about.width, (about.height, about.width), False)
        return self.source.read(index), self.target(index, whole, about.objects)

    def target(self, index: int, window: Window, objects: tuple[Object, ...]) -> Target:
        """The target of a window of an image, of these objects of it."""
        about = self.annotations.images[index]
        labels = [self.annotations.label_of(each.category) for each in objects]
        found = cut_objects(objects, labels, about.height, about.width, window, masks=self.masks)
        return found | {"image_id": about.id}


class DetectionBatch(NamedTuple):
    """Training images of one step, uint8 [3, h, w] each, of different sizes, and their targets, without crowd regions.

    `indices` [n] are the images that are really in it, `skipped` those that should have been.
    """

    images: list[Tensor]
    targets: list[Target]
    indices: Tensor
    skipped: list[Skipped]


class ScoringBatch(NamedTuple):
    """Images as they are, uint8 [3, h, w] each, COCO's ids of them, and those that could not be read."""

    images: list[Tensor]
    image_ids: list[int]
    skipped: list[Skipped]


class _Training(Reader[DetectionBatch]):
    """Reads the images of a batch and takes a window of each, by (seed, epoch, index)."""

    def __init__(
        self, images: DetectionImages, *, seed: int, image_size: int, jitter: tuple[float, float], flip: bool
    ) -> None:
        super().__init__(images.source)
        self.images, self.seed, self.image_size, self.jitter, self.flip = images, seed, image_size, jitter, flip
        self.stream = KeyedStream(Purpose.AUGMENT)

    def batch(self, keys: list[Key]) -> DetectionBatch:
        batch = DetectionBatch([], [], torch.zeros(len(keys), dtype=torch.int64), [])
        for place, (epoch, index) in enumerate(keys):
            image, used, failures = read_or_next(self.source, index)
            batch.indices[place] = used
            batch.skipped.extend(_skipped(index, failures, len(self.source)))
            # A replacement keeps the key of the image it replaces: should both be in the batch, they differ.
            window = draw_window(
                self.stream.at(self.seed, epoch, index),
                *image.shape[1:],
                image_size=self.image_size,
                scale=self.jitter,
                flip=self.flip,
            )
            objects = tuple(each for each in self.images.annotations.images[used].objects if not each.is_crowd)
            batch.images.append(window.cut(image))
            batch.targets.append(self.images.target(used, window, objects))
        return batch


class _Scoring(Reader[ScoringBatch]):
    """Reads the images of a batch; leaves out what cannot be read."""

    def __init__(self, images: DetectionImages) -> None:
        super().__init__(images.source)
        self.source, self.ids = images.source, [image.id for image in images.annotations.images]  # read once: not kept

    def batch(self, keys: list[Key]) -> ScoringBatch:
        batch = ScoringBatch([], [], [])
        for _, index in keys:
            try:
                image = self.source.read(index)
            except UnreadableImage as failure:
                batch.skipped.extend(_skipped(index, [failure], len(self.source)))
            else:
                batch.images.append(image)
                batch.image_ids.append(self.ids[index])
        return batch


class _InOrder(Steps):
    """All images once, in their order."""

    def __init__(self, num_images: int, batch_size: int) -> None:
        steps = math.ceil(num_images / batch_size)
        super().__init__(num_images, batch_size, steps, 0, range(steps))

    def __iter__(self) -> Iterator[list[Key]]:
        for step in self.steps:
            start = step * self.batch_size
            yield [(0, index) for index in range(start, min(start + self.batch_size, self.num_images))]


def training_loader(
    images: DetectionImages,
    *,
    seed: int,
    image_size: int,
    batch_size: int,
    epochs: int,
    steps_done: int = 0,
    jitter: tuple[float, float] = (0.1, 2.0),
    flip: bool = True,
    num_workers: int | None = None,
    pin_memory: bool = False,
) -> BatchLoader[DetectionBatch]:
    """Batches of jittered images, one per step, from step `steps_done` + 1 to the end of the last epoch.

    The last batch of an epoch is smaller where the images do not divide. Batches depend neither on the number of
    workers nor on where the loader started.

    Args:
        image_size: the longest side of an image at jitter 1, and the longest that any has.
        num_workers: processes that read images, 0: this one; None: one a core but for the first.

    Raises:
        UserError: while iterating: no image can be read, or one has another size than annotated.
        RunError: while iterating: a worker process died.
    """
    batch_size = min(batch_size, len(images))
    steps_per_epoch = math.ceil(len(images) / batch_size)
    steps = Steps(len(images), batch_size, steps_per_epoch, seed, range(steps_done, epochs * steps_per_epoch))
    reader = _Training(images, seed=seed, image_size=image_size, jitter=jitter, flip=flip)
    return BatchLoader(reader, steps, _workers(num_workers), pin_memory)


def scoring_loader(
    images: DetectionImages, *, batch_size: int, num_workers: int | None = None, pin_memory: bool = False
) -> BatchLoader[ScoringBatch]:
    """All images once, in their order and size: a detector scales them itself, and finds boxes in their own pixels.

    Raises as training_loader.
    """
    return BatchLoader(_Scoring(images), _InOrder(len(images), batch_size), _workers(num_workers), pin_memory)


def open_splits(config: DetectConfig) -> tuple[DetectionImages, DetectionImages]:
    """The images to train on, `data.limit` of them, and those to score on, with the same categories.

    Scenes of digits are the same for every seed; their canvas is as large as training images.

    Raises:
        UserError: as read_annotations; categories to score that are not in training; masks asked for and not there.
    """
    data = config.data
    if data.name == "digits-scenes":
        size = config.image_size or CANVAS
        sources: tuple[AnnotatedSource, AnnotatedSource] = (
            SceneSet("train", min(data.num_scenes, data.limit or data.num_scenes), size=size),
            SceneSet("val", math.ceil(data.num_scenes / 5), size=size),
        )
    else:
        train = _read("train", data.train_annotations, data.train, data.max_unreadable)
        val = with_categories_of(_read("val", data.val_annotations, data.val, data.max_unreadable), train)
        sources = PhotoSource(limited(train, data.limit)), PhotoSource(val)
    return DetectionImages(sources[0], masks=config.masks), DetectionImages(sources[1], masks=config.masks)


def _read(name: str, file: str | None, folder: str | None, max_missing: float) -> Annotations:
    assert file is not None, "the config checks it"
    assert folder is not None, "the config checks it"
    return read_annotations(Path(file).expanduser(), Path(folder).expanduser(), name=name, max_missing=max_missing)


def _skipped(index: int, failures: list[UnreadableImage], num_images: int) -> list[Skipped]:
    return [Skipped((index + step) % num_images, each.path, each.why) for step, each in enumerate(failures)]


def _workers(num_workers: int | None) -> int:
    return min(MOST_WORKERS, usable_cores() - 1) if num_workers is None else num_workers
