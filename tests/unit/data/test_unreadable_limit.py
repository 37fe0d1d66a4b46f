"""Images that cannot be read are replaced, reported, counted, and in the end too many."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import pytest
import torch

from patchmix.config import Config, DataConfig, OptimConfig, RunConfig
from patchmix.data.datasets import ArraySource, ImageSource, UnreadableImage, open_dataset, read_or_next
from patchmix.data.loading import Batch, Skipped, TrainingLoader
from patchmix.data.unreadable import UnreadableLimit
from patchmix.errors import UserError
from patchmix.skipped import SkippedFiles


def batches(source: ImageSource, batch_size: int, workers: int = 0) -> list[Batch]:
    config = Config(
        data=DataConfig(image_size=12), optim=OptimConfig(batch_size=batch_size), run=RunConfig(device="cpu")
    )
    return list(TrainingLoader(source, config, steps_done=0, total_steps=1, num_workers=workers))


def array_source(count: int) -> ArraySource:
    images = torch.zeros(count, 1, 1, 1, dtype=torch.uint8)
    return ArraySource("digits", "train", images, None, (), mean=(0.5,), std=(0.5,))


def test_what_cannot_be_read_is_replaced_by_the_next_readable_image(photos: ImageSource) -> None:
    assert [read_or_next(photos, index)[1] for index in (2, 3, 4, 5, 20)] == [2, 5, 5, 5, 0]
    assert [Path(failure.path).name for failure in read_or_next(photos, 3)[2]] == ["03.jpg", "04.jpg"]
    (batch,) = batches(photos, 21)
    assert sorted(batch.indices.tolist()) == sorted([0, 0, 1, 2, *[5] * 3, *range(6, 20)])
    by_index = {skipped.image_index: skipped for skipped in batch.skipped}
    assert sorted(by_index) == [3, 4, 20]
    assert by_index[3] == Skipped(3, photos.path(3), "empty file")
    assert by_index[20].why == "not an image of a known kind"
    twins = (batch.indices == 5).nonzero()[:, 0].tolist()
    assert not torch.equal(batch.views[0][twins[0]], batch.views[0][twins[1]])


@pytest.mark.parametrize("workers", [0, 2])
def test_where_nothing_can_be_read_one_clear_line_says_so(tmp_path: Path, workers: int) -> None:
    for k in range(9):
        (tmp_path / f"{k}.png").write_text("no")
    source = open_dataset(DataConfig(name="folder", root=str(tmp_path)), "train")
    with pytest.raises(UserError) as error:
        batches(source, 8, workers)
    message = str(error.value)
    assert re.fullmatch(
        r"9 images of folder in a row cannot be read, the first being .*/\d\.png: not an image of a known kind", message
    )


def skipped_batch(indices: list[int], skipped: list[int]) -> Batch:
    empty = torch.empty(0)
    reasons = [Skipped(index, f"{index}.jpg", "empty file") for index in skipped]
    return Batch((empty, empty), (), torch.tensor(indices), reasons)


def test_the_limit_counts_each_image_once_and_only_after_200() -> None:
    limit = UnreadableLimit(array_source(1000), 0.1)
    assert [one.image_index for one in limit.add(skipped_batch(list(range(150)), list(range(900, 940))))] == [
        *range(900, 940)
    ]
    limit.check()  # 40 of 190
    assert limit.add(skipped_batch(list(range(150)), list(range(900, 940)))) == []
    limit.check()
    limit.add(skipped_batch(list(range(160)), []))
    with pytest.raises(
        UserError, match=r"40 of 200 images of digits cannot be read, more than data.max_unreadable = 0\.1"
    ):
        limit.check()
    limit.add(skipped_batch(list(range(360)), []))
    limit.check()  # 40 of 400 is not more than a tenth
    assert limit.num_unreadable == 40


def test_too_many_unreadable_files_are_listed_where_the_message_says(tmp_path) -> None:
    skipped = SkippedFiles(tmp_path, array_source(1000), 0.1)
    assert skipped.add(skipped_batch(list(range(200)), list(range(900, 940))))
    with pytest.raises(UserError, match=rf"40 of 240 .*: skipped\.tsv in {re.escape(str(tmp_path))} says which"):
        skipped.share()
    assert len(skipped.listed()) == 40


def test_going_on_does_not_lift_the_limit(tmp_path) -> None:
    batch = skipped_batch(list(range(200)), list(range(900, 940)))
    for _ in range(2):
        with pytest.raises(UserError, match="40 of 240"):
            SkippedFiles(tmp_path, array_source(1000), 0.1).note(batch)
    skipped = SkippedFiles(tmp_path, array_source(1000), 0.2)
    skipped.note(batch)
    assert len(skipped.listed()) == 40


def test_files_that_were_listed_before_are_not_new() -> None:
    limit = UnreadableLimit(array_source(10), 0.1, known=["3.jpg"])
    assert [one.image_index for one in limit.add(skipped_batch([1], [3, 4]))] == [4]
    assert limit.num_unreadable == 2


def test_unreadable_images_can_be_sent_between_processes() -> None:
    failure = pickle.loads(pickle.dumps(UnreadableImage("a.jpg", "empty file")))
    assert (failure.path, failure.why, str(failure)) == ("a.jpg", "empty file", "a.jpg: empty file")
