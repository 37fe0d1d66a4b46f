"""What a worker spends on one image, stage by stage, beside the usual PIL pipeline, one thread, taking turns.

Prints a table. ImageNet-like: files of 500 x 375 pixels made from COCO's photographs (those of ../shared/data),
2 x 224 px and 8 x 96 px views of recipe imagenet-vit-small. CIFAR-10: 32 px images in memory, as they are from the
second epoch on, views of recipe cifar10-vit-tiny. The usual pipeline normalises too; here that happens where the
model runs. Command: python benchmarks/input_pipeline.py
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from PIL import Image

from patchmix import recipes
from patchmix.config import Config
from patchmix.data.datasets import ImageSource, open_dataset
from patchmix.data.sample import evenly_spaced
from patchmix.data.sources import ArraySource
from patchmix.data.stages import stage_seconds
from plain.views import PlainViews, decode, seconds_an_image

SHARED = Path(__file__).parents[2] / "shared" / "data"
ROUNDS = 7
PHOTOS, SMALL_IMAGES = 32, 256  # images of one round
PHOTO_SIZE, QUALITY = (500, 375), 90


def measure(source: ImageSource, config: Config, num_images: int, rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Milliseconds of one thread for an image, of each round: our stages, and `plain` for the usual pipeline.

    `device` is what is left to a worker where the device applies the photometric changes.
    """
    images: list[Callable[[], Image.Image]] = [
        _opener(source, index) for index in evenly_spaced(len(source), num_images)
    ]
    assert config.data.image_size is not None
    plain = PlainViews(config.views, config.data.image_size)
    found: dict[str, list[float]] = {}
    for _ in range(1 + rounds):
        stages = stage_seconds(source, config, num_images)
        stages["device"] = stages["decode"] + stages["crops"]
        stages["plain"] = seconds_an_image(plain, images)
        for name, seconds in stages.items():
            found.setdefault(name, []).append(1000 * seconds)
    return {name: times[1:] for name, times in found.items()}  # the first round warms up


def _opener(source: ImageSource, index: int) -> Callable[[], Image.Image]:
    if not source.in_memory:
        path = source.path(index)
        return lambda: decode(path)
    pixels = source.read(index).permute(1, 2, 0).contiguous().numpy()
    return lambda: Image.fromarray(pixels)


def photographs(directory: Path, count: int = PHOTOS) -> bool:
    """Write so many 500 x 375 JPEG files of COCO's wide photographs; False where they are not on this machine."""
    archive = SHARED / "coco-mini.zip"
    if not archive.exists():
        return False
    with zipfile.ZipFile(archive) as files:
        names = sorted(name for name in files.namelist() if name.endswith(".jpg"))
        written = 0
        for name in names:
            with files.open(name) as file, Image.open(file) as opened:
                if opened.width < opened.height or written == count:
                    continue
                photo = opened.convert("RGB").resize(PHOTO_SIZE, Image.Resampling.BICUBIC)
            photo.save(directory / f"{written:03}.jpg", quality=QUALITY)
            written += 1
    return written == count


def imagenet_like(directory: str) -> tuple[ImageSource, Config] | None:
    """Photographs in that directory, and ImageNet's recipe for them."""
    if not photographs(Path(directory)):
        return None
    config = recipes.resolve("imagenet-vit-small", None, {"data.name": "folder", "data.root": directory})
    return open_dataset(config.data, "train"), config


def cifar() -> tuple[ImageSource, Config] | None:
    """CIFAR-10 images in memory, and its recipe; from the shared JPEG copy."""
    archive = SHARED / "cifar10-images.zip"
    if not archive.exists():
        return None
    config = recipes.resolve("cifar10-vit-tiny")
    with tempfile.TemporaryDirectory() as directory, zipfile.ZipFile(archive) as files:
        names = sorted(name for name in files.namelist() if name.endswith(".jpg") and "/train/" in name)
        chosen = [names[place] for place in evenly_spaced(len(names), SMALL_IMAGES)]
        files.extractall(directory, chosen)
        root = os.path.join(directory, "cifar10", "train")
        data = dataclasses.replace(config.data, name="folder", root=root)
        folder = open_dataset(data, "train")
        pixels = torch.stack([folder.read(index) for index in range(len(folder))])
    return ArraySource("cifar10", "train", pixels, None, (), mean=folder.mean, std=folder.std), config


def row(title: str, case: tuple[ImageSource, Config] | None, num_images: int) -> str:
    """One row of the table."""
    if case is None:
        return f"| {title} | not measured: ../shared/data is not here | | | | | | | |"
    found = measure(*case, num_images)
    parts = [f"{statistics.median(found[name]):.2f}" for name in ("decode", "crops", "photometrics")]
    totals = [_spread(found[name], 2) for name in ("everything", "device", "plain")]
    ratios = [
        _spread([plain / ours for plain, ours in zip(found["plain"], found[name], strict=True)], 1)
        for name in ("everything", "device")
    ]
    return f"| {title} | " + " | ".join((*parts, *totals, *ratios)) + " |"


def _spread(values: list[float], digits: int) -> str:
    low, high = min(values), max(values)
    return f"{statistics.median(values):.{digits}f} ({low:.{digits}f}–{high:.{digits}f})"


def lines() -> Iterator[str]:
    """This benchmark's section of results.md, as it is measured."""
    yield "## The input pipeline: a worker's time for an image"
    yield ""
    yield (
        f"`python benchmarks/input_pipeline.py`; ms of one thread, medians of {ROUNDS} rounds taking turns "
        "(lowest–highest). Plain: decoding and transforms by PIL, one image at a time."
    )
    yield ""
    yield (
        "| images and views | decode | crops | photometrics | all | without photometrics (on a device) | plain "
        "| plain / all | plain / without |"
    )
    yield "|---" * 9 + "|"
    with tempfile.TemporaryDirectory() as directory:
        yield row("500 × 375 JPEG, 2 × 224 + 8 × 96 px", imagenet_like(directory), PHOTOS)
    yield row("32 px in memory, 2 × 32 px", cifar(), SMALL_IMAGES)


if __name__ == "__main__":
    for line in lines():
        print(line, flush=True)
