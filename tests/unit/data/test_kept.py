"""Decoded images are kept where all fit; what is seen stays the same."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch

from patchmix.config import Config, DataConfig, OptimConfig, RunConfig, ViewsConfig
from patchmix.data import kept
from patchmix.data.batches import Batch
from patchmix.data.images import UnreadableImage
from patchmix.data.loading import TrainingLoader, photometrics_on_device
from patchmix.data.sources import ArraySource, ImageSource
from patchmix.data.views import change_views


def settings(**run: object) -> Config:
    return Config(
        data=DataConfig(name="folder", root=".", image_size=16),
        views=ViewsConfig(num_local_crops=2, local_size=8),
        optim=OptimConfig(batch_size=8),
        run=RunConfig(device="cpu", **run),  # type: ignore[arg-type]
    )


def batches(source: ImageSource, config: Config, workers: int = 0) -> list[Batch]:
    return list(TrainingLoader(source, config, steps_done=0, total_steps=6, num_workers=workers))


def assert_same(one: list[Batch], other: list[Batch]) -> None:
    for left, right in zip(one, other, strict=True):
        assert torch.equal(left.indices, right.indices)
        assert left.skipped == right.skipped
        pairs = zip((*left.views, *left.local_views), (*right.views, *right.local_views), strict=True)
        assert all(torch.equal(*pair) for pair in pairs)


def remove(source: ImageSource) -> None:
    for index in range(len(source)):
        Path(source.path(index)).unlink()


def test_an_image_that_was_read_once_is_read_no_more(photos: ImageSource) -> None:
    keeping = kept.kept(photos)
    first = keeping.read(0)
    remove(photos)
    assert torch.equal(keeping.read(0), first)
    with pytest.raises(UnreadableImage):
        keeping.read(1)
    with pytest.raises(UnreadableImage):
        pickle.loads(pickle.dumps(keeping)).read(0)


def test_unreadable_images_are_tried_again(photos: ImageSource) -> None:
    keeping = kept.kept(photos)
    with pytest.raises(UnreadableImage):
        keeping.read(3)
    Path(photos.path(3)).write_bytes(Path(photos.path(5)).read_bytes())
    assert torch.equal(keeping.read(3), keeping.read(5))


def test_images_that_would_not_all_fit_are_not_kept(photos: ImageSource, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = photos.read(0).numel()
    monkeypatch.setattr(kept, "MOST_BYTES", numbers * len(photos))  # the later ones are larger
    keeping = kept.kept(photos)
    keeping.read(0)
    keeping.read(20 - 1)
    remove(photos)
    assert keeping.read(0).numel() == numbers
    with pytest.raises(UnreadableImage):
        keeping.read(20 - 1)


def test_images_in_memory_are_not_kept_twice() -> None:
    source = ArraySource("a", "train", torch.zeros(2, 3, 4, 4, dtype=torch.uint8), None, (), mean=(0.5,), std=(0.5,))
    assert kept.kept(source) is source


def test_keeping_images_changes_nothing(photos: ImageSource, monkeypatch: pytest.MonkeyPatch) -> None:
    keeping = batches(photos, settings())  # three epochs
    monkeypatch.setattr(kept, "MOST_BYTES", 0)
    assert_same(batches(photos, settings()), keeping)


@pytest.mark.parametrize("workers", [0, 2])
def test_photometrics_are_the_same_wherever_they_are_applied(photos: ImageSource, workers: int) -> None:
    whole = batches(photos, settings(photometrics="workers"), workers)
    assert all(batch.photometrics == () for batch in whole)
    apart = batches(photos, settings(photometrics="device"), workers)
    finished = []
    for batch in apart:
        assert len(batch.photometrics) == 4
        first, second, *local = change_views(
            (*batch.views, *batch.local_views), batch.photometrics, device=torch.device("cpu")
        )
        assert not torch.equal(first, batch.views[0])
        finished.append(Batch((first, second), tuple(local), batch.indices, batch.skipped))
    assert_same(finished, whole)


def test_the_device_changes_images_only_where_it_is_cuda_or_asked_to() -> None:
    assert photometrics_on_device(settings(photometrics="device"))
    assert not photometrics_on_device(settings(photometrics="workers"))
    assert not photometrics_on_device(settings())
    anywhere = Config(run=RunConfig(device="auto"))
    assert photometrics_on_device(anywhere) == torch.cuda.is_available()
