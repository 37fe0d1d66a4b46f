"""Checkpoints: one safetensors file each, written atomically, verified when read.

`checkpoints/step-00001234.safetensors` holds the model's tensors under their own names and the
optimiser's under `optimizer.`; its metadata holds one JSON object: format, versions, step, epoch,
config, encoder (EncoderSpec), data, checksum. Nothing is ever unpickled. DIFFERS: the reference pickles
whole models (decision 0003).
"""

from __future__ import annotations

import dataclasses
import errno
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from patchmix.errors import RunError, UserError
from patchmix.files import replacing

FORMAT = 1
_NAME = re.compile(r"step-(\d{8})\.safetensors")
OPTIMIZER_PREFIX = "optimizer."


class DamagedCheckpoint(Exception):
    """A file that is not a whole checkpoint of ours; the message says why."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint, read and verified. Tensors lie on the CPU."""

    path: Path
    step: int
    metadata: dict[str, Any]
    tensors: dict[str, Tensor]

    def model_tensors(self) -> dict[str, Tensor]:
        """The model's state dict."""
        return {name: value for name, value in self.tensors.items() if not name.startswith(OPTIMIZER_PREFIX)}

    def optimizer_tensors(self) -> dict[str, Tensor]:
        """The optimiser's tensors, as `optim.optimizer_tensors` names them."""
        return below(self.tensors, OPTIMIZER_PREFIX)


def below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin so, named without it."""
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def checksum(tensors: dict[str, Tensor], metadata: dict[str, Any]) -> str:
    """SHA-256 over the metadata and every tensor's name, type, shape and bytes."""
    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def checkpoint_path(run_directory: Path, step: int) -> Path:
    """Where the checkpoint after `step` steps lies."""
    return run_directory / "checkpoints" / f"step-{step:08d}.safetensors"


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
    """Write beside the final name, flush to the disk, rename: the file is whole or it is not there.

    Raises:
        RunError: disk full, or the directory cannot be written. Older checkpoints are untouched.
    """
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    metadata = {**metadata, "format": FORMAT}
    metadata["checksum"] = checksum(tensors, metadata)
    try:
        with replacing(path) as temporary:
            save_file(tensors, temporary, {"patchmix": json.dumps(metadata, sort_keys=True)})
    except (OSError, SafetensorError) as error:
        full = "No space left" in str(error) or getattr(error, "errno", None) == errno.ENOSPC
        why = "the disk is full" if full else str(error)
        raise RunError(
            f"cannot write checkpoint {path}: {why}; what was saved before is whole: make room, then --resume"
        ) from error


def read_metadata(path: Path) -> dict[str, Any]:
    """The metadata alone, without reading tensors.

    Raises:
        DamagedCheckpoint: not a safetensors file, or none of ours.
        OSError: the file cannot be read; that says nothing about what is in it.
        UserError: written by a patchmix with another format.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, ValueError) as error:
        raise DamagedCheckpoint(f"not a whole safetensors file ({error})") from None
    try:
        metadata: dict[str, Any] = json.loads(header["patchmix"])
    except KeyError:
        raise DamagedCheckpoint("a safetensors file, but not one of patchmix") from None
    except json.JSONDecodeError as error:
        raise DamagedCheckpoint(f"its metadata cannot be read ({error})") from None
    if metadata.get("format") != FORMAT:
        # Not damaged: to pass it over would throw away what a newer patchmix has done.
        raise UserError(f"{path} has format {metadata.get('format')}; this patchmix reads format {FORMAT}")
    return metadata


def read(path: Path) -> Checkpoint:
    """A checkpoint, its checksum verified.

    Raises:
        DamagedCheckpoint: says what is wrong with the file.
        OSError, UserError: as `read_metadata`.
    """
    metadata = read_metadata(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise DamagedCheckpoint(f"its tensors cannot be read ({error})") from None
    expected = metadata.pop("checksum", None)
    if checksum(tensors, metadata) != expected:
        raise DamagedCheckpoint("its checksum does not fit: the file was damaged after it was written")
    return Checkpoint(path, int(metadata["step"]), metadata, tensors)


def list_checkpoints(run_directory: Path) -> list[Path]:
    """All of a run's checkpoint files, newest first."""
    directory = run_directory / "checkpoints"
    if not directory.is_dir():
        return []
    return sorted((path for path in directory.iterdir() if _NAME.fullmatch(path.name)), reverse=True)


def newest_whole(run_directory: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and one line for every newer one that is not."""
    damaged: list[str] = []
    for path in list_checkpoints(run_directory):
        try:
            return read(path), damaged
        except DamagedCheckpoint as error:
            damaged.append(f"{path} is passed over: {error}")
    return None, damaged


def prune(run_directory: Path, keep: int) -> None:
    """Delete all but the newest `keep` checkpoints."""
    for path in list_checkpoints(run_directory)[keep:]:
        path.unlink(missing_ok=True)


def remove_leftovers(run_directory: Path) -> None:
    """Delete what interrupted writes and trials left behind."""
    for path in (run_directory / "checkpoints").glob(".*"):
        path.unlink(missing_ok=True)


def set_aside(run_directory: Path, step: int) -> None:
    """Rename damaged checkpoints newer than `step` to *.damaged: they must not count among those that are kept."""
    for path in list_checkpoints(run_directory):
        if path > checkpoint_path(run_directory, step):
            path.rename(path.with_name(path.name + ".damaged"))


def trial(run_directory: Path, tensors: dict[str, Tensor]) -> None:
    """Write and read back a checkpoint of the real size, before the first step, and remove it.

    Raises:
        RunError: it cannot be written, or does not come back as it was.
    """
    path = run_directory / "checkpoints" / ".trial.safetensors"
    try:
        write(path, tensors, {"step": 0})
        read(path)
    except DamagedCheckpoint as error:
        raise RunError(f"a trial checkpoint in {path.parent} did not come back as written: {error}") from None
    finally:
        path.unlink(missing_ok=True)


def refuse_other_encoder(metadata: dict[str, Any], path: Path) -> dict[str, Any]:
    """The encoder's description in a checkpoint.

    Raises:
        UserError: there is none, so its tensors cannot be told from those of another architecture.
    """
    encoder = metadata.get("encoder")
    if not isinstance(encoder, dict):
        raise UserError(f"{path} does not say which encoder it holds")
    return encoder
