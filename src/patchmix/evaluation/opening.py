"""Opening an evaluation: the encoder and the labelled images of both splits, checked before any work."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import nn

from patchmix.config import DataConfig, EvalConfig, FrozenConfig
from patchmix.config.training import HUGGINGFACE, TORCHVISION
from patchmix.data.datasets import ImageSource, has_split, open_dataset
from patchmix.data.unreadable import MIN_TRIED, refuse_lost_classes
from patchmix.environment import resolve_device, resolve_precision, set_threads, usable_cores
from patchmix.errors import UserError
from patchmix.evaluation.feature_cache import CACHE_CHUNK, FeatureChunks, cache_directory, feature_key
from patchmix.evaluation.features import Features, InputSpec, extract
from patchmix.models.backbones import feature_width
from patchmix.models.loading import LoadedEncoder, resolve_encoder
from patchmix.models.spec import EncoderSpec

CLASS_FOLDERS = "train/<class>/... and test/<class>/... (or val/<class>/...)"


@dataclass(frozen=True)
class OpenedEncoder:
    """A frozen encoder, which images it takes, and the machine it runs on."""

    config: EvalConfig
    loaded: LoadedEncoder
    spec: EncoderSpec
    device: torch.device
    precision: str
    num_threads: int

    @property
    def data(self) -> DataConfig:
        """The data options; `data.channels` null means the encoder's."""
        return dataclasses.replace(self.config.data, channels=self.config.data.channels or _channels(self.spec))

    def features(
        self, encoder: nn.Module, source: ImageSource, spec: InputSpec, title: str, console: Console
    ) -> Features:
        """Features by the settings of this evaluation, read from `cache` where that has them.

        Raises UserError where more than `data.max_unreadable` of the images cannot be read.
        """
        cache = self.config.cache if isinstance(self.config, FrozenConfig) else None
        if cache is None:
            found = self.extract(encoder, source, spec, title, console)
        else:
            key = self.key(encoder, source, spec, CACHE_CHUNK)
            chunks = FeatureChunks(cache_directory(Path(cache), key), key, source)
            chunks.open()
            chunks.fill(lambda part, where: self.extract(encoder, part, spec, f"{title}, {where}", console))
            found = chunks.joined()
        self.check_readable(source, found.skipped)
        return found

    def key(self, encoder: nn.Module, source: ImageSource, spec: InputSpec, chunk_size: int) -> dict[str, Any]:
        """What features by these settings are a function of."""
        return feature_key(
            encoder,
            source,
            spec,
            chunk_size=chunk_size,
            batch_size=self.config.run.batch_size,
            device=self.device,
            precision=self.precision,
            crop_ratio=self.config.crop_ratio,
        )

    def extract(
        self, encoder: nn.Module, source: ImageSource, spec: InputSpec, title: str, console: Console
    ) -> Features:
        """Features by these settings, computed now. Raises UserError where memory is short or they are not finite."""
        try:
            found = extract(
                encoder,
                source,
                spec,
                batch_size=self.config.run.batch_size,
                device=self.device,
                precision=self.precision,
                crop_ratio=self.config.crop_ratio,
                num_workers=num_workers(self.config.data, source, self.device),
                console=console,
                title=f"{title}, {source.split}",
            )
        except torch.OutOfMemoryError:
            size = self.config.run.batch_size
            raise UserError(f"the device has too little memory for run.batch_size = {size}: lower it") from None
        if not bool(torch.isfinite(found.features).all()):
            raise UserError(
                f"the features of {title.partition(',')[0]} are not finite: its training has diverged (take an earlier "
                "checkpoint), or the precision is too low for it (try --run.precision 32-true)"
            )
        return found

    def check_readable(self, source: ImageSource, skipped: Sequence[tuple[int, str, str]]) -> None:
        """UserError where more than `data.max_unreadable` of a source's images cannot be read."""
        bad, limit = len(skipped), self.config.data.max_unreadable
        if len(source) >= MIN_TRIED and bad > limit * len(source):
            _, path, why = skipped[0]
            raise UserError(
                f"{bad} of {len(source)} {source.split} images of {source.name} cannot be read, more than "
                f"data.max_unreadable = {limit}; the first: {path}: {why}"
            )


@dataclass(frozen=True)
class Evaluation(OpenedEncoder):
    """A frozen encoder, and the labelled training and test images that it is measured on."""

    train: ImageSource
    test: ImageSource

    def features(
        self, encoder: nn.Module, source: ImageSource, spec: InputSpec, title: str, console: Console
    ) -> Features:
        """As of any encoder; UserError too where not one training image of a class can be read."""
        found = super().features(encoder, source, spec, title, console)
        if source is self.train and source.labels is not None and found.labels is not None:
            refuse_lost_classes(source, sorted(set(source.labels.tolist()) - set(found.labels.tolist())))
        return found

    @property
    def summary(self) -> str:
        """What is measured on what, for a table's title."""
        return self.summary_of(len(self.test))

    def summary_of(self, num_measured: int) -> str:
        """`summary` where so many of the test images could be read."""
        of = "" if num_measured == len(self.test) else f"{num_measured:,} of "
        images = f"{len(self.train):,} training and {of}{len(self.test):,} test images"
        if self.leaves_one_out:
            images = f"{len(self.train):,} images, each beside all the others"
        return (
            f"{self.config.checkpoint} on {self.train.name}: {images}, {len(self.train.classes)} classes, "
            "± 95 % interval"
        )

    @property
    def leaves_one_out(self) -> bool:
        """Whether the training images are the test images, each beside all the others."""
        return self.test is self.train


def open_evaluation(
    command: str, config: EvalConfig, *, leave_one_out: bool = False, loaded: LoadedEncoder | None = None
) -> Evaluation:
    """Load the encoder and open both splits, or raise a UserError that says what is missing.

    With `leave_one_out` the training images are the test images as well. `loaded` takes the checkpoint's place.
    """
    opened = open_encoder(config, loaded)
    train, test = open_labelled(command, opened.data, leave_one_out=leave_one_out)
    return Evaluation(**vars(opened), train=train, test=test)


def open_encoder(config: EvalConfig, loaded: LoadedEncoder | None = None) -> OpenedEncoder:
    """Load the encoder, or raise a UserError. `data.mean` and `data.std`, where given, replace the encoder's."""
    device = resolve_device(config.run.device)
    threads = set_threads(config.run.num_threads)
    loaded = loaded or resolve_encoder(config.checkpoint, num_heads=config.num_heads)
    spec = loaded.spec
    if config.data.image_size is not None:
        spec = resized(loaded, config.data.image_size)
    mean, std = config.data.mean, config.data.std
    if mean is not None and std is not None:
        if not len(mean) == len(std) == spec.channels:
            raise UserError(
                f"data.mean and data.std have {len(mean)} and {len(std)} values, but the encoder takes "
                f"{spec.channels} channels"
            )
        spec = dataclasses.replace(spec, mean=mean, std=std)
    return OpenedEncoder(config, loaded, spec, device, resolve_precision(config.run.precision, device), threads)


def resized(loaded: LoadedEncoder, size: int) -> EncoderSpec:
    """The encoder's spec for images of another size; UserError where the encoder does not take it."""
    spec = loaded.spec
    if spec.image_size == (size, size):
        return spec
    only, hint = (
        f"data.image_size = {size}: {loaded.description} takes images of {spec.image_size[0]} × {spec.image_size[1]} "
        "px only",
        "leave data.image_size out, images are resized to that",
    )
    if spec.patch_size is None:
        try:
            feature_width(loaded.encoder, spec.channels, (size, size))
        except ValueError as error:
            raise UserError(f"{only} ({error}); {hint}") from None
    elif not getattr(loaded.encoder, "dynamic_img_size", False):
        raise UserError(f"{only}; {hint}")
    elif size % spec.patch_size:
        raise UserError(f"data.image_size = {size} is no multiple of the encoder's patch, {spec.patch_size} px")
    return dataclasses.replace(spec, image_size=(size, size))


def open_labelled(command: str, data: DataConfig, *, leave_one_out: bool = False) -> tuple[ImageSource, ImageSource]:
    """The training and the test images, both with labels of the same two or more classes; else a UserError.

    With `leave_one_out` both are the training images.
    """
    where = f"{data.name} {data.root}" if data.root else data.name
    train = open_dataset(data, "train")
    if not leave_one_out and not has_split(data, "test"):
        other = "; --leave_one_out classifies training images by the others" if command == "knn" else ""
        needed = f": {command} needs {CLASS_FOLDERS} below data.root"
        if _is_package_set(data):
            needed = f", which {command} needs"
        raise UserError(f"{where} has no test images{needed}{other}")
    test = train if leave_one_out else open_dataset(data, "test")
    folders = CLASS_FOLDERS.partition(" and")[0] if leave_one_out else CLASS_FOLDERS
    mend = f"{command} needs {folders} below data.root, one folder for each of two or more classes"
    if _is_package_set(data):
        mend = "name the column that has them by --data.label_column, or take a set that has labels"
    for source in (train, test):
        if source.labels is None or not source.classes:
            raise UserError(f"the {source.split} images of {where} have no labels: {mend}")
    in_train, in_test = _classes_with_images(train), _classes_with_images(test)
    if in_train != in_test:
        sides = (("train", in_train - in_test), ("test", in_test - in_train))
        named = "; ".join(f"only in {split}: {_listed(sorted(only))}" for split, only in sides if only)
        limited = " or raise data.limit" if data.limit is not None else ""
        raise UserError(f"the classes of {where} differ, {named}: give both splits the same classes{limited}")
    if train.classes != test.classes:
        raise UserError(f"the classes of {where} are numbered differently in train and test")
    if len(in_train) < 2:
        raise UserError(f"{where} has one class only, {_listed(sorted(in_train))}: {command} needs two or more")
    return train, test


def _is_package_set(data: DataConfig) -> bool:
    """Whether torchvision or Hugging Face says what its splits and labels are, rather than folders."""
    return data.name.startswith((HUGGINGFACE, TORCHVISION))


def num_workers(data: DataConfig, source: ImageSource, device: torch.device) -> int:
    """Processes that read and resize images: as configured, else by cores; none for data in memory."""
    if data.num_workers is not None:
        return data.num_workers
    if source.in_memory:
        return 0
    cores = usable_cores()
    # On the CPU the encoder needs the cores itself.
    return max(1, cores // 4) if device.type == "cpu" else max(1, min(cores - 1, 16))


def _channels(spec: EncoderSpec) -> Any:
    return spec.channels if spec.channels in (1, 3) else None


def _classes_with_images(source: ImageSource) -> set[str]:
    """Names of the classes that have images in this split (a folder's `classes` are those of both splits)."""
    assert source.labels is not None
    return {source.classes[label] for label in set(source.labels.tolist())}


def _listed(names: list[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
