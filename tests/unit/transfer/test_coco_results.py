"""Result files: written whole, read back the same, and refused with a reason."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from faster_coco_eval.core import mask as coco_masks
from tests.unit.transfer.coco_split import SIDE, guesses, small_split

from patchmix.errors import RunError, UserError
from patchmix.transfer.coco_results import (
    Found,
    Record,
    by_image,
    from_records,
    read_results,
    to_records,
    write_results,
    written_boxes,
)

ANNOTATIONS = small_split()
FIRST = ANNOTATIONS.images[0]


def found() -> Found:
    return guesses(FIRST, ANNOTATIONS, np.random.Generator(np.random.Philox(1)))


def record(**changes: Any) -> Record:
    return {"image_id": 5, "category_id": 7, "bbox": [1.0, 2.0, 3.0, 4.0], "score": 0.5, **changes}


def test_records_are_those_of_coco() -> None:
    one = Found(
        boxes=torch.tensor([[10.004, 20.006, 30.125, 60.0]]),
        scores=torch.tensor([0.9]),
        labels=torch.tensor([2]),
        masks=torch.zeros(1, SIDE, SIDE, dtype=torch.bool).index_fill(1, torch.tensor([3, 4]), True),
    )
    (made,) = json.loads(json.dumps(to_records(5, one, ANNOTATIONS)))
    segmentation = made.pop("segmentation")
    assert made == {"image_id": 5, "category_id": 7, "bbox": [10.0, 20.01, 20.12, 39.99], "score": 0.9}
    assert segmentation["size"] == [SIDE, SIDE]
    assert one.masks is not None
    np.testing.assert_array_equal(coco_masks.decode(segmentation), one.masks[0].numpy())


def test_boxes_are_written_to_hundredths_of_a_pixel_and_writing_them_again_changes_nothing() -> None:
    boxes = torch.rand(200, 4, generator=torch.Generator().manual_seed(0)) * 300
    boxes[:, 2:] += boxes[:, :2]
    written = written_boxes(boxes)
    assert written.dtype == torch.float64
    assert (written[:, :2] - boxes[:, :2]).abs().max() < 0.0051
    corners = torch.cat([written[:, :2], written[:, :2] + written[:, 2:]], dim=1)
    assert torch.equal(written_boxes(corners), written)


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    given = found()
    write_results(tmp_path / "deep" / "found.json", to_records(5, given, ANNOTATIONS))
    records = read_results(tmp_path / "deep" / "found.json", ANNOTATIONS)
    again = from_records(records, FIRST, ANNOTATIONS, masks=True)
    assert torch.equal(again.labels, given.labels)
    assert torch.equal(again.scores.float(), given.scores)
    assert again.masks is not None
    assert given.masks is not None
    assert torch.equal(again.masks, given.masks)
    assert (again.boxes - given.boxes).abs().max() < 0.011
    assert to_records(5, again, ANNOTATIONS) == records
    assert from_records(records, FIRST, ANNOTATIONS, masks=False).masks is None


def test_records_are_sorted_out_by_image_in_their_order() -> None:
    records = [record(score=0.1), record(image_id=2, score=0.2), record(score=0.3)]
    assert by_image(records) == {5: [records[0], records[2]], 2: [records[1]]}


def test_no_predictions_are_an_empty_list(tmp_path: Path) -> None:
    write_results(tmp_path / "found.json", [])
    assert read_results(tmp_path / "found.json", ANNOTATIONS) == []
    nothing = from_records([], FIRST, ANNOTATIONS, masks=True)
    assert nothing.boxes.shape == (0, 4)
    assert nothing.masks is not None
    assert nothing.masks.shape == (0, SIDE, SIDE)
    assert to_records(5, nothing, ANNOTATIONS) == []


def test_a_number_that_is_not_finite_leaves_the_old_file(tmp_path: Path) -> None:
    file = tmp_path / "found.json"
    write_results(file, [record()])
    before = file.read_bytes()
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_results(file, [record(), record(score=math.nan)])
    assert file.read_bytes() == before
    assert [each.name for each in tmp_path.iterdir()] == ["found.json"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match=r"cannot write .*found\.json"):
        write_results(tmp_path / "file" / "found.json", [record()])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", r"found\.json is no JSON"),
        ('{"annotations": []}', "holds no list"),
        ("[3]", "prediction 1 is no object"),
        ([record(), {"image_id": 5, "bbox": []}], r"prediction 2 lacks category_id, score"),
        ([record(image_id=77)], "prediction 1 is of image 77, which the annotations of val do not have"),
        ([record(image_id="5")], "is of image 5, which"),
        ([record(category_id=1)], "is of category 1, which the annotations of val do not have"),
        ([record(bbox=[1, 2, 3])], r"has the bbox \[1, 2, 3\]"),
        ([record(bbox=[1, 2, -3, 4])], r"has the bbox \[1, 2, -3, 4\]"),
        ([record(bbox=[1, 2, 3, None])], r"has the bbox"),
        ([record(score="high")], "has the score high"),
        ("[" + json.dumps(record(score=math.inf)) + "]", "has the score inf"),
        ([record(segmentation={"size": [4, 4], "counts": "4"})], f"no RLE of its image \\({SIDE} × {SIDE}\\)"),
        ([record(segmentation={"size": [SIDE, SIDE], "counts": [3, 4]})], "with counts as text"),
        ([record(segmentation={"size": [SIDE, SIDE], "counts": "7`0~~"})], "no RLE of its image"),
        ([record(segmentation={"size": [SIDE, SIDE], "counts": "é"})], "no RLE of its image"),
        ([record(segmentation=[[1, 2, 3, 4, 5, 6]])], "no RLE of its image"),
    ],
)
def test_a_file_that_is_no_result_of_this_split_is_refused(tmp_path: Path, content: object, message: str) -> None:
    file = tmp_path / "found.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(UserError, match=message) as caught:
        read_results(file, ANNOTATIONS)
    assert str(file) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_absent_file_and_one_that_is_no_text_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read predictions .*No such file"):
        read_results(tmp_path / "found.json", ANNOTATIONS)
    (tmp_path / "found.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UserError, match="is no JSON"):
        read_results(tmp_path / "found.json", ANNOTATIONS)


def test_boxes_alone_cannot_be_taken_for_masks() -> None:
    with pytest.raises(UserError, match="predictions of image 5 have boxes alone"):
        from_records([record()], FIRST, ANNOTATIONS, masks=True)
