"""Views of images: what is drawn (`draw`) and how it is applied (`ViewMaker`), apart from each other.

A view is a function of (seed, epoch, image index, view number) and nothing else (design.md, Randomness). The
seams: decoding (images.py) -> crop (crops.py) -> photometric (photometric.py) -> batch (here); digits:
warps.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from patchmix.config import ViewsConfig
from patchmix.data import crops, photometric, warps
from patchmix.data.crops import CropParameters
from patchmix.data.photometric import PhotometricParameters
from patchmix.data.streams import KeyedStream, Purpose
from patchmix.data.warps import WarpParameters
from patchmix.errors import UserError

NUM_GLOBAL_VIEWS = 2


@dataclass(frozen=True, slots=True)
class PhotoParameters:
    """What is drawn for one `photo` view."""

    crop: CropParameters
    photometric: PhotometricParameters


ViewParameters = PhotoParameters | WarpParameters

_NUM_PHOTO_UNIFORMS = crops.NUM_UNIFORMS + photometric.NUM_UNIFORMS


def draw(
    views: ViewsConfig, seed: int, epoch: int, index: int, view: int, stream: KeyedStream | None = None
) -> ViewParameters:
    """The parameters of one view: view 0 and 1 are global, 2, 3, … local crops.

    Args:
        stream: a generator to move to this key instead of building one (about three times faster); it
            changes nothing of what is drawn.
    """
    generator = (stream or KeyedStream(Purpose.VIEW)).at(seed, view, index, epoch)
    local = view >= NUM_GLOBAL_VIEWS
    if views.kind == "digits":
        return warps.draw_warp(generator, views, local=local)
    uniforms = generator.random(_NUM_PHOTO_UNIFORMS).tolist()
    return PhotoParameters(
        crops.draw_crop(uniforms[: crops.NUM_UNIFORMS], views, local=local),
        photometric.draw_photometric(uniforms[crops.NUM_UNIFORMS :], views, view),
    )


class ViewMaker:
    """Makes all views of a batch of images.

    Args:
        image_size: (height, width) of global views; local crops are views.local_size squares.

    Calling it takes uint8 images [c, any, any] of the same c (1 or 3) and their keys (epoch, index), and
    returns the two global views [n, c, *image_size], then the local ones [n, c, local_size, local_size], all
    uint8. Images of any size are taken, a single pixel too: they are enlarged.

    Raises:
        UserError: the views would be single pixels.
    """

    def __init__(self, views: ViewsConfig, image_size: tuple[int, int], seed: int) -> None:
        self.views = views
        self.image_size = image_size
        self.seed = seed
        self.num_views = NUM_GLOBAL_VIEWS + views.num_local_crops
        self._stream = KeyedStream(Purpose.VIEW)
        if any(self.size(view) == (1, 1) for view in range(self.num_views)):
            raise UserError("views of a single pixel show nothing: raise data.image_size and views.local_size")

    def draw(self, keys: Sequence[tuple[int, int]], view: int) -> list[ViewParameters]:
        """The parameters of this view of these (epoch, index) keys."""
        return [draw(self.views, self.seed, epoch, index, view, self._stream) for epoch, index in keys]

    def size(self, view: int) -> tuple[int, int]:
        """(height, width) of this view."""
        return self.image_size if view < NUM_GLOBAL_VIEWS else (self.views.local_size, self.views.local_size)

    def __call__(self, images: Sequence[torch.Tensor], keys: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, ...]:
        if self.views.kind == "digits":
            stacked = warps.same_size(images, self.image_size)
            return tuple(self._warped(stacked, keys, view) for view in range(self.num_views))
        return tuple(self._photos(images, keys, view) for view in range(self.num_views))

    def _warped(self, images: torch.Tensor, keys: Sequence[tuple[int, int]], view: int) -> torch.Tensor:
        parameters = [one for one in self.draw(keys, view) if isinstance(one, WarpParameters)]
        return warps.apply_warps(images, parameters, self.size(view))

    def _photos(self, images: Sequence[torch.Tensor], keys: Sequence[tuple[int, int]], view: int) -> torch.Tensor:
        parameters = [one for one in self.draw(keys, view) if isinstance(one, PhotoParameters)]
        size = self.size(view)
        return torch.stack([apply_photo(image, one, size) for image, one in zip(images, parameters, strict=True)])


def apply_photo(image: torch.Tensor, parameters: PhotoParameters, size: tuple[int, int]) -> torch.Tensor:
    """One `photo` view: crop, then photometric; uint8 [c, any, any] -> uint8 [c, *size]."""
    return photometric.apply_photometric(crops.apply_crop(image, parameters.crop, size), parameters.photometric)
