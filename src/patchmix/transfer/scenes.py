"""digits-scenes: scenes of several overlapping digits with exact masks, composed by (seed, split, index).

Nothing is stored but the annotations. The digits are the demo's, mnist5k: training scenes have those of its training
split, the others those of its test split.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from patchmix.config import DataConfig
from patchmix.data.datasets import ArraySource, open_dataset
from patchmix.data.streams import Purpose, keyed_generator
from patchmix.transfer.annotations import AnnotatedImage, Annotations, Category, Object
from patchmix.transfer.masks import mask_area, mask_box, packed_mask

NAME = "digits-scenes"
CANVAS = 96  # pixels

_SPLITS = {"train": (1, "train"), "val": (2, "test")}  # number in the stream's key, split of mnist5k
_DIGITS = (3, 7)  # tried in a scene, both included
_SIDES = (0.25, 0.5)  # of a digit's 28 x 28 cell, as a share of the canvas
_BRIGHTNESS = (0.5, 1.0)
_LEAST_VISIBLE = 0.5  # of the pixels of each digit, under those that came later
_TRIES = 8  # places for a digit, then it is left out
_INK = 0.5  # a pixel of at least this opacity belongs to the digit's mask

Pixels = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]


class SceneSet:
    """Scenes of one split and their annotations (an ImageSource, with three equal channels).

    A digit's mask is the pixels of it that are seen: at least half opaque, and under no later digit.

    Args:
        split: train or val.
        num_images: how many scenes; the first n are the same whatever it is.
        size: side of the canvas in pixels.

    Raises:
        UserError: the demo's digits are not installed.
    """

    channels = 3
    labels: Tensor | None = None
    in_memory = False  # composing one takes about a millisecond

    def __init__(self, split: Literal["train", "val"], num_images: int, *, size: int = CANVAS, seed: int = 0) -> None:
        self.name, self.size, self.seed = NAME, size, seed
        self.split: str = split
        number, digits = _SPLITS[split]
        source = open_dataset(DataConfig(name="mnist5k"), "train" if digits == "train" else "test")
        assert isinstance(source, ArraySource)
        assert source.labels is not None
        self._number, self._digits, self._digit_labels = number, source.images, source.labels.tolist()
        self.classes: tuple[str, ...] = source.classes
        self.mean: tuple[float, ...] = source.mean * self.channels
        self.std: tuple[float, ...] = source.std * self.channels
        self.image_size: tuple[int, int] | None = (size, size)
        self._num_images = num_images
        self.annotations = self._annotate()
        about = f"{NAME} {split} {num_images} {size} {seed} {source.fingerprint}"
        self.fingerprint = hashlib.blake2b(about.encode(), digest_size=8).hexdigest()

    def __len__(self) -> int:
        return self._num_images

    def image(self, index: int) -> Tensor:
        """The scene as uint8 [3, size, size]."""
        canvas, _, _ = self._compose(index)
        grey = torch.from_numpy(np.rint(255 * canvas).astype(np.uint8))
        return grey.expand(self.channels, -1, -1).contiguous()

    def read(self, index: int) -> Tensor:
        """The same: as an ImageSource has it."""
        return self.image(index)

    def path(self, index: int) -> str:
        return f"{self.name}/{self.split}/{index}"

    def _annotate(self) -> Annotations:
        images, num_objects = [], 0
        for index in range(len(self)):
            _, masks, digits = self._compose(index)
            objects = []
            for mask, digit in zip(masks, digits, strict=True):
                num_objects += 1  # from 1: pycocotools takes an annotation 0 for no match
                rle = packed_mask(mask.astype(np.uint8))
                area = mask_area(rle, self.size, self.size)
                objects.append(Object(num_objects, self._digit_labels[digit], mask_box(rle), area, False, rle))
            images.append(AnnotatedImage(index + 1, None, self.size, self.size, tuple(objects)))
        categories = tuple(Category(number, name) for number, name in enumerate(self.classes))
        return Annotations(self.split, categories, tuple(images), {})

    def _compose(self, index: int) -> tuple[Pixels, list[Mask], list[int]]:
        """The canvas [size, size] in [0, 1], the mask of each digit, and which digits of the source they are."""
        generator = keyed_generator(Purpose.SUBSET, self.seed, self._number, index)
        canvas: Pixels = np.zeros((self.size, self.size), dtype=np.float32)
        masks: list[Mask] = []
        wholes: list[int] = []  # pixels of each digit before others lay on it
        digits: list[int] = []
        for _ in range(generator.integers(*_DIGITS, endpoint=True)):
            digit = int(generator.integers(len(self._digits)))
            side = min(self.size, max(4, round(self.size * generator.uniform(*_SIDES))))
            brightness = np.float32(generator.uniform(*_BRIGHTNESS))
            opacity = self._scaled(digit, side)
            for top, left in generator.integers(self.size - side, size=(_TRIES, 2), endpoint=True).tolist():
                area = slice(top, top + side), slice(left, left + side)
                ink: Mask = np.zeros(canvas.shape, dtype=bool)
                ink[area] = opacity >= _INK
                seen = [int((mask & ~ink).sum()) for mask in masks]
                enough = all(part >= _LEAST_VISIBLE * whole for part, whole in zip(seen, wholes, strict=True))
                if enough and ink.any():
                    canvas[area] += opacity * (brightness - canvas[area])
                    masks = [*(mask & ~ink for mask in masks), ink]
                    wholes.append(int(ink.sum()))
                    digits.append(digit)
                    break
        return canvas, masks, digits

    def _scaled(self, digit: int, side: int) -> Pixels:
        """A digit's opacity in [0, 1], [side, side]."""
        scaled: Tensor = functional.resize(self._digits[digit].float() / 255, [side, side], antialias=True)
        opacity: Pixels = scaled[0].clamp(0, 1).numpy()
        return opacity
