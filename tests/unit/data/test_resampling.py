"""Crops of many small images at once are torchvision's, within a grey level."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional as transforms

from patchmix.config import ViewsConfig
from patchmix.data import crops, resampling
from patchmix.data.crops import apply_crop, apply_crops, crop_boxes, draw_crops
from patchmix.data.resampling import cubic, resample, weights


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("image", "view"),
    [((32, 32), (32, 32)), ((31, 20), (15, 32)), ((9, 8), (32, 32)), ((1, 1), (7, 5)), ((2, 3), (3, 2))],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_crops_of_a_batch_are_torchvisions_within_a_grey_level(
    image: tuple[int, int], view: tuple[int, int], channels: int
) -> None:
    images, generator = noise(60, channels, *image), np.random.default_rng(0)
    drawn = draw_crops(generator.random((60, crops.NUM_UNIFORMS)), ViewsConfig(), local=False)
    boxes = crop_boxes(drawn, np.tile(image, (60, 1)))
    result = resample(images, boxes, drawn.flips, view)
    for row, (top, left, height, width) in enumerate(boxes.tolist()):
        expected = transforms.resized_crop(
            images[row], top, left, height, width, list(view), InterpolationMode.BICUBIC, antialias=True
        )
        expected = expected.flip(-1) if drawn.flips[row] else expected
        assert (result[row].int() - expected.int()).abs().max() <= 1
    assert torch.equal(apply_crops(list(images), drawn, view), result)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images = noise(10, 3, 30, 30)
    drawn = draw_crops(np.random.default_rng(0).random((10, crops.NUM_UNIFORMS)), ViewsConfig(), local=False)
    whole = apply_crops(list(images), drawn, (20, 20))
    monkeypatch.setattr(resampling, "MOST_NUMBERS", 3 * 3 * 30 * 30)
    assert torch.equal(apply_crops(list(images), drawn, (20, 20)), whole)


def test_images_of_mixed_sizes_come_back_in_their_order() -> None:
    images = [noise(3, *size, seed=k) for k, size in enumerate([(20, 20), (90, 70), (20, 20), (30, 20), (20, 20)])]
    drawn = draw_crops(np.random.default_rng(1).random((5, crops.NUM_UNIFORMS)), ViewsConfig(), local=False)
    together = apply_crops(images, drawn, (16, 16))
    for row, image in enumerate(images):
        assert torch.equal(apply_crop(image, drawn.one(row), (16, 16)), together[row])


def test_weights_are_whole_numbers_that_sum_to_their_unit_and_stay_inside_the_crop() -> None:
    starts, lengths = np.array([3, 0, 10]), np.array([17, 40, 1])
    found = weights(starts, lengths, np.array([False, True, False]), 40, 24)
    assert torch.equal(found, found.round())
    assert float((found.sum(2) - resampling.UNIT).abs().max()) <= 8
    for row, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        assert not found[row, :, :start].any()
        assert not found[row, :, start + length :].any()


def test_the_largest_sums_are_exact_in_float32() -> None:
    """Crops of all lengths to all sides: what is summed stays below 2^24 whatever the pixels are."""
    most = 0.0
    for new_side in (1, 2, 7, 24, 48):
        lengths = np.arange(1, 49)
        found = weights(np.zeros(48, dtype=np.int64), lengths, np.zeros(48, dtype=bool), 48, new_side)
        most = max(most, float(found.abs().sum(2).max()))
    assert most * 255 * resampling.STEPS < 2**24


def test_the_cubic_is_one_at_home_and_nothing_at_all_other_pixels() -> None:
    assert cubic(torch.tensor([0.0, 1.0, 2.0])).tolist() == [1.0, 0.0, 0.0]
    halves = cubic(torch.tensor([0.5, 1.5]))
    torch.testing.assert_close(halves, torch.tensor([0.5625, -0.0625]))
