"""Opening an evaluation: the encoder and the labelled images of both splits, checked before any work."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import nn

from patchmix.config import DataConfig, EvalConfig, to_dict
from patchmix.data.datasets import ImageSource, has_split, open_dataset
from patchmix.data.unreadable import MIN_TRIED
from patchmix.environment import resolve_device, resolve_precision, set_threads, usable_cores
from patchmix.errors import UserError
from patchmix.evaluation.features import Features, InputSpec, describe_preparation, extract
from patchmix.models.backbones import feature_width
from patchmix.models.loading import LoadedEncoder, resolve_encoder
from patchmix.models.spec import EncoderSpec
from patchmix.progress import say

CLASS_FOLDERS = "train/<class>/... and test/<class>/... (or val/<class>/...)"


@dataclass(frozen=True)
class Evaluation:
    """A frozen encoder, the training and test images, and the machine they meet on."""

    config: EvalConfig
    loaded: LoadedEncoder
    spec: EncoderSpec
    train: ImageSource
    test: ImageSource
    device: torch.device
    precision: str
    num_threads: int

    @property
    def summary(self) -> str:
        """What is measured on what, for a table's title."""
        return (
            f"{self.config.checkpoint} on {self.train.name}: {len(self.train):,} training and "
            f"{len(self.test):,} test images, {len(self.train.classes)} classes, ± 95 % interval"
        )

    def features(
        self, encoder: nn.Module, source: ImageSource, spec: InputSpec, title: str, console: Console
    ) -> Features:
        """Features by the settings of this evaluation; says which images could not be read.

        Raises UserError where more than `data.max_unreadable` of them cannot.
        """
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
        bad, limit = len(found.skipped), self.config.data.max_unreadable
        if len(source) >= MIN_TRIED and bad > limit * len(source):
            _, path, why = found.skipped[0]
            raise UserError(
                f"{bad} of {len(source)} {source.split} images of {source.name} cannot be read, more than "
                f"data.max_unreadable = {limit}; the first: {path}: {why}"
            )
        if not bool(torch.isfinite(found.features).all()):
            raise UserError(
                f"the features of {title} are not finite: its training has diverged (take an earlier checkpoint), or "
                "the precision is too low for it (try --run.precision 32-true)"
            )
        return found


def open_evaluation(command: str, config: EvalConfig) -> Evaluation:
    """Load the encoder and open both splits, or raise a UserError that says what is missing.

    `data.channels` null means the encoder's; `data.mean` and `data.std`, where given, replace the encoder's.
    """
    device = resolve_device(config.run.device)
    threads = set_threads(config.run.num_threads)
    loaded = resolve_encoder(config.checkpoint, num_heads=config.num_heads)
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
    data = dataclasses.replace(config.data, channels=config.data.channels or _channels(spec))
    train, test = open_labelled(command, data)
    return Evaluation(
        config, loaded, spec, train, test, device, resolve_precision(config.run.precision, device), threads
    )


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


def open_labelled(command: str, data: DataConfig) -> tuple[ImageSource, ImageSource]:
    """The training and the test images, both with labels of the same two or more classes."""
    where = f"{data.name} {data.root}" if data.root else data.name
    train = open_dataset(data, "train")
    if not has_split(data, "test"):
        raise UserError(f"{where} has no test images: {command} needs {CLASS_FOLDERS} below data.root")
    test = open_dataset(data, "test")
    for source in (train, test):
        if source.labels is None or not source.classes:
            raise UserError(
                f"the {source.split} images of {where} have no labels: {command} needs {CLASS_FOLDERS} below "
                "data.root, one folder for each class"
            )
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


def num_workers(data: DataConfig, source: ImageSource, device: torch.device) -> int:
    """Processes that read and resize images: as configured, else by cores; none for data in memory."""
    if data.num_workers is not None:
        return data.num_workers
    if source.in_memory:
        return 0
    cores = usable_cores()
    # On the CPU the encoder needs the cores itself.
    return max(1, cores // 4) if device.type == "cpu" else max(1, min(cores - 1, 16))


def describe_data(evaluation: Evaluation) -> dict[str, Any]:
    """The `data` entry of a result."""
    data, train, test = evaluation.config.data, evaluation.train, evaluation.test
    return {
        "name": data.name,
        "root": data.root,
        "limit": data.limit,
        "num_train": len(train),
        "num_test": len(test),
        "num_classes": len(train.classes),
        "classes": list(train.classes),
        "fingerprint": {"train": train.fingerprint, "test": test.fingerprint},
    }


def describe_settings(evaluation: Evaluation) -> dict[str, Any]:
    """The `settings` entry of a result: every option, and what null and auto came to."""
    return {
        **to_dict(evaluation.config),
        "encoder": evaluation.spec.to_dict(),
        "loaded": evaluation.loaded.description,
        "features": "before any head, momentum encoder where there is one",
        "preparation": describe_preparation(evaluation.spec, evaluation.config.crop_ratio),
        "used": {
            "device": str(evaluation.device),
            "precision": evaluation.precision,
            "num_threads": evaluation.num_threads,
        },
    }


def describe_skipped(train: Features, test: Features, console: Console) -> dict[str, list[list[Any]]]:
    """The `skipped` entry of a result, [[path, why], ...] for each split, said on the console as well."""
    entry = {}
    for split, found in (("train", train), ("test", test)):
        entry[split] = [[path, why] for _, path, why in found.skipped]
        if found.skipped:
            _, path, why = found.skipped[0]
            bad = len(found.skipped)
            total = f"{bad + len(found.indices):,} {'training' if split == 'train' else split} images"
            left_out = "is left out" if bad == 1 else "are left out, all named in the result; the first"
            say(console, f"{bad:,} of {total} cannot be read and {left_out}: {path}: {why}")
    return entry


def _channels(spec: EncoderSpec) -> Any:
    return spec.channels if spec.channels in (1, 3) else None


def _classes_with_images(source: ImageSource) -> set[str]:
    """Names of the classes that have images in this split (a folder's `classes` are those of both splits)."""
    assert source.labels is not None
    return {source.classes[label] for label in set(source.labels.tolist())}


def _listed(names: list[str], most: int = 5) -> str:
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
