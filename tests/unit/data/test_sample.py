"""A quick look at a data set: sizes, colour and statistics of a few images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patchmix.config import DataConfig
from patchmix.data.datasets import ArraySource, ImageSource, open_dataset
from patchmix.data.sample import Spread, evenly_spaced, sample_images
from patchmix.data.statistics import pixel_moments, pixel_statistics
from patchmix.errors import UserError


def tree(root: Path, **options: object) -> ImageSource:
    return open_dataset(DataConfig(name="folder", root=str(root), **options), "train")  # type: ignore[arg-type]


def test_sizes_kinds_and_unreadable_files_are_counted(photos: ImageSource) -> None:
    sample = sample_images(photos)
    assert (sample.num_images, sample.num_tried, sample.num_unreadable, sample.num_decoded) == (21, 21, 3, 18)
    assert sample.formats == {"JPEG": 18}
    assert (sample.widths, sample.heights) == ((30, 30), (20, 39))
    sides = [min(30, 20 + k) for k in range(21) if k not in (3, 4, 20)]
    assert sample.shorter_sides == Spread(*np.quantile(sides, (0.05, 0.5, 0.95)))
    assert not sample.grey


def test_a_part_is_spread_evenly_and_always_the_same(photos: ImageSource) -> None:
    assert evenly_spaced(10, 99) == list(range(10))
    assert evenly_spaced(1000, 4) == [125, 375, 625, 875]
    sample = sample_images(photos, 5)
    assert (sample.num_tried, sample.num_unreadable) == (5, 0)  # 2, 6, 10, 14, 18
    assert sample == sample_images(photos, 5)


def test_statistics_are_those_of_the_pixels_each_image_counting_alike(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    images = [generator.integers(low, low + 99, (*size, 3), np.uint8) for low, size in ((0, (9, 7)), (150, (40, 60)))]
    for number, image in enumerate(images):
        Image.fromarray(image).save(tmp_path / f"{number}.png")
    sample = sample_images(tree(tmp_path))
    means = np.mean([(image / 255).mean((0, 1)) for image in images], axis=0)
    squares = np.mean([((image / 255) ** 2).mean((0, 1)) for image in images], axis=0)
    assert sample.mean == pytest.approx(means.tolist())
    assert sample.std == pytest.approx(np.sqrt(squares - means**2).tolist())


def test_of_large_images_evenly_spaced_pixels_stand_for_all() -> None:
    image = torch.randint(0, 256, (3, 1500, 2000), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    taken, whole = pixel_moments(image), image.double() / 255
    assert taken.means == pytest.approx(whole.mean((1, 2)).tolist(), abs=0.002)
    assert taken.squares == pytest.approx(whole.square().mean((1, 2)).tolist(), abs=0.002)


def test_images_without_colour_are_grey_whatever_their_mode(tmp_path: Path) -> None:
    ramp = np.arange(200, dtype=np.uint8).reshape(10, 20)
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    Image.fromarray(ramp).convert("RGB").save(tmp_path / "rgb.jpg")
    sample = sample_images(tree(tmp_path))
    assert sample.grey
    assert len(sample.mean) == len(sample.std) == 1
    assert sample == sample_images(tree(tmp_path, channels=1))  # what the files have, not what is asked for
    Image.new("RGB", (20, 10), "red").save(tmp_path / "z.png")
    sample = sample_images(tree(tmp_path))
    assert not sample.grey
    assert len(sample.mean) == 3


def test_colour_is_also_looked_for_beyond_the_first_that_are_decoded(tmp_path: Path) -> None:
    later = [number for number in range(200) if number not in evenly_spaced(200, 64)]
    for number in range(200):
        Image.new("RGB", (4, 4), "red" if number in later else "grey").save(tmp_path / f"{number:03}.png")
    sample = sample_images(tree(tmp_path))
    assert sample.num_decoded == 128
    assert not sample.grey


def test_data_in_memory_are_sampled_too() -> None:
    images = torch.arange(100, dtype=torch.uint8)[:, None, None, None].expand(100, 1, 6, 4)
    sample = sample_images(ArraySource("digits", "train", images, None, (), mean=(0.5,), std=(0.5,)), 10)
    assert (sample.formats, sample.widths, sample.heights, sample.grey) == ({"array": 10}, (4, 4), (6, 6), True)
    assert sample.mean == pytest.approx((np.mean(evenly_spaced(100, 10)) / 255,))


def test_where_nothing_can_be_read_the_first_reason_is_said(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}.jpg").write_text("no")
    with pytest.raises(UserError, match=r"none of the 3 images of folder tried can be read; one is .*0\.jpg: not an"):
        sample_images(tree(tmp_path))


def test_grey_needs_every_image_grey() -> None:
    grey, red = torch.full((3, 2, 2), 9, dtype=torch.uint8), torch.zeros(3, 2, 2, dtype=torch.uint8)
    red[0] = 255
    assert pixel_statistics([pixel_moments(grey)]).grey
    assert pixel_statistics([pixel_moments(grey), pixel_moments(red)]).mean == pytest.approx(
        ((9 / 255 + 1) / 2, 9 / 510, 9 / 510)
    )
