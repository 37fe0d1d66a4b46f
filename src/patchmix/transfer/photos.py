"""Annotated image files as a source of images, all of them or a subset."""

from __future__ import annotations

import dataclasses
import hashlib
from typing import Protocol

import numpy as np
from torch import Tensor

from patchmix.data.images import read_image
from patchmix.data.sources import ImageSource
from patchmix.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from patchmix.data.streams import Purpose, keyed_generator
from patchmix.errors import UserError
from patchmix.transfer.annotations import Annotations


class AnnotatedSource(ImageSource, Protocol):
    """Images that can be read one by one, in the order of their annotations."""

    annotations: Annotations


class PhotoSource:
    """The image files that annotations name, as RGB (an AnnotatedSource)."""

    channels = 3
    classes: tuple[str, ...] = ()
    labels: Tensor | None = None
    image_size: tuple[int, int] | None = None
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    in_memory = False

    def __init__(self, annotations: Annotations) -> None:
        self.annotations = annotations
        self.name, self.split = annotations.name, annotations.name
        digest = hashlib.blake2b(repr(annotations.categories).encode(), digest_size=8)
        for image in annotations.images:
            objects = [(each.id, each.category, each.box, each.area, each.is_crowd) for each in image.objects]
            name = image.path.name if image.path else ""
            digest.update(ascii((image.id, name, image.width, image.height, objects)).encode())
        self.fingerprint = digest.hexdigest()

    def __len__(self) -> int:
        return len(self.annotations.images)

    def path(self, index: int) -> str:
        return str(self.annotations.images[index].path)

    def read(self, index: int) -> Tensor:
        """uint8 [3, height, width], grey repeated, transparent parts white.

        Raises:
            UnreadableImage: as read_image.
            UserError: the image has another size than its annotations say.
        """
        image, about = read_image(self.path(index), self.channels), self.annotations.images[index]
        height, width = image.shape[1:]
        if (height, width) != (about.height, about.width):
            turned = "; it is turned by its EXIF data" if (width, height) == (about.height, about.width) else ""
            raise UserError(
                f"{self.path(index)} has {width} x {height} pixels, but the annotations of {self.name} are for "
                f"{about.width} x {about.height}{turned}: give the images as they were annotated"
            )
        return image


def limited(annotations: Annotations, limit: int | None) -> Annotations:
    """A fixed subset of `limit` images in their order, the same for every seed; all if there are no more.

    Raises:
        UserError: no image of it has an object.
    """
    num_images = len(annotations.images)
    if limit is None or limit >= num_images:
        return annotations
    chosen = np.sort(keyed_generator(Purpose.SUBSET, 0).permutation(num_images)[:limit])
    taken = dataclasses.replace(annotations, images=tuple(annotations.images[place] for place in chosen))
    if not taken.num_objects:
        raise UserError(f"data.limit = {limit} takes images of {annotations.name} without objects only: raise it")
    return taken
