"""Annotation files of COCO's form: what is read, what is counted, what a user is told."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pycocotools import mask as reference
from pycocotools.coco import COCO
from tests.unit.transfer.coco_files import HEIGHT, SQUARE, WIDTH, annotation, content, put

from patchmix.errors import UserError
from patchmix.transfer.annotations import Annotations, check_segmentations, read_annotations, with_categories_of
from patchmix.transfer.masks import as_mask, mask_area

PYCOCOTOOLS_WARNS = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # NumPy 2's


def read(folder: Path, written: Any, **options: Any) -> Annotations:
    return read_annotations(*put(folder, written), name="train", **options)


def refused(folder: Path, written: Any, **options: Any) -> str:
    """The message of the UserError, one line."""
    with pytest.raises(UserError) as caught:
        read(folder, written, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 500
    return message


def test_a_file_is_read_with_gaps_in_ids_and_images_without_objects(tmp_path: Path) -> None:
    crowd = annotation(12, image=3, iscrowd=1, category_id=7, keypoints=[1, 2, 2], num_keypoints=1, score=0.5)
    found = read(tmp_path, content(annotation(11), crowd, info={"year": 2017}, licenses=[]))
    assert [category.name for category in found.categories] == ["cat", "dog"]
    assert found.ids == (3, 7)
    assert (found.label_of(3), found.label_of(7)) == (1, 2)
    assert [image.id for image in found.images] == [1, 2, 3]
    assert [len(image.objects) for image in found.images] == [1, 0, 1]
    first, last = found.images[0].objects[0], found.images[2].objects[0]
    assert (first.id, first.category, first.box, first.area) == (11, 3, (4.0, 6.0, 10.0, 10.0), 100.0)
    assert first.segmentation == SQUARE
    assert (first.is_crowd, last.is_crowd) == (False, True)
    assert found.dropped == {}
    assert found.describe() == "3 images, 2 objects of 2 categories, 1 images without objects"


@pytest.fixture(scope="module")
def coco_mini(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("coco")
    with zipfile.ZipFile(shared_data / "coco-mini.zip") as archive:
        archive.extractall(root, [name for name in archive.namelist() if "/val2017/" in name or "annotations" in name])
    return root / "coco-mini"


@PYCOCOTOOLS_WARNS
def test_real_annotations_are_those_of_pycocotools(coco_mini: Path) -> None:
    file = coco_mini / "annotations" / "instances_val2017.json"
    found = read_annotations(file, coco_mini / "val2017", name="val")
    theirs = COCO(str(file))
    assert found.ids == tuple(theirs.getCatIds())
    assert [image.id for image in found.images] == list(theirs.imgs)
    assert found.num_objects == len(theirs.anns) == 712
    assert found.dropped == {}
    for image in found.images:
        for each in image.objects[:3]:
            entry = theirs.anns[each.id]
            assert each.box == tuple(entry["bbox"])
            np.testing.assert_array_equal(
                as_mask(each.segmentation, image.height, image.width), theirs.annToMask(entry)
            )


@PYCOCOTOOLS_WARNS
def test_polygons_and_both_kinds_of_rle_give_the_masks_of_pycocotools(tmp_path: Path) -> None:
    polygons = [*SQUARE, [20.5, 3.2, 33.1, 5.0, 25.0, 21.7]]
    merged = reference.merge(reference.frPyObjects(polygons, HEIGHT, WIDTH))
    expected = reference.decode(merged)
    runs = np.flatnonzero(np.diff(expected.T.ravel(), prepend=0, append=0)).tolist()
    counts = np.diff([0, *runs, WIDTH * HEIGHT]).tolist()
    packed = {"size": [HEIGHT, WIDTH], "counts": merged["counts"].decode()}
    unpacked = {"size": [HEIGHT, WIDTH], "counts": counts}
    given = [annotation(k, segmentation=each, area=None) for k, each in enumerate((polygons, packed, unpacked), 1)]
    objects = read(tmp_path, content(*given)).images[0].objects
    assert len(objects) == 3
    for each in objects:
        np.testing.assert_array_equal(as_mask(each.segmentation, HEIGHT, WIDTH), expected)
        assert each.area == expected.sum() == mask_area(each.segmentation, HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("box", "kept", "reason"),
    [
        ([4, 6, 0, 10], None, "boxes without area"),
        ([4, 6, 10, -1], None, "boxes without area"),
        ([WIDTH, 0, 5, 5], None, "boxes outside their image"),
        ([-9, -9, 8, 8], None, "boxes outside their image"),
        ([-5, 20, 10, 30], (0.0, 20.0, 5.0, 10.0), "boxes clipped to their image"),
        ([30, 6, 10.5, 10], (30.0, 6.0, 10.5, 10.0), None),  # half a pixel is rounding: as COCO scores it
    ],
)
def test_boxes_that_do_not_fit_are_clipped_or_dropped_and_counted(
    tmp_path: Path, box: list[float], kept: tuple[float, ...] | None, reason: str | None
) -> None:
    found = read(tmp_path, content(annotation(1), annotation(2, image=2, bbox=box, segmentation=None)))
    assert [each.box for each in found.images[1].objects] == ([] if kept is None else [kept])
    assert found.dropped == ({} if reason is None else {reason: 1})


def test_polygons_with_too_few_points_are_dropped_and_objects_with_no_other(tmp_path: Path) -> None:
    line = [1, 1, 5, 5]
    found = read(tmp_path, content(annotation(1, segmentation=[line, *SQUARE]), annotation(2, segmentation=[line])))
    assert [each.segmentation for each in found.images[0].objects] == [SQUARE]
    assert found.dropped == {"polygons with fewer than 3 points": 2, "objects without a usable polygon": 1}
    assert "left out or changed: 2 polygons with fewer than 3 points, 1 objects" in found.describe()


def test_objects_of_unlisted_images_are_counted(tmp_path: Path) -> None:
    found = read(tmp_path, content(annotation(1), annotation(2, image=99)))
    assert found.num_objects == 1
    assert found.dropped == {"objects of images that the file does not list": 1}


def test_absent_images_are_skipped_up_to_the_limit(tmp_path: Path) -> None:
    file, images = put(tmp_path, content(annotation(1), annotation(2, image=2), annotation(3, image=2)))
    (images / "2.png").unlink()
    found = read_annotations(file, images, name="train", max_missing=0.34)
    assert [image.id for image in found.images] == [1, 3]
    assert found.dropped == {"images that are absent": 1, "objects of absent images": 2}
    with pytest.raises(UserError, match=r"1 of the 3 images that .*objects.json names are absent from .*\(2\.png\)"):
        read_annotations(file, images, name="train", max_missing=0.33)


def test_images_in_subfolders_are_found(tmp_path: Path) -> None:
    file, images = put(tmp_path, content(annotation(1)))
    (images / "deep").mkdir()
    (images / "1.png").rename(images / "deep" / "1.png")
    written = content(annotation(1))
    written["images"][0]["file_name"] = "deep/1.png"
    file.write_text(json.dumps(written))
    assert read_annotations(file, images, name="train", max_missing=0).images[0].path == images / "deep" / "1.png"


def test_sizes_and_areas_that_are_not_given_come_from_the_files(tmp_path: Path) -> None:
    written = content(annotation(1, area=None, segmentation=None), annotation(2, area=None))
    for image in written["images"]:
        del image["width"], image["height"]
    found = read(tmp_path, written)
    assert {(image.width, image.height) for image in found.images} == {(WIDTH, HEIGHT)}
    assert [each.area for each in found.images[0].objects] == [100.0, 100.0]


@pytest.mark.parametrize(
    "text", ["", '{"images": [', "\x00", "\ud800".encode("utf-16-le", "surrogatepass").hex() + "]"]
)
def test_broken_json_is_refused(tmp_path: Path, text: str) -> None:
    assert "is not whole JSON" in refused(tmp_path, text)


@pytest.mark.parametrize("data", [b"\xff\xd8\xff\xe0 a photograph", b"[" * 100_000, b"[" + b"9" * 5000 + b"]"])
def test_what_cannot_be_json_of_this_kind_is_refused(tmp_path: Path, data: bytes) -> None:
    file, images = put(tmp_path, "")
    file.write_bytes(data)
    with pytest.raises(UserError, match="is not a JSON file"):
        read_annotations(file, images, name="train")


def test_absent_files_and_folders_are_named(tmp_path: Path) -> None:
    file, images = put(tmp_path, content(annotation(1)))
    with pytest.raises(UserError, match=r"nowhere\.json does not exist"):
        read_annotations(tmp_path / "nowhere.json", images, name="train")
    with pytest.raises(UserError, match="cannot be read: Is a directory"):
        read_annotations(images, images, name="train")
    with pytest.raises(UserError, match="which is no folder"):
        read_annotations(file, tmp_path / "nowhere", name="train")


NOT_COCO: list[tuple[Any, str]] = [
    ([], "is a list, as COCO's results are"),
    ("3", "no list 'images'"),
    ({"images": [], "annotations": []}, "no list 'categories'"),
    (content(annotations={}), "no list 'annotations'"),
    (content(images=[3]), "no list 'images'"),
    (content(categories=[{"id": 3}]), "category 3 has no name"),
    (content(categories=[{"id": 3, "name": " "}]), "category 3 has name = ' '"),
    (content(categories=[{"name": "cat"}]), "category number 1 of the list has no id"),
    (content(categories=[{"id": 3, "name": "a"}, {"id": 3, "name": "b"}]), "category id 3 stands more than once"),
    (content(images=[{"id": 1, "width": 4, "height": 4}]), "image 1 has no file_name"),
    (content(images=[{"id": "1", "file_name": "1.png"}]), "image '1' has id = '1', where a whole number"),
    (content(images=[{"id": 1, "file_name": "1.png", "width": 0, "height": 4}]), "at least 1"),
    (content(images=2 * [{"id": 1, "file_name": "1.png"}]), "image id 1 stands more than once"),
    (content(annotation(5), annotation(5)), "annotation id 5 stands more than once"),
    (content(annotation(1, category_id=4)), "annotation 1 is of category 4, which the file does not list"),
    (content(annotation(1, category_id=None)), "annotation 1 has no category_id"),
    (content(annotation(1, bbox=None)), "annotation 1 has no bbox"),
    (content(annotation(1, bbox=[1, 2, 3])), "has bbox = [1, 2, 3], where four finite numbers"),
    (content(annotation(1, bbox=[1, 2, 3, float("nan")])), "four finite numbers"),
    (content(annotation(1, bbox=[1, 2, 3, "4"])), "four finite numbers"),
    (content(annotation(1, bbox=[1, 2, 3, 10**400])), "four finite numbers"),
    (content(annotation(1, area=-1)), "has area = -1"),
    (content(annotation(1, iscrowd=2)), "has iscrowd = 2"),
    (content(annotation(1, segmentation="x")), "neither a list of polygons nor an RLE"),
    (content(annotation(1, segmentation=[1, 2, 3, 4, 5, 6])), "neither a list of polygons nor an RLE"),
    (content(annotation(1, segmentation=[[1, 2, 3, 4, 5, 6, 7]])), "is not a list of finite numbers"),
    (content(annotation(1, segmentation=[[1, 2, 3, 4, 5, float("inf")]])), "is not a list of finite numbers"),
    (content(annotation(1, segmentation=[[1, 1, 9, 1, 1e12, 9]])), "reaches far beyond its image of 40 x 30"),
    (content(annotation(1, segmentation={"size": [WIDTH, HEIGHT], "counts": [1200]})), "RLE of size [40, 30]"),
    (content(annotation(1, segmentation={"size": [HEIGHT, WIDTH], "counts": [-1, 1201]})), "whole numbers nor a text"),
    (content(annotation(1, segmentation={"size": [HEIGHT, WIDTH], "counts": [7, 5]})), "has a damaged RLE"),
    (content(annotation(1, segmentation={"size": [HEIGHT, WIDTH], "counts": "zzz"})), "has a damaged RLE"),
    (content(annotation(1, segmentation={"size": [HEIGHT, WIDTH]})), "whole numbers nor a text"),
    (content(), "has no annotated image at all: 3 images, 0 annotations;"),
    (content(annotation(1, bbox=[1, 1, 0, 0])), "3 images, 1 annotations (1 boxes without area)"),
    (content(images=[]), "has no annotated image at all: 0 images"),
]


@pytest.mark.parametrize(("written", "message"), NOT_COCO, ids=[message for _, message in NOT_COCO])
def test_what_is_not_of_cocos_form_is_said_in_one_line(tmp_path: Path, written: Any, message: str) -> None:
    assert message in refused(tmp_path, written)


def test_categories_of_val_must_be_those_of_train(tmp_path: Path) -> None:
    train = read(tmp_path, content(annotation(1)))
    fewer = read(tmp_path, content(annotation(1, category_id=7), categories=[{"id": 7, "name": "dog"}]))
    assert with_categories_of(fewer, train).label_of(7) == train.label_of(7) == 2
    unknown = read(tmp_path, content(annotation(1), categories=[{"id": 3, "name": "cat"}, {"id": 9, "name": "owl"}]))
    with pytest.raises(UserError, match=r"category 9 \(owl\), unknown to those of train"):
        with_categories_of(unknown, train)
    renamed = read(tmp_path, content(annotation(1), categories=[{"id": 3, "name": "owl"}]))
    with pytest.raises(UserError, match="category 3 is 'owl' in the annotations of train, but 'cat'"):
        with_categories_of(renamed, train)


def test_masks_need_a_segmentation_of_every_object(tmp_path: Path) -> None:
    check_segmentations(read(tmp_path, content(annotation(1))))
    found = read(tmp_path, content(annotation(1), annotation(2, segmentation=[]), annotation(3, segmentation=[[]])))
    assert found.dropped == {}
    with pytest.raises(UserError, match=r"2 of 3 objects of train have no segmentation \(the first is annotation 2\)"):
        check_segmentations(found)
