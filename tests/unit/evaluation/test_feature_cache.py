"""Frozen features in chunks on disk: the same as without, never those of something else, shared and interrupted."""

from __future__ import annotations

import io
import os
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from patchmix.config import DataConfig, EvalRunConfig, KnnConfig
from patchmix.data.datasets import FolderSource, Subset
from patchmix.errors import RunError, UserError
from patchmix.evaluation.feature_cache import FeatureChunks, feature_key, whole_batches
from patchmix.evaluation.features import Features, extract
from patchmix.evaluation.knn import knn
from patchmix.evaluation.opening import open_evaluation
from patchmix.evaluation.pooling import PooledEncoder

BATCH = 8


def key_of(encoder, source, spec, **changes: Any) -> dict[str, Any]:
    options = {
        "chunk_size": 16,
        "batch_size": BATCH,
        "device": torch.device("cpu"),
        "precision": "32-true",
        "crop_ratio": None,
    }
    return feature_key(encoder, source, spec, **{**options, **changes})


def reader(encoder, spec, seen: list[int] | None = None) -> Callable[..., Features]:
    def read(part: Subset, where: str) -> Features:
        if seen is not None:
            seen.append(int(part.indices[0]))
        return extract(encoder, part, spec, batch_size=BATCH)

    return read


def assert_same(one: Features, two: Features) -> None:
    assert one.features.equal(two.features)
    assert one.indices.equal(two.indices)
    assert one.labels is not None
    assert one.labels.equal(two.labels)
    assert (one.skipped, one.num_unchanged) == (two.skipped, two.num_unchanged)


@pytest.mark.parametrize("unreadable", [(), (3, 17, 49), tuple(range(16, 32))], ids=["all", "some", "a whole chunk"])
def test_features_from_chunks_are_those_of_one_pass(tmp_path: Path, encoder, spec, make_striped, unreadable) -> None:
    source = make_striped(50, unreadable=unreadable)
    chunks = FeatureChunks(tmp_path, key_of(encoder, source, spec), source)
    chunks.open()
    chunks.fill(reader(encoder, spec))
    assert_same(chunks.joined(), extract(encoder, source, spec, batch_size=BATCH))


def test_a_second_pass_reads_no_image(tmp_path: Path, encoder, spec, make_striped) -> None:
    source, seen = make_striped(50), []
    for _ in range(2):
        chunks = FeatureChunks(tmp_path, key_of(encoder, source, spec), source)
        chunks.open()
        chunks.fill(reader(encoder, spec, seen))
    assert seen == [0, 16, 32, 48]
    assert sorted(source.reads) == list(range(50))


def test_interrupted_work_goes_on_after_the_last_whole_chunk(tmp_path: Path, encoder, spec, make_striped) -> None:
    source, seen = make_striped(50), []
    read = reader(encoder, spec, seen)

    def stopped(part: Subset, where: str) -> Features:
        if part.indices[0] == 32:
            raise KeyboardInterrupt
        return read(part, where)

    chunks = FeatureChunks(tmp_path, key_of(encoder, source, spec), source)
    chunks.open()
    with pytest.raises(KeyboardInterrupt):
        chunks.fill(stopped)
    chunks.fill(read)
    assert seen == [0, 16, 32, 48]
    assert_same(chunks.joined(), extract(encoder, source, spec, batch_size=BATCH))


def test_damaged_chunks_are_computed_again(tmp_path: Path, encoder, spec, make_striped) -> None:
    source, seen = make_striped(50), []
    chunks = FeatureChunks(tmp_path, key_of(encoder, source, spec), source)
    chunks.open()
    chunks.fill(reader(encoder, spec))
    files = sorted(tmp_path.glob("checkpoints/*.safetensors"))
    files[0].write_bytes(files[0].read_bytes()[:-10])
    bent = bytearray(files[2].read_bytes())
    bent[-1] ^= 255
    files[2].write_bytes(bytes(bent))
    chunks.fill(reader(encoder, spec, seen))
    assert seen == [0, 32]
    assert_same(chunks.joined(), extract(encoder, source, spec, batch_size=BATCH))


def test_a_file_that_has_changed_is_read_again(tmp_path: Path, encoder, spec, folder: Path) -> None:
    def opened() -> FolderSource:
        return FolderSource("folder", "train", folder / "train", channels=1, mean=(0.5,), std=(0.25,))

    source, seen = opened(), []
    chunks = FeatureChunks(tmp_path / "cache", key_of(encoder, source, spec), source)
    chunks.open()
    chunks.fill(reader(encoder, spec))
    changed = Path(source.path(20))
    os.utime(changed, ns=(1, 1))  # the same name and size
    assert key_of(encoder, opened(), spec) == chunks.key
    chunks.fill(reader(encoder, spec, seen))
    assert seen == [16]


def test_whatever_features_depend_on_has_its_own_key(encoder, spec, make_striped) -> None:
    source = make_striped(50)
    other = PooledEncoder(encoder, spec, layers=2, pool="token")
    keys = [
        key_of(encoder, source, spec),
        key_of(encoder, source, spec, precision="bf16-mixed"),
        key_of(encoder, source, spec, crop_ratio=1.0),
        key_of(encoder, source, spec, batch_size=16),
        key_of(encoder, make_striped(50, "test"), spec),
        key_of(other, source, spec),
        key_of(PooledEncoder(encoder, spec, layers=2, pool="mean"), source, spec),
    ]
    with torch.no_grad():
        next(encoder.parameters()).flatten()[0] += 1e-3
    keys.append(key_of(encoder, source, spec))
    assert all(one != two for i, one in enumerate(keys) for two in keys[:i])


def test_moving_an_encoder_between_modes_keeps_its_key(encoder, spec, make_striped) -> None:
    source = make_striped(50)
    before = key_of(encoder.train(), source, spec)
    extract(encoder, source, spec)
    assert key_of(encoder.eval(), source, spec) == before


def test_a_directory_of_other_features_is_refused(tmp_path: Path, encoder, spec, make_striped) -> None:
    source = make_striped(50)
    FeatureChunks(tmp_path, key_of(encoder, source, spec), source).open()
    with pytest.raises(UserError, match=r"holds features of other settings \(preparation differ\)"):
        FeatureChunks(tmp_path, key_of(encoder, source, spec, crop_ratio=0.5), source).open()


@pytest.mark.parametrize(("chunk", "batch", "whole"), [(16, 8, 16), (10, 8, 16), (1, 256, 256), (8, 8, 8)])
def test_chunks_are_whole_batches(chunk: int, batch: int, whole: int) -> None:
    assert whole_batches(chunk, batch) == whole


def test_two_at_once_do_not_spoil_each_other(tmp_path: Path, encoder, spec, make_striped) -> None:
    source = make_striped(50)
    key = key_of(encoder, source, spec)

    def work() -> None:
        chunks = FeatureChunks(tmp_path, key, source)
        chunks.open()
        chunks.fill(reader(encoder, spec))

    if pid := os.fork():
        work()
        assert os.waitpid(pid, 0)[1] == 0
    else:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    chunks = FeatureChunks(tmp_path, key, source)
    assert_same(chunks.joined(), extract(encoder, source, spec, batch_size=BATCH))
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_full_disk_is_one_line_and_keeps_what_is_whole(tmp_path: Path, encoder, spec, make_striped) -> None:
    source = make_striped(50)
    chunks = FeatureChunks(tmp_path, key_of(encoder, source, spec), source)
    chunks.open()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    read = reader(encoder, spec)

    def then_full(part: Subset, where: str) -> Features:
        if part.indices[0] == 32:
            resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        return read(part, where)

    try:
        with pytest.raises(RunError, match=r"cannot be written to .*; the 32 images before are kept: make room"):
            chunks.fill(then_full)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(list(tmp_path.glob("checkpoints/*"))) == 2


def test_a_cache_that_cannot_be_written_is_named(tmp_path: Path, encoder, spec, make_striped) -> None:
    (tmp_path / "file").touch()
    source = make_striped(8)
    with pytest.raises(UserError, match=r"cache: .*file/inside cannot be used \(Not a directory\)"):
        FeatureChunks(tmp_path / "file" / "inside", key_of(encoder, source, spec), source).open()


def test_knn_from_a_cache_is_knn(run: Path, folder: Path, tmp_path: Path) -> None:
    def measured(cache: str | None) -> dict[str, Any]:
        data = DataConfig(name="folder", root=str(folder), num_workers=0)
        machine = EvalRunConfig(device="cpu", num_threads=1, batch_size=16)
        config = KnnConfig(checkpoint=str(run), data=data, run=machine, cache=cache, output=str(tmp_path / "out"))
        return knn(config, Console(file=io.StringIO()))["metrics"]

    cache = tmp_path / "cache"
    plain, first = measured(None), measured(str(cache))
    written = {file: file.stat().st_mtime_ns for file in cache.rglob("*.safetensors")}
    assert len(list(cache.iterdir())) == 6  # encoder, untrained encoder and pixels, of both splits
    assert plain == first == measured(str(cache))
    assert written == {file: file.stat().st_mtime_ns for file in cache.rglob("*.safetensors")}


def test_too_many_unreadable_images_are_refused_from_the_cache_too(
    run: Path, folder: Path, tmp_path: Path, make_striped
) -> None:
    data = DataConfig(name="folder", root=str(folder), num_workers=0)
    config = KnnConfig(checkpoint=str(run), data=data, cache=str(tmp_path / "cache"))
    evaluation = open_evaluation("knn", config)
    source = make_striped(300, unreadable=range(60))
    for _ in range(2):
        with pytest.raises(UserError, match=r"60 of 300 train images .* cannot be read"):
            evaluation.features(evaluation.loaded.encoder, source, evaluation.spec, "encoder", Console())
