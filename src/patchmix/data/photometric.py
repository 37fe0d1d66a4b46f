"""Photometric changes of `photo` views (method.md, Augmentation): what is drawn, and applying it to whole batches.

The changes themselves: colours.py, blur.py. In float32 from the first change of an image to the last, and rounded to
uint8 once; an image comes out the same bit for bit in whatever batch it is.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from patchmix.config import ViewsConfig
from patchmix.data import colours
from patchmix.data.blur import blur, blur_kernels

NUM_UNIFORMS = 13
STEPS = ("brightness", "contrast", "saturation", "hue")
NO_STEP = -1
BLUR_SIGMA = (0.1, 2.0)  # pixels, whatever the image's size, as in method.md
MOST_NUMBERS = 2**19  # changed at a time on the CPU: of float32, so that temporaries stay in its cache
MOST_ON_DEVICE = 2**26  # elsewhere: 256 MiB for each temporary

_COLOURED = ("saturation", "hue")  # steps that grey images do not have
_CHANGES = {
    "brightness": colours.change_brightness,
    "contrast": colours.change_contrast,
    "saturation": colours.change_saturation,
    "hue": colours.change_hue,
}


@dataclass(frozen=True, slots=True)
class PhotometricParameters:
    """Drawn changes, in the order in which they are applied.

    `jitter` holds (step, factor) pairs in their drawn order, empty where there is none: brightness, contrast
    and saturation factors are around 1, a hue factor is a shift in turns. `blur` is a σ in pixels, 0 for
    none.
    """

    jitter: tuple[tuple[str, float], ...]
    grey: bool
    blur: float
    solarise: bool


@dataclass(frozen=True, slots=True)
class Photometrics:
    """Changes of n images, as PhotometricParameters has them for one.

    `order` [n, 4] are numbers in STEPS, first to last, NO_STEP for none; `factors` [n, 4] belong to STEPS.
    """

    order: npt.NDArray[np.int8]
    factors: npt.NDArray[np.float64]
    grey: npt.NDArray[np.bool_]
    blur: npt.NDArray[np.float64]
    solarise: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.grey)

    def __getitem__(self, rows: slice) -> Photometrics:
        return Photometrics(self.order[rows], self.factors[rows], self.grey[rows], self.blur[rows], self.solarise[rows])

    def one(self, row: int) -> PhotometricParameters:
        """The parameters of one image."""
        steps = [step for step in self.order[row].tolist() if step != NO_STEP]
        jitter = tuple((STEPS[step], float(self.factors[row, step])) for step in steps)
        return PhotometricParameters(jitter, bool(self.grey[row]), float(self.blur[row]), bool(self.solarise[row]))


def joined(parts: Sequence[Photometrics]) -> Photometrics:
    """The changes of all images of several batches."""
    if len(parts) == 1:
        return parts[0]
    names = ("order", "factors", "grey", "blur", "solarise")
    return Photometrics(*(np.concatenate([getattr(part, name) for part in parts]) for name in names))


def of_one(parameters: PhotometricParameters) -> Photometrics:
    """One image's changes as a batch."""
    order = np.full((1, len(STEPS)), NO_STEP, dtype=np.int8)
    factors = np.ones((1, len(STEPS)))
    for place, (name, factor) in enumerate(parameters.jitter):
        order[0, place] = STEPS.index(name)
        factors[0, STEPS.index(name)] = factor
    flags = np.array([parameters.grey]), np.array([parameters.blur]), np.array([parameters.solarise])
    return Photometrics(order, factors, *flags)


def draw_photometrics(uniforms: npt.NDArray[np.float64], views: ViewsConfig, view: int) -> Photometrics:
    """Parameters of view 0, 1 (global) or 2… (local), from [n, NUM_UNIFORMS] numbers in [0, 1).

    Every choice has its own number, so that changing one probability leaves all other choices as they are.
    """
    strengths = np.array([views.brightness, views.contrast, views.saturation])
    low = np.maximum(0.0, 1 - strengths)
    scaled = low + (1 + strengths - low) * uniforms[:, 1:4]
    factors = np.concatenate([scaled, views.hue * (2 * uniforms[:, 4:5] - 1)], axis=1)
    order = uniforms[:, 5:9].argsort(axis=1, kind="stable").astype(np.int8)
    order[uniforms[:, 0] >= views.jitter] = NO_STEP
    kind = min(view, 2)
    sigmas = BLUR_SIGMA[0] + (BLUR_SIGMA[1] - BLUR_SIGMA[0]) * uniforms[:, 11]
    blur = np.where(uniforms[:, 10] < views.blur[kind], sigmas, 0.0)
    return Photometrics(order, factors, uniforms[:, 9] < views.grey, blur, uniforms[:, 12] < views.solarise[kind])


def apply_photometrics(images: torch.Tensor, photometrics: Photometrics) -> torch.Tensor:
    """Change n images, wherever they lie: uint8 [n, c, h, w] -> uint8 [n, c, h, w] of 3 channels or 1.

    Images of one channel have no saturation, hue or grey to change. Nothing here waits for the device: what is to be
    changed how is known on the CPU, and sent.
    """
    most = MOST_NUMBERS if images.device.type == "cpu" else MOST_ON_DEVICE
    at_once = max(1, most // images[0].numel())
    parts = [
        _changed(images[start : start + at_once], photometrics[start : start + at_once])
        for start in range(0, len(images), at_once)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def apply_photometric(image: torch.Tensor, parameters: PhotometricParameters) -> torch.Tensor:
    """The same for one image, uint8 [c, h, w]."""
    return apply_photometrics(image.unsqueeze(0), of_one(parameters))[0]


def _changed(images: torch.Tensor, photometrics: Photometrics) -> torch.Tensor:
    coloured = images.shape[1] == 3
    order = photometrics.order if coloured else _without_colour(photometrics.order)
    grey = photometrics.grey & coloured
    touched = np.flatnonzero((order != NO_STEP).any(axis=1) | grey | (photometrics.blur > 0))
    touched = touched[np.lexsort(order[touched].T[::-1])]  # those that begin alike lie beside each other
    order, factors, sigmas = (
        order[touched],
        photometrics.factors[touched].astype(np.float32),
        photometrics.blur[touched],
    )
    steps = list(_steps(order))
    greyed, softened = np.flatnonzero(grey[touched]), np.flatnonzero(sigmas > 0)
    solarised = np.flatnonzero(photometrics.solarise)
    kernels = [blur_kernels(sigmas[softened], side) for side in images.shape[-2:]]
    places = [greyed, softened, *(rows for _, rows in steps)]
    taken, back, *indices = _sent([touched, solarised, *places], images.device)
    down, across, *values = _sent([*kernels, *(factors[rows, step] for step, rows in steps)], images.device)

    result = images.clone()
    if len(touched):
        pixels = images.index_select(0, taken).to(torch.float32)
        for (step, rows), sent, factor in zip(steps, indices[2:], values, strict=True):
            change = functools.partial(_CHANGES[STEPS[step]], factor=factor.view(-1, 1, 1, 1))
            _change_rows(pixels, rows, sent, change)
        _change_rows(pixels, greyed, indices[0], colours.change_to_grey)
        _change_rows(pixels, softened, indices[1], functools.partial(blur, down=down, across=across))
        result.index_copy_(0, taken, pixels.round_().to(torch.uint8))
    if len(solarised):
        chosen = result.index_select(0, back)
        chosen = torch.minimum(chosen, chosen.bitwise_not())  # threshold 128, from which on 255 - x is the smaller
        result.index_copy_(0, back, chosen)
    return result


def _change_rows(
    pixels: torch.Tensor,
    rows: npt.NDArray[np.int64],
    sent: torch.Tensor,
    change: Callable[[torch.Tensor], None],
) -> None:
    """Change some images in place; `sent` are their rows on the device. Rows beside each other need no copy."""
    if len(rows) == 0:
        return
    first, last = int(rows[0]), int(rows[-1])
    if last - first + 1 == len(rows):
        change(pixels[first : last + 1])
        return
    chosen = pixels.index_select(0, sent)
    change(chosen)
    pixels.index_copy_(0, sent, chosen)


def _steps(order: npt.NDArray[np.int8]) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """(step, rows that take it) by place in the order: those of one place touch different rows."""
    for place in range(order.shape[1]):
        for step in range(len(STEPS)):
            rows = np.flatnonzero(order[:, place] == step)
            if len(rows):
                yield step, rows


def _without_colour(order: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    numbers = [STEPS.index(name) for name in _COLOURED]
    return np.where(np.isin(order, numbers), np.int8(NO_STEP), order)


def _sent(arrays: list[npt.NDArray[np.generic]], device: torch.device) -> list[torch.Tensor]:
    """Arrays of one type on the device, sent as one, from pinned memory: the host need not wait."""
    together = torch.from_numpy(np.concatenate([array.ravel() for array in arrays]))
    if device.type == "cuda":
        together = together.pin_memory()
    parts = torch.split(together.to(device, non_blocking=True), [array.size for array in arrays])
    return [part.view(array.shape) for part, array in zip(parts, arrays, strict=True)]
