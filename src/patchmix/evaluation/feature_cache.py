"""Frozen features in chunks on disk: each chunk whole or not there, so that interrupted work goes on after the last.

DIR/key.json                             what the features are a function of
DIR/checkpoints/step-START.safetensors   one chunk, numbered by its first image, verified like a checkpoint
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from patchmix import checkpoint
from patchmix.data.sources import ImageSource, Subset
from patchmix.errors import RunError, UserError
from patchmix.evaluation.features import Features, InputSpec, NothingReadableError, nothing_readable
from patchmix.files import write_text

KEY_FILE = "key.json"
CACHE_CHUNK = 8192  # images, about: a multiple of the batch size
_PLAIN = (bool, int, float, str)


def feature_key(
    encoder: nn.Module,
    source: ImageSource,
    spec: InputSpec,
    *,
    chunk_size: int,
    batch_size: int,
    device: torch.device,
    precision: str,
    crop_ratio: float | None,
) -> dict[str, Any]:
    """What features are a function of, to the last bit; plain values that JSON gives back equal.

    A folder is known by names and sizes, not by contents; each chunk has the times of its files besides.
    """
    structure = json.dumps(_structure(encoder), sort_keys=True)
    key = {
        "weights": checkpoint.checksum(dict(encoder.state_dict()), {}),
        "network": hashlib.sha256(structure.encode()).hexdigest(),
        "images": {
            "data": source.name,
            "split": source.split,
            "number": len(source),
            "channels": source.channels,
            "fingerprint": source.fingerprint,
            "place": "" if source.in_memory else os.path.abspath(source.path(0)),
        },
        "preparation": {
            "image_size": list(spec.image_size),
            "channels": spec.channels,
            "mean": list(spec.mean),
            "std": list(spec.std),
            "crop_ratio": crop_ratio,
        },
        "batch_size": batch_size,  # other shapes are computed by other kernels, with other last bits
        "device": device.type,
        "precision": precision,
        "torch": torch.__version__,
        "chunk_size": whole_batches(chunk_size, batch_size),
    }
    plain: dict[str, Any] = json.loads(json.dumps(key))
    return plain


def whole_batches(chunk_size: int, batch_size: int) -> int:
    """The chunk size, or the next multiple of the batch size: then every batch is that of an undivided pass."""
    return -(-chunk_size // batch_size) * batch_size


def cache_directory(cache: Path, key: dict[str, Any]) -> Path:
    """The folder of these features in a cache."""
    return cache / hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:24]


class FeatureChunks:
    """Features of a source, chunk by chunk in a directory.

    Several processes may fill the same directory: they write the same bytes, each file whole.
    """

    def __init__(self, directory: Path, key: dict[str, Any], source: ImageSource) -> None:
        self.directory, self.key, self.source = directory, key, source
        self.chunk_size: int = key["chunk_size"]
        self.num_ready = 0

    def open(self, option: str = "cache") -> None:
        """Claim the directory: make it, or compare its key.

        Raises:
            UserError: it holds features of something else, or cannot be written; names the option.
        """
        file = self.directory / KEY_FILE
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            there = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        except OSError as error:
            raise UserError(
                f"{option}: {self.directory} cannot be used ({error.strerror}); name another folder"
            ) from None
        except ValueError:
            there = {}
        if there is None:
            try:
                write_text(file, json.dumps(self.key, indent=2) + "\n")
            except RunError as error:
                raise UserError(f"{option}: {error}; make room, or name another folder") from None
        elif there != self.key:
            names = [name for name in self.key if not isinstance(there, dict) or there.get(name) != self.key[name]]
            raise UserError(
                f"{self.directory} holds features of other settings ({', '.join(names)} differ): delete it, or name "
                f"another {option}"
            )

    def starts(self) -> range:
        """The first image of every chunk."""
        return range(0, len(self.source), self.chunk_size)

    def fill(self, read: Callable[[ImageSource, str], Features]) -> None:
        """Compute the chunks that are not there by `read`: features of a part, given words for which part it is.

        `num_ready` counts the images as they are found or computed.

        Raises:
            RunError: a chunk cannot be written; those before it are kept.
        """
        for start in self.starts():
            stop = min(start + self.chunk_size, len(self.source))
            stamp = self._stamp(start, stop)
            if self._whole(start, stamp) is not None:
                self.num_ready = stop
                continue
            part = Subset(self.source, np.arange(start, stop))
            try:
                found = read(part, f"{start + 1:,} to {stop:,} of {len(self.source):,}")
            except NothingReadableError as error:  # in this chunk
                found = Features(torch.empty(0, 0), None, torch.empty(0, dtype=torch.int64), error.skipped, 0)
            self._write(start, found, stamp)
            self.num_ready = stop

    def chunks(self) -> Iterator[Features]:
        """Every chunk, as an undivided pass would give it: indices are the source's.

        Raises:
            RunError: a chunk has gone, or was damaged, since `fill`.
        """
        for start in self.starts():
            found = self._whole(start, None)
            if found is None:
                raise RunError(f"{self._path(start)} has gone or was damaged meanwhile: start the command again")
            yield found

    def joined(self) -> Features:
        """All features in memory, as `extract` gives them. Raises NothingReadableError where there are none."""
        features: Tensor | None = None
        indices: list[Tensor] = []
        skipped: list[tuple[int, str, str]] = []
        used = unchanged = 0
        for chunk in self.chunks():
            if len(chunk.features):  # of a chunk without readable images the width is unknown
                if features is None:
                    features = torch.empty(len(self.source), chunk.features.shape[1])
                features[used : used + len(chunk.features)] = chunk.features
            used += len(chunk.features)
            indices.append(chunk.indices)
            skipped += chunk.skipped
            unchanged += chunk.num_unchanged
        if features is None:
            raise nothing_readable(self.source, skipped)
        taken = torch.cat(indices)
        labels = None if self.source.labels is None else self.source.labels[taken].long()
        return Features(features[:used], labels, taken, skipped, unchanged)

    def remove(self) -> None:
        """Delete the chunks, and the directory if nothing else lies in it."""
        checkpoint.remove_leftovers(self.directory)
        for file in (*self.directory.glob("checkpoints/*.safetensors"), self.directory / KEY_FILE):
            file.unlink(missing_ok=True)
        for folder in (self.directory / "checkpoints", self.directory):
            if folder.is_dir() and not any(folder.iterdir()):
                folder.rmdir()

    def _path(self, start: int) -> Path:
        return checkpoint.checkpoint_path(self.directory, start)

    def _write(self, start: int, found: Features, stamp: str) -> None:
        about = {
            "step": start,
            "stamp": stamp,
            "skipped": [[start + index, path, why] for index, path, why in found.skipped],
            "num_unchanged": found.num_unchanged,
        }
        tensors = {"features": found.features, "indices": start + found.indices}
        try:
            checkpoint.write(self._path(start), tensors, about)
        except RunError as error:
            why = getattr(error.__cause__, "strerror", None) or str(error.__cause__ or error)
            kept = f"; the {start:,} images before are kept" if start else ""
            raise RunError(
                f"features cannot be written to {self.directory}: "
                f"{'the disk is full' if 'No space left' in why else why}{kept}: make room, then start again (embed: "
                "with --resume)"
            ) from error

    def _whole(self, start: int, stamp: str | None) -> Features | None:
        """A chunk that is there, undamaged and of the files as they are; `stamp` None takes any."""
        path = self._path(start)
        if not path.exists():
            return None
        try:
            found = checkpoint.read(path)
        except (checkpoint.DamagedCheckpoint, OSError):
            return None
        if stamp is not None and found.metadata.get("stamp") != stamp:
            return None
        skipped = [(int(index), str(path), str(why)) for index, path, why in found.metadata["skipped"]]
        indices = found.tensors["indices"]
        return Features(found.tensors["features"], None, indices, skipped, int(found.metadata["num_unchanged"]))

    def _stamp(self, start: int, stop: int) -> str:
        """A digest of the sizes and times of the files, '' where images are no files."""
        if self.source.in_memory:
            return ""
        digest = hashlib.blake2b(digest_size=8)
        for index in range(start, stop):
            try:
                status = os.stat(self.source.path(index))
                digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
            except OSError:
                digest.update(b"-\n")
        return digest.hexdigest()


def _structure(encoder: nn.Module) -> dict[str, Any]:
    """What the weights do not say: every module's class and plain attributes, such as the number of heads."""
    return {
        name: [
            type(module).__qualname__,
            {key: value for key, value in vars(module).items() if key != "training" and isinstance(value, _PLAIN)},
        ]
        for name, module in encoder.named_modules()
    }
