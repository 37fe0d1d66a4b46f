"""Data sets of torchvision by name: `torchvision:Flowers102`, `torchvision:FashionMNIST` and so on.

torchvision finds the files and the labels; images in files are read by our readers, so that damaged ones are
skipped as everywhere.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from patchmix import distributed
from patchmix.config import DataConfig
from patchmix.data.channels import array_source, photo_statistics
from patchmix.data.listed import ListedSource
from patchmix.data.sources import ImageSource
from patchmix.data.statistics import GREY_PHOTO_MEAN, GREY_PHOTO_STD, IMAGENET_MEAN, IMAGENET_STD, MNIST_MEAN, MNIST_STD
from patchmix.data.torchvision_download import download
from patchmix.data.torchvision_table import Part, TorchvisionSet, find_set
from patchmix.errors import UserError
from patchmix.interruption import stops_at_once

_FILES = ("_image_files", "_images", "imgs", "_samples", "data")  # attributes that list paths, or (path, label)
_LABELS = ("_labels", "targets", "labels")


def open_torchvision(data: DataConfig, split: str, root: Path) -> ImageSource:
    """Open a split of `torchvision:NAME` in `root`; the first process downloads what is not there.

    Raises:
        UserError: no such set or split, it cannot be downloaded, or its files are damaged.
    """
    name, entry = find_set(data.name)
    parts = _parts(data.name, entry, split)
    absent = [part for part in parts if not (root / part.place).exists()]
    if distributed.from_first(bool(absent)):
        with distributed.first_speaks(), stops_at_once():  # it downloads, while the others wait
            if distributed.rank() == 0:
                for part in absent:
                    if not (root / part.place).exists():  # the part before may have brought it
                        download(name, entry, part, root)
    contents = [_open(name, entry, part, root) for part in parts]
    classes = contents[0].classes
    if any(each.classes != classes for each in contents):
        raise UserError(f"{root / parts[0].place} is incomplete: its splits have different classes; get it again")
    labels = np.concatenate([each.labels for each in contents])
    if contents[0].pixels is not None:
        pixels = torch.cat([each.pixels for each in contents if each.pixels is not None])
        return array_source(data, split, pixels, labels, classes, *_array_statistics(entry, pixels))
    channels = data.channels or (1 if entry.grey else 3)
    mean, std = photo_statistics(data, channels)
    return ListedSource(
        data.name,
        split,
        root,
        [path for each in contents for path in each.paths],
        labels.tolist(),
        classes,
        channels=channels,
        mean=mean,
        std=std,
        image_size=(entry.side, entry.side) if entry.side else None,
    )


def has_torchvision_split(data: DataConfig, split: str) -> bool:
    """Whether torchvision has this split of the set; UserError where it has no such set."""
    return split == "train" or find_set(data.name)[1].test is not None


def torchvision_is_there(data: DataConfig, root: Path) -> bool:
    """Whether the training images lie in `root`; UserError where torchvision has no such set."""
    return all((root / part.place).exists() for part in find_set(data.name)[1].train)


def _parts(data_name: str, entry: TorchvisionSet, split: str) -> tuple[Part, ...]:
    if split == "train":
        return entry.train
    if entry.test is None:
        raise UserError(
            f"{data_name} has no test images: torchvision gives it in one piece; train on it, and to evaluate, put its "
            "images into train/<class>/ and test/<class>/ of a folder for --data.name folder"
        )
    return (entry.test,)


class _Contents(NamedTuple):
    """Of one part: pixels, uint8 [n, channels, height, width], or paths relative to the root."""

    pixels: torch.Tensor | None
    paths: list[str]
    labels: Any
    classes: tuple[str, ...]


def _open(name: str, entry: TorchvisionSet, part: Part, root: Path) -> _Contents:
    import torchvision.datasets

    arguments = dict(part.arguments)
    if name == "SEMEION":
        arguments["download"] = False  # its default is to download
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of NumPy about old pickles, of MNIST about old names
            return _contents(getattr(torchvision.datasets, name)(root, **arguments), name, entry, root)
    except MemoryError:
        raise
    except Exception as error:  # readers raise nearly anything on damaged files
        why = " ".join(str(error).split()) or type(error).__name__
        again = f"get it again ({entry.by_hand})" if entry.by_hand else "delete it, to have it downloaded again"
        raise UserError(f"{root / part.place} is damaged or incomplete ({why[:200]}): {again}") from None


def _contents(dataset: Any, name: str, entry: TorchvisionSet, root: Path) -> _Contents:
    """What a data set of torchvision holds; no image in a file is opened."""
    classes = _class_names(dataset, entry)
    pixels: torch.Tensor | None = None
    paths: Sequence[Any] = []
    labels: Any = None
    if name in ("Caltech101", "Caltech256"):
        classes, labels, folder = tuple(dataset.categories), dataset.y, f"{name[7:]}_ObjectCategories"
        stem = "image_" if name == "Caltech101" else None
        paths = [
            os.path.join(dataset.root, folder, classes[label], f"{stem or f'{label + 1:03d}_'}{number:04d}.jpg")
            for label, number in zip(labels, dataset.index, strict=True)
        ]
    elif name == "Omniglot":  # numbered as the file system lists its folders
        classes = tuple(sorted(dataset._characters))
        number = {character: place for place, character in enumerate(classes)}
        characters = [(file, dataset._characters[label]) for file, label in dataset._flat_character_images]
        paths = [os.path.join(dataset.target_folder, character, file) for file, character in characters]
        labels = [number[character] for _, character in characters]
    elif name == "INaturalist":
        classes, labels = tuple(dataset.all_categories), [label for label, _ in dataset.index]
        paths = [os.path.join(dataset.root, classes[label], file) for label, file in dataset.index]
    elif name == "FER2013":
        pixels = torch.stack([image for image, _ in dataset._samples])
        labels = [label for _, label in dataset._samples]
    elif isinstance(getattr(dataset, "data", None), torch.Tensor | np.ndarray):
        pixels, labels = torch.as_tensor(np.ascontiguousarray(dataset.data)), _first(dataset, _LABELS)
        labels = labels[:, 0] if name == "QMNIST" else labels  # its others say who wrote the digit
    else:
        paths, labels = _first(dataset, _FILES), _first(dataset, _LABELS)
        if paths and isinstance(paths[0], tuple):
            paths, labels = zip(*paths, strict=True)
    if any(label is None for label in labels):
        raise ValueError("its images have no labels")
    numbers = np.asarray(labels, dtype=np.int64)
    if not len(numbers):
        raise ValueError("it has no images")
    if not 0 <= numbers.min() <= numbers.max() < len(classes):
        raise ValueError("labels outside its classes")
    return _Contents(
        None if pixels is None else _channels_first(pixels),
        [os.path.relpath(path, root) for path in paths],
        numbers,
        classes,
    )


def _class_names(dataset: Any, entry: TorchvisionSet) -> tuple[str, ...]:
    """Names where torchvision has them, else numbers."""
    names = getattr(dataset, "classes", None) or list(getattr(dataset, "class_to_idx", {}))
    if not names and entry.num_classes is not None:
        return tuple(str(number) for number in range(entry.num_classes))
    return tuple(each[0] if isinstance(each, tuple) else str(each) for each in names)  # several words for a class


def _first(dataset: Any, attributes: tuple[str, ...]) -> Any:
    return next((getattr(dataset, each) for each in attributes if hasattr(dataset, each)), None)


def _channels_first(pixels: torch.Tensor) -> torch.Tensor:
    if pixels.ndim == 3:
        return pixels[:, None]
    return pixels.permute(0, 3, 1, 2) if pixels.shape[-1] == 3 else pixels


def _array_statistics(entry: TorchvisionSet, pixels: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    if pixels.shape[1] == 3:
        return IMAGENET_MEAN, IMAGENET_STD
    return (MNIST_MEAN, MNIST_STD) if entry.digits else (GREY_PHOTO_MEAN, GREY_PHOTO_STD)
