"""Items, training batches and scoring batches of annotated images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from tests.unit.transfer.coco_files import HEIGHT, WIDTH, annotation, content, put

from patchmix.config.detection import DetectConfig, DetectDataConfig
from patchmix.data.unreadable import UnreadableLimit
from patchmix.errors import UserError
from patchmix.transfer.annotations import read_annotations
from patchmix.transfer.detection_data import (
    DetectionBatch,
    DetectionImages,
    open_splits,
    scoring_loader,
    training_loader,
)
from patchmix.transfer.photos import PhotoSource, limited


def opened(folder: Path, *annotations: dict[str, Any], masks: bool = True) -> DetectionImages:
    file, images = put(folder, content(*annotations))
    return DetectionImages(PhotoSource(read_annotations(file, images, name="train")), masks=masks)


@pytest.fixture
def images(tmp_path: Path) -> DetectionImages:
    """Two objects in the first image, none in the second, a crowd region in the third."""
    return opened(
        tmp_path,
        annotation(1),
        annotation(2, category_id=7, bbox=[20, 2, 8, 9], segmentation=[[20, 2, 28, 2, 28, 11, 20, 11]]),
        annotation(3, image=3, iscrowd=1),
    )


def same(first: list[DetectionBatch], second: list[DetectionBatch]) -> bool:
    """Whether two lists of batches are equal in everything."""
    if len(first) != len(second):
        return False
    for one, other in zip(first, second, strict=True):
        if not torch.equal(one.indices, other.indices) or len(one.images) != len(other.images):
            return False
        for image, another in zip(one.images, other.images, strict=True):
            if image.shape != another.shape or not torch.equal(image, another):
                return False
        for target, another in zip(one.targets, other.targets, strict=True):
            if target.keys() != another.keys():
                return False
            for key, value in target.items():
                if not (torch.equal(value, another[key]) if isinstance(value, torch.Tensor) else value == another[key]):
                    return False
    return True


def test_an_item_is_the_image_and_its_objects_as_they_are(images: DetectionImages) -> None:
    image, target = images[0]
    assert image.shape == (3, HEIGHT, WIDTH)
    assert image.dtype == torch.uint8
    assert target["boxes"].tolist() == [[4, 6, 14, 16], [20, 2, 28, 11]]
    assert target["labels"].tolist() == [1, 2]
    assert target["masks"].sum(dim=(1, 2)).tolist() == [100, 72]
    assert target["image_id"] == 1
    assert images[1][1]["boxes"].shape == (0, 4)
    assert images[1][1]["masks"].shape == (0, HEIGHT, WIDTH)
    assert images[2][1]["iscrowd"].tolist() == [1]
    assert len(images) == images.num_objects == 3


def test_grey_and_transparent_images_become_rgb(tmp_path: Path) -> None:
    images = opened(tmp_path, annotation(1))
    Image.new("L", (WIDTH, HEIGHT), 90).save(tmp_path / "images" / "1.png")
    Image.new("RGBA", (WIDTH, HEIGHT), (9, 9, 9, 0)).save(tmp_path / "images" / "2.png")
    assert images[0][0].unique().tolist() == [90]
    assert images[0][0].shape == (3, HEIGHT, WIDTH)
    assert images[1][0].unique().tolist() == [255]


def test_an_image_of_another_size_than_annotated_is_refused(tmp_path: Path) -> None:
    images = opened(tmp_path, annotation(1))
    Image.new("RGB", (HEIGHT, WIDTH)).save(tmp_path / "images" / "1.png")
    with pytest.raises(UserError, match=r"1\.png has 30 x 40 pixels, but the annotations of train are for 40 x 30"):
        images[0]
    with pytest.raises(UserError, match="30 x 40 pixels"):
        list(training_loader(images, seed=0, image_size=32, batch_size=3, epochs=1, num_workers=1))


def test_objects_without_masks_are_taken_for_boxes_alone(tmp_path: Path) -> None:
    images = opened(tmp_path, annotation(1, segmentation=None), masks=False)
    assert "masks" not in images[0][1]
    with pytest.raises(UserError, match="no segmentation"):
        DetectionImages(images.source, masks=True)


def test_training_batches_have_targets_without_crowds(images: DetectionImages) -> None:
    batches = list(training_loader(images, seed=0, image_size=64, batch_size=2, epochs=4, num_workers=0))
    assert [len(batch.images) for batch in batches] == [2, 1] * 4
    for epoch in range(4):
        seen = torch.cat([batch.indices for batch in batches[2 * epoch : 2 * epoch + 2]])
        assert sorted(seen.tolist()) == [0, 1, 2]
    for batch in batches:
        for image, target, index in zip(batch.images, batch.targets, batch.indices.tolist(), strict=True):
            assert max(image.shape[1:]) <= 64
            assert target["image_id"] == index + 1
            assert target["masks"].shape == (len(target["boxes"]), *image.shape[1:])
            assert index == 0 or not len(target["boxes"])
            assert not target["iscrowd"].any()
    of_first = [
        image.shape
        for batch in batches
        for image, index in zip(batch.images, batch.indices.tolist(), strict=True)
        if index == 0
    ]
    assert len(set(of_first)) > 1  # each epoch has its own jitter
    assert sum(len(target["boxes"]) for batch in batches for target in batch.targets) >= 4


def test_batches_depend_neither_on_workers_nor_on_where_they_begin(images: DetectionImages) -> None:
    options: dict[str, Any] = {"image_size": 48, "batch_size": 2, "epochs": 3}
    whole = list(training_loader(images, seed=5, num_workers=0, **options))
    assert same(whole, list(training_loader(images, seed=5, num_workers=2, **options)))
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global one must not matter
    assert same(whole[3:], list(training_loader(images, seed=5, num_workers=0, steps_done=3, **options)))
    assert not same(whole, list(training_loader(images, seed=6, num_workers=0, **options)))
    assert not same(whole[:2], whole[2:4])


def test_an_unreadable_image_is_replaced_with_the_objects_of_the_next(tmp_path: Path) -> None:
    images = opened(tmp_path, annotation(1, image=2))
    (tmp_path / "images" / "1.png").write_bytes(b"no image")
    limit = UnreadableLimit(images.source, 0.5)
    for batch in training_loader(images, seed=0, image_size=32, batch_size=3, epochs=2, jitter=(1, 1), num_workers=0):
        limit.add(batch)
        assert [(each.image_index, each.why) for each in batch.skipped] == [(0, "not an image of a known kind")]
        assert sorted(batch.indices.tolist()) == [1, 1, 2]
        for target in batch.targets:
            assert len(target["boxes"]) == (1 if target["image_id"] == 2 else 0)
    assert limit.num_unreadable == 1


def test_scoring_has_every_readable_image_once_in_order_and_as_it_is(images: DetectionImages, tmp_path: Path) -> None:
    (tmp_path / "images" / "2.png").write_bytes(b"")
    for num_workers in (0, 1):
        batches = list(scoring_loader(images, batch_size=2, num_workers=num_workers))
        assert [batch.image_ids for batch in batches] == [[1], [3]]
        assert [each.why for batch in batches for each in batch.skipped] == ["empty file"]
        assert torch.equal(batches[1].images[0], images[2][0])


def test_no_readable_image_at_all_is_said(tmp_path: Path) -> None:
    images = opened(tmp_path, annotation(1))
    for path in (tmp_path / "images").iterdir():
        path.write_bytes(b"")
    with pytest.raises(UserError, match="3 images of train in a row cannot be read"):
        list(training_loader(images, seed=0, image_size=32, batch_size=3, epochs=1, num_workers=0))


def test_a_fixed_part_of_the_images_can_be_taken(tmp_path: Path) -> None:
    whole = opened(tmp_path, annotation(1), annotation(2, image=2), annotation(3, image=3)).annotations
    part = limited(whole, 2)
    assert len(part.images) == 2
    assert [image for image in whole.images if image in part.images] == list(part.images)
    assert limited(whole, 2) == part
    assert limited(whole, 3) is limited(whole, None) is whole
    assert PhotoSource(part).fingerprint != PhotoSource(whole).fingerprint == PhotoSource(whole).fingerprint
    empty = limited(whole, 1).images[0].id
    without = opened(tmp_path, *(annotation(k, image=k) for k in (1, 2, 3) if k != empty)).annotations
    with pytest.raises(UserError, match=r"data\.limit = 1 takes images of train without objects only"):
        limited(without, 1)


def coco_config(folder: Path, **options: Any) -> DetectConfig:
    file, images = put(folder, content(annotation(1)))
    data = {"train": str(images), "train_annotations": str(file), "val": str(images), "val_annotations": str(file)}
    return DetectConfig(checkpoint="run", data=DetectDataConfig(**{**data, **options}))


def test_splits_of_coco_files_have_the_same_categories(tmp_path: Path) -> None:
    fewer = content(annotation(1, category_id=7), categories=[{"id": 7, "name": "dog"}])
    val = tmp_path / "val.json"
    val.write_text(json.dumps(fewer))
    train, scored = open_splits(coco_config(tmp_path, val_annotations=str(val)))
    assert train.annotations.categories == scored.annotations.categories
    assert scored[0][1]["labels"].tolist() == [2]
    assert (train.annotations.name, scored.annotations.name) == ("train", "val")
    val.write_text(json.dumps({**fewer, "categories": [{"id": 7, "name": "dog"}, {"id": 8, "name": "owl"}]}))
    with pytest.raises(UserError, match=r"category 8 \(owl\), unknown to those of train"):
        open_splits(coco_config(tmp_path, val_annotations=str(val)))


def test_splits_of_scenes_are_trained_on_as_they_are_composed() -> None:
    config = DetectConfig(checkpoint="run", image_size=64, data=DetectDataConfig(name="digits-scenes", num_scenes=10))
    train, val = open_splits(config)
    assert (len(train), len(val)) == (10, 2)
    image, target = train[3]
    assert image.shape == (3, 64, 64)
    assert len(target["boxes"]) == len(train.annotations.images[3].objects) > 0
    batch = next(iter(training_loader(train, seed=0, image_size=64, batch_size=10, epochs=1, num_workers=0)))
    assert len(batch.images) == 10
    assert sum(len(target["labels"]) for target in batch.targets) > 10
    assert next(iter(scoring_loader(val, batch_size=2, num_workers=0))).image_ids == [1, 2]
