"""Batches of labelled images: each image once an epoch, its own label, whatever the workers and the start."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from patchmix.data.augmentation import create_augment
from patchmix.data.images import UnreadableImage
from patchmix.data.labelled import LabelledBatch, LabelledLoader
from patchmix.data.loading import epoch_order
from patchmix.data.sources import ArraySource
from patchmix.evaluation.features import Input

SPEC = Input((8, 8), 1, (0.5,), (0.5,))


class Numbered(ArraySource):
    """Image i is i everywhere, of class i % 3; some cannot be read."""

    def __init__(self, number: int, unreadable: tuple[int, ...] = ()) -> None:
        values = torch.arange(number, dtype=torch.uint8)
        images = values[:, None, None, None].expand(-1, 1, 8, 8)
        super().__init__(
            "numbered", "train", images, torch.arange(number) % 3, ("a", "b", "c"), mean=(0.5,), std=(0.5,)
        )
        self.unreadable = unreadable

    def read(self, index: int) -> Tensor:
        if index in self.unreadable:
            raise UnreadableImage(self.path(index), "the file is cut off")
        return super().read(index)


def loader(number: int = 10, *, unreadable: tuple[int, ...] = (), kind: str = "none", **options: object):
    settings = {"seed": 3, "batch_size": 4, "epochs": 2, **options}
    return LabelledLoader(Numbered(number, unreadable), create_augment(kind, SPEC, 3), **settings)  # type: ignore[arg-type]


def same(first: list[LabelledBatch], second: list[LabelledBatch]) -> bool:
    return len(first) == len(second) and all(
        a.images.equal(b.images) and a.labels.equal(b.labels) and a.indices.equal(b.indices)
        for a, b in zip(first, second, strict=True)
    )


def test_an_epoch_has_every_image_once_with_its_own_label() -> None:
    batches = list(loader())
    assert [len(batch.images) for batch in batches] == [4, 4, 2] * 2
    for epoch in range(2):
        seen = torch.cat([batch.indices for batch in batches[3 * epoch : 3 * epoch + 3]])
        assert seen.tolist() == epoch_order(10, 3, epoch).tolist()
    for batch in batches:
        assert batch.images[:, 0, 0, 0].tolist() == batch.indices.tolist()
        assert batch.labels.tolist() == [index % 3 for index in batch.indices.tolist()]
        assert (batch.images.dtype, batch.labels.dtype) == (torch.uint8, torch.int64)


def test_drop_last_leaves_the_incomplete_batch_out() -> None:
    short = loader(drop_last=True)
    assert (short.steps_per_epoch, short.total_steps, len(short)) == (2, 4, 4)
    assert [len(batch.images) for batch in short] == [4] * 4


@pytest.mark.parametrize("drop_last", [False, True])
def test_a_batch_size_above_the_images_means_all_of_them(drop_last: bool) -> None:
    large = loader(batch_size=1000, drop_last=drop_last)
    assert (large.batch_size, large.total_steps) == (10, 2)
    assert [sorted(batch.indices.tolist()) for batch in large] == [list(range(10))] * 2


@pytest.mark.parametrize("kind", ["crop", "pad", "digits"])
def test_batches_depend_neither_on_workers_nor_on_the_start(kind: str) -> None:
    whole = list(loader(kind=kind))
    assert same(whole[4:], list(loader(kind=kind, steps_done=4)))
    assert same(whole, list(loader(kind=kind, num_workers=2)))


def test_an_unreadable_image_is_replaced_with_the_label_of_the_one_really_read() -> None:
    batches = list(loader(unreadable=(4, 5), epochs=1))
    skipped = [each.image_index for batch in batches for each in batch.skipped]
    assert sorted(skipped) == [4, 5, 5]  # 5 was tried in the place of 4, too
    indices = torch.cat([batch.indices for batch in batches])
    assert indices.tolist().count(6) == 3
    assert torch.cat([batch.labels for batch in batches]).tolist() == [index % 3 for index in indices.tolist()]
