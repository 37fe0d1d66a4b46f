"""Scenes of digits: the same for the same key, exact masks, other digits to score on."""

from __future__ import annotations

import pickle

import pytest
import torch
from torchvision.ops import masks_to_boxes

from patchmix.transfer.masks import as_mask
from patchmix.transfer.scenes import SceneSet

NUM = 24


@pytest.fixture(scope="module")
def scenes() -> SceneSet:
    return SceneSet("train", NUM)


def masks_of(scenes: SceneSet, index: int) -> torch.Tensor:
    image = scenes.annotations.images[index]
    return torch.stack(
        [torch.from_numpy(as_mask(each.segmentation, image.height, image.width)) for each in image.objects]
    )


def test_scenes_depend_on_seed_split_and_index_alone(scenes: SceneSet) -> None:
    fewer = SceneSet("train", 5)
    assert fewer.annotations.images == scenes.annotations.images[:5]
    assert torch.equal(fewer.image(4), scenes.image(4))
    assert torch.equal(pickle.loads(pickle.dumps(scenes)).image(4), scenes.image(4))
    other = SceneSet("train", 5, seed=1)
    assert not any(torch.equal(other.image(k), scenes.image(k)) for k in range(5))
    val = SceneSet("val", 5)
    assert not any(torch.equal(val.image(k), scenes.image(k)) for k in range(5))
    assert len({each.fingerprint for each in (fewer, scenes, other, val)}) == 4


def test_train_and_val_have_no_digit_in_common(scenes: SceneSet) -> None:
    def digits(one: SceneSet) -> set[bytes]:
        return {digit.numpy().tobytes() for digit in one._digits}

    train, val = digits(scenes), digits(SceneSet("val", 1))
    assert len(train) == 4000
    assert len(val) == 1000
    assert not train & val


def test_masks_are_exact_disjoint_and_within_their_boxes(scenes: SceneSet) -> None:
    for index, image in enumerate(scenes.annotations.images):
        masks = masks_of(scenes, index)
        assert masks.sum(dim=0).max() == 1  # the later digit hides the earlier
        tight = masks_to_boxes(masks)
        tight[:, 2:] += 1
        for box, mask, each in zip(tight.tolist(), masks, image.objects, strict=True):
            x, y, width, height = each.box
            assert box == [x, y, x + width, y + height]
            assert each.area == mask.sum()
            assert 0 <= each.category <= 9
        grey = scenes.image(index)[0]
        covered = masks.bool().any(dim=0)
        assert grey[covered].min() > 255 * 0.5 * 0.5 - 1  # half opaque, of half the brightness at least
        assert grey[~covered].float().mean() < 5


def test_several_digits_overlap_and_each_is_mostly_seen(scenes: SceneSet) -> None:
    counts = [len(image.objects) for image in scenes.annotations.images]
    assert min(counts) >= 1
    assert max(counts) <= 7
    assert sum(counts) / NUM > 3
    overlapping = 0
    for image in scenes.annotations.images:
        boxes = torch.tensor([each.box for each in image.objects])
        boxes[:, 2:] += boxes[:, :2]
        low, high = torch.max(boxes[:, None, :2], boxes[None, :, :2]), torch.min(boxes[:, None, 2:], boxes[None, :, 2:])
        overlapping += int(((high > low).all(dim=2).sum() > len(boxes)).item())
    assert overlapping > NUM / 3


def test_an_image_is_three_equal_channels_of_the_asked_size() -> None:
    scenes = SceneSet("val", 2, size=48)
    image = scenes.image(1)
    assert image.shape == (3, 48, 48)
    assert image.dtype == torch.uint8
    assert image.is_contiguous()
    assert torch.equal(image[0], image[2])
    assert image.max() > 127
    assert torch.equal(scenes.read(1), image)
    assert [category.name for category in scenes.annotations.categories] == [str(digit) for digit in range(10)]
    assert next(each.id for image in scenes.annotations.images for each in image.objects) == 1
