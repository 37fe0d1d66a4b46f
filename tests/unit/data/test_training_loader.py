"""Batches do not depend on workers, ranks or where a run was interrupted; what cannot be read is replaced."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from patchmix.config import Config, DataConfig, OptimConfig, RunConfig, ViewsConfig
from patchmix.data import loading
from patchmix.data.datasets import ArraySource, ImageSource
from patchmix.data.loading import (
    Batch,
    TrainingLoader,
    choose_num_workers,
    epoch_order,
    normalise,
)
from patchmix.errors import UserError

DIGITS = ViewsConfig(kind="digits", global_scale=(0.8, 1.25))
PHOTO = ViewsConfig(num_local_crops=2, local_size=8)


def config(views: ViewsConfig = DIGITS, *, batch_size: int = 8, seed: int = 3, **data: object) -> Config:
    return Config(
        seed=seed,
        data=DataConfig(name="folder", root=".", **data),  # type: ignore[arg-type]
        views=views,
        optim=OptimConfig(batch_size=batch_size),
        run=RunConfig(device="cpu"),
    )


def array_source(count: int = 30, channels: int = 1) -> ArraySource:
    images = torch.randint(0, 256, (count, channels, 14, 14), dtype=torch.uint8, generator=torch.Generator())
    numbers = torch.arange(count) % 3
    return ArraySource("digits", "train", images, numbers, ("a", "b", "c"), mean=(0.5,), std=(0.5,))


def batches(
    source: ImageSource, config: Config, first: int = 0, last: int = 8, rank: int = 0, of: int = 1, workers: int = 0
) -> list[Batch]:
    loader = TrainingLoader(
        source,
        config,
        steps_done=first,
        total_steps=last,
        rank=rank,
        world_size=of,
        num_workers=workers,
    )
    result = list(loader)
    assert len(result) == len(loader) == last - first
    return result


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert torch.equal(left.indices, right.indices)
        assert left.skipped == right.skipped
        views, others = left.views + left.local_views, right.views + right.local_views
        assert all(torch.equal(a, b) for a, b in zip(views, others, strict=True))


@pytest.mark.parametrize("views", [DIGITS, PHOTO], ids=["digits", "photo"])
def test_workers_change_nothing(views: ViewsConfig, photos: ImageSource) -> None:
    settings = config(views, image_size=16)
    alone = batches(photos, settings)
    for workers in (1, 4):
        assert_same(batches(photos, settings, workers=workers), alone)
    assert [tuple(view.shape) for view in alone[0].views] == [(8, 3, 16, 16)] * 2
    assert len(alone[0].local_views) == views.num_local_crops


@pytest.mark.parametrize("views", [DIGITS, PHOTO], ids=["digits", "photo"])
@pytest.mark.parametrize("workers", [0, 2])
def test_any_start_gives_the_same_batches(views: ViewsConfig, workers: int) -> None:
    source, settings = array_source(), config(views)
    whole = batches(source, settings)
    for first in (1, 3, 5, 8):  # in the middle, at the end and beyond the end of an epoch of 3 steps
        assert_same(batches(source, settings, first, workers=workers), whole[first:])


@pytest.mark.parametrize("views", [DIGITS, PHOTO], ids=["digits", "photo"])
def test_slices_of_ranks_make_the_batch_of_one(views: ViewsConfig, photos: ImageSource) -> None:
    settings = config(views, image_size=12)
    whole = batches(photos, settings)
    for step, (low, high) in enumerate(
        zip(batches(photos, settings, rank=0, of=2), batches(photos, settings, rank=1, of=2), strict=True)
    ):
        assert torch.equal(torch.cat([low.indices, high.indices]), whole[step].indices)
        assert low.skipped + high.skipped == whole[step].skipped
        for view in range(2):
            assert torch.equal(torch.cat([low.views[view], high.views[view]]), whole[step].views[view])


@pytest.mark.parametrize("views", [DIGITS, PHOTO], ids=["digits", "photo"])
def test_images_that_are_large_together_are_let_go_in_between_and_nothing_changes(
    views: ViewsConfig, photos: ImageSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = batches(photos, config(views, image_size=16))
    for pixels in (0, 2000):
        monkeypatch.setattr(loading, "MOST_PIXELS", pixels)
        assert_same(batches(photos, config(views, image_size=16)), alone)


def test_threads_change_nothing() -> None:
    images = torch.randint(0, 256, (4, 3, 300, 300), dtype=torch.uint8, generator=torch.Generator())
    source = ArraySource("big", "train", images, None, (), mean=(0.5,) * 3, std=(0.5,) * 3)
    settings = config(ViewsConfig(), batch_size=4, image_size=256)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        with_four = batches(source, settings, last=2)
        assert torch.get_num_threads() == 4
        torch.set_num_threads(1)
        assert_same(with_four, batches(source, settings, last=2))
    finally:
        torch.set_num_threads(before)


def test_every_epoch_takes_every_image_once_in_a_new_order_and_drops_the_rest() -> None:
    source, settings = array_source(30), config(batch_size=8)
    loader = TrainingLoader(source, settings, steps_done=0, total_steps=6)
    assert loader.steps_per_epoch == 3
    indices = [batch.indices for batch in loader]
    first, second = torch.cat(indices[:3]).tolist(), torch.cat(indices[3:]).tolist()
    assert len(set(first)) == len(set(second)) == 24
    assert first != second
    assert first == epoch_order(30, 3, 0)[:24].tolist()
    assert second == epoch_order(30, 3, 1)[:24].tolist()


def test_another_seed_gives_another_order_and_other_views() -> None:
    source = array_source(8)
    one, other = batches(source, config(seed=1), last=1)[0], batches(source, config(seed=2), last=1)[0]
    assert one.indices.tolist() != other.indices.tolist()
    back, forth = one.indices.argsort(), other.indices.argsort()
    assert not torch.equal(one.views[0][back], other.views[0][forth])


@pytest.mark.parametrize("workers", [0, 1])
def test_global_random_numbers_are_neither_used_nor_changed(workers: int) -> None:
    source, settings = array_source(), config(PHOTO)
    torch.manual_seed(0)
    expected = batches(source, settings, last=2, workers=workers)
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002  # the point is the global generator
    before = (torch.get_rng_state(), np.random.get_state()[1])  # noqa: NPY002
    assert_same(batches(source, settings, last=2, workers=workers), expected)
    assert torch.equal(before[0], torch.get_rng_state())
    np.testing.assert_array_equal(before[1], np.random.get_state()[1])  # noqa: NPY002


@pytest.mark.parametrize(
    ("count", "batch_size", "of", "message"),
    [
        (30, 64, 1, "optim.batch_size = 64 is more than the 30 training images of digits: lower it to 30 or less"),
        (30, 64, 4, "lower it to 28 or less"),
        (3, 8, 4, "use at most 3 processes"),
        (1, 2, 1, "digits has 1 image: pre-training compares images and needs at least two"),
    ],
)
def test_too_few_images_are_a_clear_error(count: int, batch_size: int, of: int, message: str) -> None:
    with pytest.raises(UserError) as error:
        batches(array_source(count), config(batch_size=batch_size), of=of)
    assert message in str(error.value)


def test_two_images_smaller_than_a_patch_are_enlarged() -> None:
    images = torch.randint(0, 256, (2, 3, 1, 2), dtype=torch.uint8, generator=torch.Generator())
    source = ArraySource("tiny", "train", images, None, (), mean=(0.5,) * 3, std=(0.5,) * 3)
    batch = batches(source, config(ViewsConfig(), batch_size=2, image_size=16), last=1)[0]
    assert batch.views[0].shape == (2, 3, 16, 16)


def children() -> set[int]:
    path = Path(f"/proc/self/task/{os.getpid()}/children")
    return {int(one) for one in path.read_text().split()}


@pytest.mark.skipif(not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="needs /proc")
def test_workers_outlive_interrupts_live_over_epochs_and_end_with_the_loop() -> None:
    before = children()
    loader = TrainingLoader(array_source(), config(), steps_done=0, total_steps=60, num_workers=2)
    iterator: Iterator[Batch] = iter(loader)
    seen = [next(iterator)]
    workers = children() - before
    assert len(workers) == 2
    for worker in workers:
        for name in ("-INT", "-TERM"):  # by another process, as a terminal or a batch system does
            subprocess.run(["kill", name, str(worker)], check=True)
    seen += [next(iterator) for _ in range(30)]
    assert children() - before == workers
    assert_same(seen, batches(array_source(), config(), last=31))
    del iterator
    deadline = time.monotonic() + 20
    while children() - before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert children() == before


@pytest.mark.skipif(not Path(f"/proc/self/task/{os.getpid()}/children").exists(), reason="needs /proc")
def test_workers_end_when_the_main_process_ends_them() -> None:
    before = children()
    iterator = iter(TrainingLoader(array_source(), config(), steps_done=0, total_steps=60, num_workers=1))
    next(iterator)
    (worker,) = multiprocessing.active_children()
    worker.terminate()
    worker.join(timeout=20)
    assert worker.exitcode == 0
    del iterator
    assert children() == before


def test_a_killed_worker_is_named_as_such() -> None:
    # In a process of its own: torch raises from a signal handler, wherever the main process happens to be.
    script = """
import multiprocessing, os, signal, torch
from patchmix.config import Config, OptimConfig, RunConfig, ViewsConfig
from patchmix.data import loading
from patchmix.data.datasets import ArraySource
from patchmix.data.loading import TrainingLoader
from patchmix.errors import RunError
images = torch.zeros(30, 1, 14, 14, dtype=torch.uint8)
source = ArraySource("digits", "train", images, None, (), mean=(0.5,), std=(0.5,))
config = Config(views=ViewsConfig(kind="digits"), optim=OptimConfig(batch_size=8), run=RunConfig(device="cpu"))
batches = iter(TrainingLoader(source, config, steps_done=0, total_steps=100_000, num_workers=1))
next(batches)
os.kill(multiprocessing.active_children()[0].pid, signal.SIGKILL)
try:
    for _ in batches:
        pass
except RunError as error:
    print(error)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert "a process that reads images died" in result.stdout, result.stderr
    assert "lower data.num_workers (1 now" in result.stdout


def test_the_default_number_of_workers_follows_the_work(photos: ImageSource) -> None:
    cores = len(os.sched_getaffinity(0))
    assert choose_num_workers(array_source(), config(DIGITS)) == 0
    assert choose_num_workers(array_source(), config(PHOTO)) == max(1, min(4, cores - 1))
    assert choose_num_workers(array_source(), config(PHOTO, image_size=64)) == max(1, min(16, cores - 1))
    assert choose_num_workers(photos, config(DIGITS)) == max(1, min(16, cores - 1))
    assert choose_num_workers(photos, config(PHOTO, num_workers=0)) == 0
    many = dataclasses.replace(config(PHOTO), run=RunConfig(num_devices=4))
    assert 1 <= choose_num_workers(photos, many) <= max(1, cores // 4)


def test_normalised_images_have_the_statistics_taken_out() -> None:
    images = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1).expand(3, 2, 4, 4)
    result = normalise(images, (0.2, 0.5), (0.5, 0.25))
    assert result.dtype == torch.float32
    torch.testing.assert_close(result[:, 0, 0, 0], torch.tensor([-0.4, 0.0, 1.6]))
    torch.testing.assert_close(result[:, 1, 0, 0], torch.tensor([-2.0, -1.2, 2.0]))
    assert normalise(images, (0.2, 0.5), (0.5, 0.25), torch.bfloat16).dtype == torch.bfloat16
    assert images[2, 0, 0, 0] == 255
