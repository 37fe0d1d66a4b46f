"""What is done to labelled training images: crops, shifts, warps, RandAugment; by timm's and torchvision's parts.

A result is a function of (seed, epoch, image index) and nothing else, as a pre-training view is (design.md,
Randomness), but drawn from a stream of its own.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from PIL import Image, ImageOps
from torch import Tensor
from torchvision.transforms.v2 import functional as transforms

from patchmix.config import ViewsConfig
from patchmix.config.tuning import Augmentation
from patchmix.data import views, warps
from patchmix.data.crops import apply_crops
from patchmix.data.photometric import apply_photometrics
from patchmix.data.streams import KeyedStream, Purpose, libraries_seeded
from patchmix.data.warps import WarpParameters
from patchmix.errors import UserError
from patchmix.evaluation.features import InputSpec, prepare_image

PADDING = 4  # pixels, as method.md says for CIFAR
TRANSLATE = 0.45  # timm's largest shift in RandAugment, as a share of the image's side
# Numbers of streams of one key.
_VIEW, _RAND_AUGMENT, _SHIFT = 0, 1, 2

_NEVER = (0.0, 0.0, 0.0)
_PLAIN = ViewsConfig(global_scale=(0.08, 1.0), jitter=0.0, hue=0.0, grey=0.0, blur=_NEVER, solarise=_NEVER)
_DIGITS = ViewsConfig(kind="digits", global_scale=(0.8, 1.25), thickness=0.7)  # as the demo recipe's views


class Augment(ABC):
    """uint8 [c, any, any] and its key to uint8 [spec.channels, *spec.image_size]; picklable.

    `batch` does the same to images of any sizes, and is what loaders call.
    """

    def __init__(self, spec: InputSpec, seed: int) -> None:
        self.spec, self.seed = spec, seed
        self._stream = KeyedStream(Purpose.AUGMENT)

    def __call__(self, image: Tensor, epoch: int, index: int) -> Tensor:
        return self.batch([image], [(epoch, index)])[0]

    @abstractmethod
    def batch(self, images: Sequence[Tensor], keys: Sequence[tuple[int, int]]) -> Tensor:
        """[n, spec.channels, *spec.image_size] for images and their keys (epoch, index)."""


class Unchanged(Augment):
    """Images as evaluation prepares them."""

    def batch(self, images: Sequence[Tensor], keys: Sequence[tuple[int, int]]) -> Tensor:
        return torch.stack([prepare_image(image, self.spec) for image in images])


class Warped(Augment):
    """Small affine and elastic warps for digits and glyphs, with the strengths of recipe demo."""

    def batch(self, images: Sequence[Tensor], keys: Sequence[tuple[int, int]]) -> Tensor:
        prepared = torch.stack([prepare_image(image, self.spec, 1) for image in images])
        drawn = [views.draw(_DIGITS, self.seed, epoch, index, _VIEW, self._stream) for epoch, index in keys]
        parameters = [each for each in drawn if isinstance(each, WarpParameters)]
        return warps.apply_warps(prepared, parameters, self.spec.image_size)


class Photos(Augment):
    """A random resized crop or, with `padded`, a shift; then a flip, and RandAugment or colour jitter."""

    def __init__(self, spec: InputSpec, seed: int, *, padded: bool, rand_augment: str | None, jitter: float) -> None:
        super().__init__(spec, seed)
        self.padded = padded
        self.views = _PLAIN
        self.rand_augment: Any = None if rand_augment is None else _rand_augment(rand_augment, spec)
        if jitter and rand_augment is None:
            self.views = dataclasses.replace(_PLAIN, jitter=1.0, brightness=jitter, contrast=jitter, saturation=jitter)

    def batch(self, images: Sequence[Tensor], keys: Sequence[tuple[int, int]]) -> Tensor:
        crops, photometrics = views.draw_photos(self.views, self.seed, keys, _VIEW, self._stream)
        if self.padded:
            pairs = zip(images, keys, strict=True)
            seen = [self._shifted(image, *key, flip=bool(crops.flips[row])) for row, (image, key) in enumerate(pairs)]
        else:
            # They have the input's size then: only their channels are still to be made the encoder's.
            seen = [prepare_image(image, self.spec) for image in apply_crops(images, crops, self.spec.image_size)]
        if self.rand_augment is None:
            return apply_photometrics(torch.stack(seen), photometrics)
        return torch.stack([self._rand_augmented(image, *key) for image, key in zip(seen, keys, strict=True)])

    def _shifted(self, image: Tensor, epoch: int, index: int, *, flip: bool) -> Tensor:
        down, right = self._stream.at(self.seed, _SHIFT, index, epoch).integers(2 * PADDING + 1, size=2).tolist()
        image = shifted(prepare_image(image, self.spec, 1), down, right)
        return image.flip(-1) if flip else image

    def _rand_augmented(self, image: Tensor, epoch: int, index: int) -> Tensor:
        number = int(self._stream.at(self.seed, _RAND_AUGMENT, index, epoch).integers(2**32))
        # timm's colours need three channels.
        mode = "RGB" if image.shape[0] == 3 else "L"
        with libraries_seeded(number):
            found = self.rand_augment(transforms.to_pil_image(image).convert("RGB"))
        result: Tensor = transforms.pil_to_tensor(found.convert(mode))
        return result


def shifted(image: Tensor, down: int, right: int) -> Tensor:
    """The image seen through a window moved by (down, right) - 4 pixels; black outside, as RandomCrop(padding=4)."""
    height, width = image.shape[-2:]
    padded = torch.nn.functional.pad(image, (PADDING,) * 4)
    return padded[..., down : down + height, right : right + width]


def create_augment(
    kind: Augmentation, spec: InputSpec, seed: int, *, rand_augment: str | None = None, jitter: float = 0.0
) -> Augment:
    """The augmentation of that kind for images of any size and of 1 or 3 channels.

    crop: random resized crop (area 0.08-1, aspect ratio 3/4-4/3, bicubic) and flip; pad: images of the input's size,
    shifted by up to 4 pixels, and flip; digits: warps, no flip; none: evaluation's preparation.

    `rand_augment` (a name of timm's, "rand-m9-mstd0.5-inc1") and `jitter` (strength of brightness, contrast and
    saturation) belong to crop and pad; the others leave them out. Where there is RandAugment there is no jitter, as
    in timm's create_transform.

    Raises:
        UserError: timm has no such RandAugment.
    """
    if kind == "none":
        return Unchanged(spec, seed)
    if kind == "digits":
        return Warped(spec, seed)
    return Photos(spec, seed, padded=kind == "pad", rand_augment=rand_augment, jitter=jitter)


def _rand_augment(name: str, spec: InputSpec) -> Any:
    """timm's RandAugment with the settings of its create_transform, bicubic as images are resized here."""
    from timm.data.auto_augment import rand_augment_transform  # slow to import: only who fine-tunes needs timm here

    mean = tuple(spec.mean) if len(spec.mean) == 3 else tuple(spec.mean[:1]) * 3
    settings = {
        "translate_const": int(min(spec.image_size) * TRANSLATE),
        "img_mean": tuple(min(255, round(255 * value)) for value in mean),
        "interpolation": Image.Resampling.BICUBIC,
    }
    try:
        found = rand_augment_transform(name, settings)
    except (AssertionError, KeyError, ValueError):
        raise UserError(
            f"rand_augment = {name!r} is none of timm's RandAugment: give one like rand-m9-mstd0.5-inc1, or null"
        ) from None
    for operation in found.ops:
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
    return found


def _posterize(image: Any, bits: int, **_: Any) -> Any:
    """timm's posterise; at its strongest it asks for 0 bits, which was black until Pillow refused it (13.0)."""
    return ImageOps.posterize(image, bits) if bits else Image.new(image.mode, image.size)
