"""Image data sets of Hugging Face by name, `huggingface:NAME` (extra `huggingface`).

NAME is one of the hub, or a directory that `datasets.load_dataset` takes: class folders, Parquet files, and so on.
The encoded images go through our readers.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from patchmix import distributed
from patchmix.config import DataConfig
from patchmix.config.training import HUGGINGFACE
from patchmix.data.channels import photo_statistics
from patchmix.data.images import UnreadableImage, read_image, read_image_bytes
from patchmix.errors import UserError
from patchmix.interruption import stops_at_once

SPLITS = {"train": ("train",), "test": ("test", "validation", "valid", "val", "dev")}
PATIENCE = 5.0  # seconds for the hub to answer at all; the packages try for half a minute


class HuggingfaceSource:
    """A split whose images lie in Arrow files (an ImageSource).

    `fingerprint` is of the images' names and sizes and of the labels.
    """

    in_memory = False
    image_size: tuple[int, int] | None = None

    def __init__(
        self,
        name: str,
        split: str,
        rows: Any,
        labels: torch.Tensor | None,
        classes: tuple[str, ...],
        *,
        channels: int,
        mean: tuple[float, ...],
        std: tuple[float, ...],
    ) -> None:
        self.name, self.split, self.labels, self.classes = name, split, labels, classes
        self.channels, self.mean, self.std = channels, mean, std
        self._rows = rows  # of one column, the images as they were stored
        self._column = rows.column_names[0]
        self.fingerprint = _fingerprint(rows, labels)

    def __len__(self) -> int:
        return len(self._rows)

    def path(self, index: int) -> str:
        stored = self._rows[index][self._column]
        return self._file(stored) or f"{self.name}/{self.split}/{index}"

    def read(self, index: int) -> torch.Tensor:
        stored = self._rows[index][self._column]
        if stored is None:
            raise UnreadableImage(self.path(index), "no image in this row")
        file = self._file(stored)
        if file is not None:
            return read_image(file, self.channels)
        return read_image_bytes(stored["bytes"] or b"", self.path(index), self.channels)

    @staticmethod
    def _file(stored: Any) -> str | None:
        """The image's own file, where it is not packed."""
        return stored["path"] if stored is not None and stored["bytes"] is None else None


def open_huggingface(data: DataConfig, split: str) -> HuggingfaceSource:
    """Open a split of `huggingface:NAME`; the first process downloads and unpacks it, while the others wait.

    The test split is `test`, or `validation` where the test images have no labels. Class labels are found by their
    type; `data.label_column` may also name a column of text or whole numbers.

    Raises:
        UserError: the package is absent, no such data set, split or column, or offline.
    """
    loaded = _loaded(data)
    features = next(iter(loaded.values())).features
    image = _column(data, features, "Image", "image", data.image_column)
    label = _column(data, features, "ClassLabel", "label", data.label_column)
    chosen = _split_name(data, loaded, label, split)
    if chosen is None:
        raise UserError(f"{data.name} has no {split} images: its splits are {', '.join(loaded)}")
    import datasets

    rows = loaded[chosen].select_columns([image]).cast_column(image, datasets.Image(decode=False))
    if not len(rows):
        raise UserError(f"{data.name} has no images in its split {chosen}")
    labels, classes = _labels(data, loaded, label, chosen) if label else (None, ())
    channels = data.channels or 3
    mean, std = photo_statistics(data, channels)
    return HuggingfaceSource(data.name, split, rows, labels, classes, channels=channels, mean=mean, std=std)


def has_huggingface_split(data: DataConfig, split: str) -> bool:
    """Whether there is such a split (which may lack labels); raises as `open_huggingface`."""
    return any(name in _loaded(data) for name in SPLITS[split])


def huggingface_is_there(data: DataConfig) -> bool:
    """Whether it is a directory, or lies in the cache."""
    name = data.name.removeprefix(HUGGINGFACE)
    if _directory(name) is not None:
        return True
    return (Path(_cache(data)) / name.replace("/", "___").lower()).is_dir()


def _cache(data: DataConfig) -> str:
    if data.root is not None:
        return os.path.expanduser(data.root)
    return str(_package().config.HF_DATASETS_CACHE)


def _directory(name: str) -> str | None:
    path = os.path.expanduser(name)
    return path if os.path.isdir(path) else None


def _package() -> Any:
    try:
        import datasets
    except ImportError:
        raise UserError(
            'data.name huggingface:NAME needs the package datasets: pip install "patchmix[huggingface]"'
        ) from None
    return datasets


def _loaded(data: DataConfig) -> dict[str, Any]:
    """All splits by name."""
    _package()
    arguments = (data.name.removeprefix(HUGGINGFACE), data.subset, data.root)
    with distributed.first_speaks(), stops_at_once():
        if distributed.rank() == 0:
            _load(*arguments)
    return _load(*arguments)


@functools.lru_cache(maxsize=2)
def _load(name: str, subset: str | None, root: str | None) -> dict[str, Any]:
    datasets = _package()
    directory = _directory(name)
    if directory is None and name.startswith(("/", "~", ".")):
        raise UserError(f"data.name = 'huggingface:{name}': there is no directory {name}")
    offline = directory is None and not _hub_answers()
    cache = None if root is None else os.path.expanduser(root)
    try:
        with _hub_out_of_reach(offline):
            found = datasets.load_dataset(directory or name, subset, cache_dir=cache)
    except MemoryError:
        raise
    except Exception as error:  # the package raises nearly anything
        why = " ".join(str(error).split())[:300] or type(error).__name__
        if offline:
            raise UserError(
                f"huggingface:{name} is not in {cache or datasets.config.HF_DATASETS_CACHE}, and the hub cannot be "
                "reached: go online once, or give a directory with the data set's files, huggingface:DIR"
            ) from None
        hint = ": choose one by --data.subset" if "config name is missing" in why.lower() else ""
        raise UserError(f"huggingface:{name} cannot be loaded{hint} ({why})") from None
    return dict(found)


def _hub_answers() -> bool:
    """Whether the hub can be reached, through proxies too; its own client tries for half a minute."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        request = urllib.request.Request(constants.ENDPOINT, method="HEAD")
        urllib.request.urlopen(request, timeout=PATIENCE).close()
    except urllib.error.HTTPError:
        return True  # it refused, but it is there
    except (OSError, ValueError):
        return False
    return True


@contextlib.contextmanager
def _hub_out_of_reach(offline: bool) -> Iterator[None]:
    """Both packages look in their caches only, without asking the hub again and again."""
    from huggingface_hub import constants

    config = _package().config
    before = constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE
    try:
        if offline:
            constants.HF_HUB_OFFLINE = config.HF_HUB_OFFLINE = True
        yield
    finally:
        constants.HF_HUB_OFFLINE, config.HF_HUB_OFFLINE = before


def _column(data: DataConfig, features: Any, kind: str, what: str, given: str | None) -> str:
    """The column of that type of feature, or the one given; '' where there are no labels."""
    found = [name for name, feature in features.items() if type(feature).__name__ == kind]
    option = f"data.{what}_column"
    if given is not None:
        kinds = (kind,) if what == "image" else (kind, "Value")
        if given not in features:
            raise UserError(f"{option} = {given!r} is no column of {data.name}: it has {', '.join(features)}")
        if type(features[given]).__name__ not in kinds:
            raise UserError(f"{option} = {given!r} of {data.name} holds {type(features[given]).__name__}, not {what}s")
        return given
    if len(found) > 1:
        raise UserError(f"{data.name} has several columns of {what}s, {', '.join(found)}: choose one by --{option}")
    if not found and what == "image":
        raise UserError(f"{data.name} has no column of images: it has {', '.join(features)}")
    return found[0] if found else ""


def _split_name(data: DataConfig, loaded: dict[str, Any], label: str, split: str) -> str | None:
    """The split's name there; one with labels before one without."""
    names = [name for name in SPLITS[split] if name in loaded]
    labelled = [name for name in names if label and _known(loaded[name], label)]
    return next(iter(labelled or names), None)


def _known(rows: Any, label: str) -> bool:
    return bool(len(rows)) and None not in _values(rows, label, 1)


def _values(rows: Any, label: str, count: int | None = None) -> list[Any]:
    """The labels of the first `count` rows (None: of all); hidden ones, null or −1 for a class label, are None."""
    hidden = (None, -1) if hasattr(rows.features[label], "names") else (None,)
    values = rows.data.column(label)[:count].to_pylist()
    return [None if value in hidden else value for value in values]


def _labels(
    data: DataConfig, loaded: dict[str, Any], label: str, chosen: str
) -> tuple[torch.Tensor | None, tuple[str, ...]]:
    """Labels of a split, and the names of the classes of all splits; none where some are hidden."""
    feature = loaded[chosen].features[label]
    values = _values(loaded[chosen], label)
    if None in values:
        return None, ()
    names = getattr(feature, "names", None)
    if names is None:
        present = sorted({value for rows in loaded.values() for value in _values(rows, label) if value is not None})
        number = {value: place for place, value in enumerate(present)}
        return torch.tensor([number[value] for value in values]), tuple(map(str, present))
    return torch.tensor(values, dtype=torch.int64), tuple(names)


def _fingerprint(rows: Any, labels: torch.Tensor | None) -> str:
    from pyarrow import compute

    digest = hashlib.blake2b(str(len(rows)).encode(), digest_size=8)
    stored = rows.data.column(0)
    for chunk in stored.chunks:
        sizes = compute.binary_length(compute.struct_field(chunk, "bytes")).fill_null(-1)
        digest.update(np.asarray(sizes, dtype=np.int64).tobytes())
        paths = compute.struct_field(chunk, "path").to_pylist()
        for path, size in zip(paths, sizes.to_pylist(), strict=True):
            packed = size >= 0 or path is None or not os.path.isfile(path)
            length = b"" if packed else str(os.path.getsize(path)).encode()
            digest.update(os.path.basename(path or "").encode() + b"\0" + length)
    if labels is not None:
        digest.update(labels.numpy().tobytes())
    return digest.hexdigest()
