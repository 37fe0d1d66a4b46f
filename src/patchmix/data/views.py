"""Views of images: what is drawn (`draw`) and how it is applied (`ViewMaker`), apart from each other.

A view is a function of (seed, epoch, image index, view number) and nothing else (design.md, Randomness). The
seams: decoding (images.py) -> crop (crops.py) -> photometric (photometric.py) -> batch (here); digits:
warps.py.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from patchmix.config import ViewsConfig
from patchmix.data import crops, photometric, warps
from patchmix.data.crops import CropParameters, Crops
from patchmix.data.photometric import PhotometricParameters, Photometrics
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
    stream = stream or KeyedStream(Purpose.VIEW)
    if views.kind == "digits":
        return warps.draw_warp(stream.at(seed, view, index, epoch), views, local=view >= NUM_GLOBAL_VIEWS)
    cropped, changed = draw_photos(views, seed, [(epoch, index)], view, stream)
    return PhotoParameters(cropped.one(0), changed.one(0))


def draw_photos(
    views: ViewsConfig, seed: int, keys: Sequence[tuple[int, int]], view: int, stream: KeyedStream
) -> tuple[Crops, Photometrics]:
    """What `draw` gives for each of n (epoch, index) keys, as arrays."""
    uniforms = np.empty((len(keys), _NUM_PHOTO_UNIFORMS))
    for row, (epoch, index) in zip(uniforms, keys, strict=True):
        stream.at(seed, view, index, epoch).random(out=row)
    return (
        crops.draw_crops(uniforms[:, : crops.NUM_UNIFORMS], views, local=view >= NUM_GLOBAL_VIEWS),
        photometric.draw_photometrics(uniforms[:, crops.NUM_UNIFORMS :], views, view),
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

    def size(self, view: int) -> tuple[int, int]:
        """(height, width) of this view."""
        return self.image_size if view < NUM_GLOBAL_VIEWS else (self.views.local_size, self.views.local_size)

    def __call__(self, images: Sequence[torch.Tensor], keys: Sequence[tuple[int, int]]) -> tuple[torch.Tensor, ...]:
        return change_views(*self.geometric(images, keys))

    def geometric(
        self, images: Sequence[torch.Tensor], keys: Sequence[tuple[int, int]]
    ) -> tuple[tuple[torch.Tensor, ...], tuple[Photometrics, ...]]:
        """The views before their photometric changes, and these: none for digits."""
        if self.views.kind == "digits":
            stacked = warps.same_size(images, self.image_size)
            return tuple(self._warped(stacked, keys, view) for view in range(self.num_views)), ()
        drawn = [draw_photos(self.views, self.seed, keys, view, self._stream) for view in range(self.num_views)]
        cut = [crops.apply_crops(images, cropped, self.size(view)) for view, (cropped, _) in enumerate(drawn)]
        return tuple(cut), tuple(changes for _, changes in drawn)

    def _warped(self, images: torch.Tensor, keys: Sequence[tuple[int, int]], view: int) -> torch.Tensor:
        generators = (self._stream.at(self.seed, view, index, epoch) for epoch, index in keys)
        local = view >= NUM_GLOBAL_VIEWS
        parameters = [warps.draw_warp(generator, self.views, local=local) for generator in generators]
        return warps.apply_warps(images, parameters, self.size(view))


def change_views(
    views: Sequence[torch.Tensor], changes: Sequence[Photometrics], *, device: torch.device | None = None
) -> tuple[torch.Tensor, ...]:
    """Views after their photometric changes, on a device (None: where they are); without changes as they are.

    Views of one size are changed together: a GPU has fewer and larger pieces of work then.
    """
    sent = [view if device is None else view.to(device, non_blocking=True) for view in views]
    if not changes:
        return tuple(sent)
    together: dict[torch.Size, list[int]] = defaultdict(list)
    for number, view in enumerate(sent):
        together[view.shape].append(number)
    for numbers in together.values():
        parts = torch.cat([sent[number] for number in numbers])
        changed = photometric.apply_photometrics(parts, photometric.joined([changes[number] for number in numbers]))
        for number, view in zip(numbers, changed.chunk(len(numbers)), strict=True):
            sent[number] = view
    return tuple(sent)


def apply_photo(image: torch.Tensor, parameters: PhotoParameters, size: tuple[int, int]) -> torch.Tensor:
    """One `photo` view: crop, then photometric; uint8 [c, any, any] -> uint8 [c, *size]."""
    return photometric.apply_photometric(crops.apply_crop(image, parameters.crop, size), parameters.photometric)
