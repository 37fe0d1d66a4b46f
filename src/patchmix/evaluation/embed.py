"""`patchmix embed`: features of any images in one file, whatever their number, and interrupted at any moment."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from rich.console import Console

from patchmix.config import EmbedConfig
from patchmix.data.datasets import ImageSource, has_split, open_dataset
from patchmix.data.unreadable import tsv_field
from patchmix.errors import RunError, UserError
from patchmix.evaluation.description import describe_settings
from patchmix.evaluation.embedding_files import Part, Parts, pyarrow, write_npz, write_parquet
from patchmix.evaluation.feature_cache import FeatureChunks
from patchmix.evaluation.features import Features, nothing_readable
from patchmix.evaluation.opening import OpenedEncoder, open_encoder
from patchmix.evaluation.pooling import PooledEncoder
from patchmix.evaluation.results import result_path, write_result
from patchmix.files import replacing
from patchmix.progress import counted, say
from patchmix.run_directory import claim_directory

CHUNKS_FOLDER = "embeddings-unfinished"


@dataclass(frozen=True)
class _Found:
    """What the chunks hold, counted once."""

    number: int
    width: int
    longest: int
    skipped: list[tuple[int, str, str]]


def embed(config: EmbedConfig, console: Console | None = None) -> Path:
    """Write the features of all readable images of a split to embeddings.npz or .parquet; returns its path.

    Labels and test images are not needed. The file is written beside `results/embed.json`: under `output`, else in
    the run, else here. Features are kept in chunks until the file is whole, so that `resume` goes on after the last
    one; memory holds one chunk, and names and reasons of unreadable images. Raises UserError and RunError.
    """
    console = console or Console()
    started = time.perf_counter()
    opened = open_encoder(config)
    encoder = PooledEncoder(opened.loaded.encoder, opened.spec, config.layers, config.pool).to(opened.device)
    if config.format == "parquet":
        pyarrow()
    source = _open_images(opened, config)
    about = result_path("embed", opened.loaded.run_directory, config.output)
    path = about.parent.parent / f"embeddings.{config.format}"
    folder = path.parent / CHUNKS_FOLDER
    _refuse_other_work(config, path, folder)
    key = opened.key(encoder, source, opened.spec, config.chunk_size)
    chunks = FeatureChunks(folder, key, source)
    with claim_directory(folder):
        for leftover in path.parent.glob(f".{path.name}.*.tmp"):  # of a process that was killed while it wrote
            leftover.unlink()
        if config.overwrite:
            chunks.remove()
        chunks.open("output")
        _fill(chunks, opened, encoder, console)
        found = _count(chunks, source, config)
        opened.check_readable(source, found.skipped)
        if not found.number:
            raise nothing_readable(source, found.skipped)
        _write(config, path, chunks, found)
        write_result(
            about,
            command="embed",
            checkpoint=config.checkpoint,
            data={
                "name": config.data.name,
                "root": config.data.root,
                "limit": config.data.limit,
                "split": config.split,
                "num_images": len(source),
                "classes": list(source.classes),
                "fingerprint": {config.split: source.fingerprint},
            },
            metrics={"num_images": found.number, "width": found.width},
            intervals={},
            skipped={config.split: [[tsv_field(name), why] for _, name, why in found.skipped]},
            settings={**describe_settings(opened), "file": path.name},
            seconds=time.perf_counter() - started,
            console=console,
        )
        (folder / ".lock").unlink()
        chunks.remove()
    _say_written(console, path, source, found)
    return path


def _open_images(opened: OpenedEncoder, config: EmbedConfig) -> ImageSource:
    data = opened.data
    if config.split == "test" and not has_split(data, "test"):
        where = f"{data.name} {data.root}" if data.root else data.name
        raise UserError(f"{where} has no test images (a folder test or val beside train): leave --split out")
    return open_dataset(data, config.split)


def _refuse_other_work(config: EmbedConfig, path: Path, folder: Path) -> None:
    """UserError where there is something to lose, or nothing to go on with."""
    begun = folder.is_dir() and any(folder.glob("checkpoints/*.safetensors"))
    if config.overwrite:
        return
    if config.resume and not begun:
        what = f"{path} is finished; --overwrite replaces it" if path.exists() else "leave --resume out to begin"
        raise UserError(f"nothing to resume: {folder} holds no features; {what}")
    if begun and not config.resume:
        raise UserError(
            f"{folder} holds the features of an interrupted embed: add --resume to go on with it, --overwrite to begin "
            "anew, or name another --output"
        )
    if path.exists() and not config.resume:
        raise UserError(f"{path} is there already: add --overwrite to replace it, or name another --output")


def _fill(chunks: FeatureChunks, opened: OpenedEncoder, encoder: PooledEncoder, console: Console) -> None:
    total = counted(len(chunks.source), "image")
    computed = False

    def read(part: ImageSource, where: str) -> Features:
        nonlocal computed
        if chunks.num_ready and not computed:
            say(console, f"{chunks.num_ready:,} of {total} were done before.")
        computed = True
        return opened.extract(encoder, part, opened.spec, f"features, {where}", console)

    try:
        chunks.fill(read)
    except KeyboardInterrupt:
        say(console, f"{chunks.num_ready:,} of {total} are done and kept: go on with the same command and --resume.")
        raise


def _count(chunks: FeatureChunks, source: ImageSource, config: EmbedConfig) -> _Found:
    number = width = longest = 0
    skipped: list[tuple[int, str, str]] = []
    for chunk in chunks.chunks():
        number += len(chunk.features)
        width = max(width, chunk.features.shape[1])
        longest = max((longest, *(len(_name(source, index, config)) for index in chunk.indices.tolist())))
        skipped += chunk.skipped
    return _Found(number, width, longest, skipped)


def _write(config: EmbedConfig, path: Path, chunks: FeatureChunks, found: _Found) -> None:
    source = chunks.source

    def read() -> Iterator[Part]:
        for chunk in chunks.chunks():
            if not len(chunk.features):
                continue
            features = F.normalize(chunk.features, dim=1) if config.normalize else chunk.features
            indices = chunk.indices
            labels = np.full(len(indices), -1) if source.labels is None else source.labels[indices].numpy()
            yield Part(features.numpy(), [_name(source, index, config) for index in indices.tolist()], labels)

    parts = Parts(read, found.number, found.width, found.longest, source.classes)
    try:
        with replacing(path) as temporary:
            (write_npz if config.format == "npz" else write_parquet)(temporary, parts)
    except OSError as error:
        raise RunError(
            f"cannot write {path}: {error.strerror or error}; the features are kept in {chunks.directory}: make room, "
            "then add --resume"
        ) from error


def _name(source: ImageSource, index: int, config: EmbedConfig) -> str:
    """An image's path, relative to data.root where it lies below that."""
    path = source.path(index)
    if config.data.root is None:
        return path
    return path.removeprefix(os.path.join(Path(config.data.root).expanduser(), ""))


def _say_written(console: Console, path: Path, source: ImageSource, found: _Found) -> None:
    if found.skipped:
        _, name, why = found.skipped[0]
        left_out = counted(len(found.skipped), "image")
        say(console, f"{left_out} cannot be read, named in results/embed.json; the first: {name}: {why}")
    say(
        console,
        f"{counted(found.number, 'image')} of {source.name} {source.split}, {found.width} numbers each, written to "
        f"{path} ({path.stat().st_size / 1e6:,.1f} MB)",
    )
