"""What is drawn for views: keys, probabilities and distributions of method.md's table."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop

from patchmix.config import ViewsConfig
from patchmix.data.crops import CropParameters, crop_box
from patchmix.data.streams import KeyedStream, Purpose, keyed_generator
from patchmix.data.views import PhotoParameters, draw
from patchmix.data.warps import WarpParameters

NUM_DRAWS = 4000
DIGITS = ViewsConfig(kind="digits", global_scale=(0.8, 1.25))


def photos(view: int, views: ViewsConfig | None = None) -> list[PhotoParameters]:
    stream = KeyedStream(Purpose.VIEW)
    drawn = [draw(views or ViewsConfig(), 3, 0, index, view, stream) for index in range(NUM_DRAWS)]
    return [one for one in drawn if isinstance(one, PhotoParameters)]


def warps(views: ViewsConfig = DIGITS, view: int = 0) -> list[WarpParameters]:
    stream = KeyedStream(Purpose.VIEW)
    drawn = [draw(views, 3, 0, index, view, stream) for index in range(NUM_DRAWS)]
    return [one for one in drawn if isinstance(one, WarpParameters)]


def share(flags: list[bool]) -> float:
    return sum(flags) / len(flags)


def test_a_moved_stream_gives_the_numbers_of_a_new_one() -> None:
    stream = KeyedStream(Purpose.VIEW)
    stream.at(9, 8, 7, 6).standard_normal(5)  # leaves a half-used buffer behind
    stream.at(2**32 - 1, 1, 2, 3).integers(0, 100, dtype=np.uint32)
    expected = keyed_generator(Purpose.VIEW, 2**32 - 1, 1, 2, 3).random(9)
    np.testing.assert_array_equal(stream.at(2**32 - 1, 1, 2, 3).random(9), expected)


def test_purposes_do_not_share_numbers() -> None:
    draws = [keyed_generator(purpose, 0, 1, 2, 3).random() for purpose in Purpose]
    assert len(set(draws)) == len(Purpose)


@pytest.mark.parametrize("views", [ViewsConfig(), DIGITS], ids=["photo", "digits"])
def test_every_part_of_the_key_changes_the_draw(views: ViewsConfig) -> None:
    base = (5, 6, 7, 0)
    keys = [base, *(tuple(v + (k == part) for k, v in enumerate(base)) for part in range(4))]
    assert len({repr(draw(views, *key)) for key in keys}) == len(keys)
    assert repr(draw(views, *base)) == repr(draw(views, *base, KeyedStream(Purpose.VIEW)))


@pytest.mark.parametrize(("view", "blur", "solarise"), [(0, 1.0, 0.0), (1, 0.1, 0.2), (2, 0.5, 0.0), (5, 0.5, 0.0)])
def test_probabilities_are_those_of_the_published_table(view: int, blur: float, solarise: float) -> None:
    drawn = photos(view)
    sigma = 4 * math.sqrt(0.25 / NUM_DRAWS)
    assert share([one.crop.flip for one in drawn]) == pytest.approx(0.5, abs=sigma)
    assert share([bool(one.photometric.jitter) for one in drawn]) == pytest.approx(0.8, abs=sigma)
    assert share([one.photometric.grey for one in drawn]) == pytest.approx(0.2, abs=sigma)
    assert share([one.photometric.blur > 0 for one in drawn]) == pytest.approx(blur, abs=sigma * (0 < blur < 1))
    assert share([one.photometric.solarise for one in drawn]) == pytest.approx(solarise, abs=sigma * (0 < solarise < 1))


def test_jitter_factors_fill_their_ranges_and_come_in_every_order() -> None:
    jitters = [one.photometric.jitter for one in photos(0) if one.photometric.jitter]
    for name, low, high in (
        ("brightness", 0.6, 1.4),
        ("contrast", 0.6, 1.4),
        ("saturation", 0.8, 1.2),
        ("hue", -0.1, 0.1),
    ):
        factors = np.array([dict(jitter)[name] for jitter in jitters])
        assert low <= factors.min() < low + 0.01 * (high - low)
        assert high - 0.01 * (high - low) < factors.max() <= high
        assert factors.mean() == pytest.approx((low + high) / 2, abs=0.02 * (high - low))
    orders = Counter(tuple(name for name, _ in jitter) for jitter in jitters)
    assert len(orders) == 24
    assert min(orders.values()) > 0.6 * len(jitters) / 24


def test_blur_is_uniform_from_a_tenth_to_two_pixels() -> None:
    sigmas = np.array([one.photometric.blur for one in photos(0)])
    assert 0.1 <= sigmas.min() < 0.13
    assert 1.97 < sigmas.max() <= 2.0
    assert sigmas.mean() == pytest.approx(1.05, abs=0.03)


def test_changing_one_probability_leaves_all_other_choices_as_they_are() -> None:
    before, after = photos(1), photos(1, ViewsConfig(jitter=0.0))
    assert not any(one.photometric.jitter for one in after)
    for one, other in zip(before, after, strict=True):
        assert one.crop == other.crop
        assert dataclasses.replace(one.photometric, jitter=()) == other.photometric


@pytest.mark.parametrize(("height", "width"), [(32, 32), (40, 100), (300, 30), (5, 7)])
def test_crops_have_the_distribution_of_torchvision(height: int, width: int) -> None:
    torch.manual_seed(0)
    image = torch.empty(3, height, width)
    theirs = np.array(
        [RandomResizedCrop.get_params(image, [0.1, 1.0], [3 / 4, 4 / 3]) for _ in range(NUM_DRAWS)],
        dtype=float,
    )
    ours = np.array([crop_box(one.crop, height, width) for one in photos(0)], dtype=float)
    spread = np.maximum(theirs.std(0), 1e-9)
    assert np.all(np.abs(ours.mean(0) - theirs.mean(0)) < 5 * spread * math.sqrt(2 / NUM_DRAWS) + 1e-9)
    assert np.all(np.abs(ours.std(0) - theirs.std(0)) < 0.06 * spread + 1e-9)
    assert (
        np.corrcoef(ours[:, 2], ours[:, 3])[0, 1]
        == pytest.approx(np.corrcoef(theirs[:, 2], theirs[:, 3])[0, 1], abs=0.05)
        or spread[2:].min() < 1e-6
    )


def test_global_and_local_crops_have_their_own_scales() -> None:
    views = ViewsConfig(global_scale=(0.35, 1.0), num_local_crops=2, local_scale=(0.05, 0.35))
    for view, low, high in ((0, 0.35, 1.0), (1, 0.35, 1.0), (2, 0.05, 0.35), (3, 0.05, 0.35)):
        areas = np.array([one.crop.candidates[0][0] for one in photos(view, views)])
        assert low <= areas.min() < low + 0.01 < high - 0.01 < areas.max() <= high


@pytest.mark.parametrize(("height", "width", "box"), [(90, 30, (25, 0, 40, 30)), (30, 90, (0, 25, 30, 40))])
def test_where_no_crop_fits_the_central_one_is_taken(height: int, width: int, box: tuple[int, ...]) -> None:
    parameters = CropParameters(((1.0, 1.0),) * 10, (0.9, 0.9), (3 / 4, 4 / 3), False)
    assert crop_box(parameters, height, width) == box


def test_warps_have_the_areas_ratios_and_shifts_that_were_asked_for() -> None:
    affine = np.array([one.affine for one in warps()])
    xx, xy, x, yx, yy, y = affine.T
    area = xx * yy - xy * yx
    assert 0.8 <= area.min() < 0.805
    assert 1.24 < area.max() <= 1.25
    assert np.log(area).mean() == pytest.approx((math.log(0.8) + math.log(1.25)) / 2, abs=0.01)
    for shift in (x, y):
        assert -0.2 <= shift.min() < -0.199  # a tenth of the image is two tenths of half an image
        assert 0.199 < shift.max() <= 0.2
    width = np.hypot(xx, yx)
    assert 3 / 4 <= (width**2 / area).min() < 0.76
    assert 1.32 < (width**2 / area).max() <= 4 / 3
    turn = np.degrees(np.arctan2(yx, xx))
    assert -12 <= turn.min() < -11.9
    assert 11.9 < turn.max() <= 12
    slant = (xx * xy + yx * yy) / area
    assert -0.15 <= slant.min() < -0.149
    assert 0.149 < slant.max() <= 0.15


def test_elastic_displacements_are_uniform_up_to_their_share_of_the_image() -> None:
    elastic = np.stack([one.elastic for one in warps()]) / 2
    assert elastic.shape == (NUM_DRAWS, 2, 5, 5)
    assert -0.07 - 1e-6 <= elastic.min() < -0.0699
    assert 0.0699 < elastic.max() <= 0.07 + 1e-6
    assert elastic.std() == pytest.approx(0.07 / math.sqrt(3), rel=0.02)
    assert abs(elastic.mean()) < 0.001


def test_thickness_changes_only_where_it_is_asked_for() -> None:
    assert all(one.thickness == 0 for one in warps())
    drawn = np.array([one.thickness for one in warps(dataclasses.replace(DIGITS, thickness=0.7))])
    assert -0.7 <= drawn.min() < -0.69
    assert 0.69 < drawn.max() <= 0.7
    assert abs(drawn.mean()) < 0.03


def test_elastic_strength_changes_nothing_else() -> None:
    still = dataclasses.replace(DIGITS, elastic=0.0)
    for one, other in zip(warps()[:50], warps(still)[:50], strict=True):
        assert one.affine == other.affine
        assert not other.elastic.any()
