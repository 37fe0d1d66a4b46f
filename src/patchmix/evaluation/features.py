"""Frozen features of a data set: decode → resize and crop → normalise → encoder, in bounded memory.

What is done to an image is decision 0002: the shorter side becomes input / crop_ratio, the centre is cropped.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from patchmix.data.datasets import ImageSource, UnreadableImage
from patchmix.data.loading import normalise
from patchmix.data.workers import start_loading, start_worker
from patchmix.errors import UserError
from patchmix.progress import say

PUBLISHED_CROP_RATIO = 224 / 256
LINE_EVERY = 20.0  # seconds between lines of progress where there is no terminal
AUTOCAST_DTYPES = {"bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}


class InputSpec(Protocol):
    """What an encoder takes: the part of `models.vit.EncoderSpec` that preparing its input needs."""

    @property
    def image_size(self) -> tuple[int, int]: ...
    @property
    def channels(self) -> int: ...
    @property
    def mean(self) -> Sequence[float]: ...
    @property
    def std(self) -> Sequence[float]: ...


@dataclass(frozen=True)
class Input:
    """An InputSpec that belongs to no encoder."""

    image_size: tuple[int, int]
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


class NothingReadableError(UserError):
    """Not one image of a source can be read; `skipped`: (index, path, why) of all of them."""

    def __init__(self, message: str, skipped: list[tuple[int, str, str]]) -> None:
        super().__init__(message)
        self.skipped = skipped


@dataclass(frozen=True)
class Features:
    """Features of the images of one split that could be read.

    features: float32 [n, width], on the CPU; labels: int64 [n], or None where the source has none;
    indices: int64 [n], positions in the source, ascending; skipped: (index, path, why) of those left out;
    num_unchanged: images that were neither resized nor cropped.
    """

    features: Tensor
    labels: Tensor | None
    indices: Tensor
    skipped: list[tuple[int, str, str]]
    num_unchanged: int


def prepare_image(image: Tensor, spec: InputSpec, crop_ratio: float | None = None) -> Tensor:
    """One uint8 image [channels, height, width] as uint8 [spec.channels, *spec.image_size].

    The shorter side (for a rectangular input, whichever side is short of it) becomes input / crop_ratio
    pixels, bicubic with antialiasing, and the centre is cropped. `crop_ratio` None means 224/256 as
    published, except that an image which has the encoder's input size already is taken as it is; 1 means
    the whole shorter side. Grey becomes RGB by repetition, RGB grey by luma.

    DIFFERS: the reference resizes and crops every image; for 28 or 32 pixel images that throws their border
    away and blurs the rest (decision 0002).
    """
    if image.shape[0] != spec.channels:
        image = functional.rgb_to_grayscale(image) if spec.channels == 1 else image.expand(spec.channels, -1, -1)
    height, width = spec.image_size
    if tuple(image.shape[1:]) == (height, width) and crop_ratio in (None, 1):
        return image
    ratio = PUBLISHED_CROP_RATIO if crop_ratio is None else crop_ratio
    # The smallest size of the image's own aspect ratio that covers input / ratio on both sides.
    scale = max(height / image.shape[1], width / image.shape[2]) / ratio
    resized = [max(1, round(image.shape[1] * scale)), max(1, round(image.shape[2] * scale))]
    if resized != list(image.shape[1:]):
        image = functional.resize(image, resized, interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    cropped: Tensor = functional.center_crop(image, [height, width])
    return cropped


def extract(
    encoder: nn.Module,
    source: ImageSource,
    spec: InputSpec,
    *,
    batch_size: int = 256,
    device: torch.device | str = "cpu",
    precision: str = "32-true",
    crop_ratio: float | None = None,
    num_workers: int = 0,
    inference: bool = True,
    console: Console | None = None,
    title: str = "features",
) -> Features:
    """Features of every readable image of `source`, as the frozen encoder gives them.

    The encoder runs in eval mode, without gradients, and gets its train/eval flags back afterwards. Under
    "bf16-mixed" and "16-mixed" it runs under autocast; images are normalised and features returned in
    float32, not L2-normalised. No random numbers are drawn. `inference` False takes no_grad in place of
    inference_mode, for an encoder that is trained on afterwards. With a console progress is shown: a
    bar on a terminal, else a line every 20 seconds. Memory holds a few batches of prepared images per worker, and the
    features.

    Raises NothingReadableError if not one image can be read; otherwise `skipped` names those left out.
    """
    device = torch.device(device)
    loader = DataLoader(
        _Prepared(source, spec, crop_ratio),
        batch_size=batch_size,
        num_workers=num_workers,
        collate_fn=_collate,
        pin_memory=device.type == "cuda",
        # The loader would draw a seed for its workers from the global generator, which belongs to training.
        generator=torch.Generator(),
        worker_init_fn=start_worker,
    )
    features: Tensor | None = None
    kept: list[int] = []
    skipped: list[tuple[int, str, str]] = []
    unchanged = 0
    with evaluating(encoder), _progress(console, title) as bar:
        task = bar.add_task(title, total=len(source))
        done, said = 0, time.monotonic()
        for batch in start_loading(loader):
            skipped += batch.skipped
            unchanged += batch.num_unchanged
            if batch.images is not None:
                images = batch.images.to(device, non_blocking=True)
                images = normalise(images, spec.mean, spec.std, torch.float32)
                # What an encoder caches under inference_mode could not be used in training afterwards.
                with torch.inference_mode() if inference else torch.no_grad(), autocast(device, precision):
                    found = encoder(images).float().cpu()
                if features is None:
                    features = torch.empty(len(source), found.shape[1])
                features[len(kept) : len(kept) + len(found)] = found
                kept += batch.indices
            done += len(batch.indices) + len(batch.skipped)
            bar.update(task, completed=done)
            if bar.disable and console is not None and time.monotonic() - said > LINE_EVERY and done < len(source):
                said = time.monotonic()
                say(console, f"{title}: {done:,} of {len(source):,} images")
    if features is None:
        raise nothing_readable(source, skipped)
    taken = torch.tensor(kept, dtype=torch.int64)
    labels = None if source.labels is None else source.labels[taken].long()
    return Features(features[: len(kept)], labels, taken, skipped, unchanged)


def nothing_readable(source: ImageSource, skipped: list[tuple[int, str, str]]) -> NothingReadableError:
    """The error to raise where all images of a source were skipped."""
    first = f"; the first: {skipped[0][1]}: {skipped[0][2]}" if skipped else ""
    message = f"{source.name} {source.split}: none of its {len(source)} images can be read{first}"
    return NothingReadableError(message, skipped)


@contextlib.contextmanager
def evaluating(encoder: nn.Module) -> Iterator[None]:
    """Eval mode inside; afterwards every module has its own flag back (some may be frozen on purpose)."""
    flags = {module: module.training for module in encoder.modules()}
    encoder.eval()
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag


def describe_preparation(spec: InputSpec, crop_ratio: float | None) -> str:
    """One line that says how images became the encoder's input."""
    height, width = spec.image_size
    ratio = PUBLISHED_CROP_RATIO if crop_ratio is None else crop_ratio
    line = f"shorter side to {round(min(height, width) / ratio)} px (bicubic), centre crop {height} × {width}"
    return f"{line}; images of {height} × {width} px as they are" if crop_ratio is None else line


@dataclass
class _PreparedBatch:
    images: Tensor | None
    indices: list[int]
    skipped: list[tuple[int, str, str]]
    num_unchanged: int

    def pin_memory(self) -> _PreparedBatch:
        """Called by the loader, so that the copy to a GPU does not wait."""
        if self.images is not None:
            self.images = self.images.pin_memory()
        return self


class _Prepared(Dataset[tuple[int, Tensor | tuple[str, str], bool]]):
    """(index, prepared image or (path, why), unchanged?) for each index."""

    def __init__(self, source: ImageSource, spec: InputSpec, crop_ratio: float | None) -> None:
        self.source, self.spec, self.crop_ratio = source, spec, crop_ratio

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> tuple[int, Tensor | tuple[str, str], bool]:
        try:
            image = self.source.read(index)
        except UnreadableImage as error:
            return index, (error.path, error.why), False
        unchanged = tuple(image.shape[1:]) == self.spec.image_size and self.crop_ratio in (None, 1)
        return index, prepare_image(image, self.spec, self.crop_ratio), unchanged


def _collate(items: list[tuple[int, Tensor | tuple[str, str], bool]]) -> _PreparedBatch:
    images, indices, skipped, unchanged = [], [], [], 0
    for index, image, as_it_is in items:
        if isinstance(image, tuple):
            skipped.append((index, *image))
        else:
            images.append(image)
            indices.append(index)
            unchanged += as_it_is
    return _PreparedBatch(torch.stack(images) if images else None, indices, skipped, unchanged)


def autocast(device: torch.device, precision: str) -> torch.autocast:
    """Autocast as a precision name means it; a context that does nothing for "32-true"."""
    dtype = AUTOCAST_DTYPES.get(precision)
    return torch.autocast(device.type, dtype=dtype or torch.bfloat16, enabled=dtype is not None)


def _progress(console: Console | None, title: str) -> Progress:
    shown = console is not None and console.is_terminal
    columns = (TextColumn(title), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not shown)
