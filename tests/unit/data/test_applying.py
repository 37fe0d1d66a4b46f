"""How drawn parameters are applied to images."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torchvision.transforms.v2 import functional as transforms

from patchmix.config import ViewsConfig
from patchmix.data.crops import CropParameters, apply_crop
from patchmix.data.photometric import PhotometricParameters, apply_photometric
from patchmix.data.views import ViewMaker, apply_photo, draw
from patchmix.data.warps import WarpParameters, apply_warps
from patchmix.errors import UserError

NOTHING = PhotometricParameters(jitter=(), grey=False, blur=0.0, solarise=False)
WHOLE = CropParameters(((1.0, 1.0),), (0.0, 0.0), (3 / 4, 4 / 3), flip=False)
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
STILL = np.zeros((2, 5, 5), dtype=np.float32)
DIGITS = ViewsConfig(kind="digits", global_scale=(0.8, 1.25), thickness=0.7, num_local_crops=1, local_size=14)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def test_the_whole_image_at_its_own_size_is_the_image() -> None:
    image = noise(3, 20, 20)
    torch.testing.assert_close(apply_crop(image, WHOLE, (20, 20)), image, rtol=0, atol=0)
    flipped = apply_crop(image, dataclasses.replace(WHOLE, flip=True), (20, 20))
    torch.testing.assert_close(flipped, image.flip(-1), rtol=0, atol=0)


def test_a_crop_is_cut_from_where_it_was_drawn() -> None:
    image = torch.zeros(1, 40, 40, dtype=torch.uint8)
    image[:, 30:, 30:] = 200
    corner = CropParameters(((1 / 16, 1.0),), (0.999, 0.999), (3 / 4, 4 / 3), flip=False)
    assert apply_crop(image, corner, (5, 5)).unique().tolist() == [200]


def test_steps_are_applied_in_their_drawn_order() -> None:
    image = noise(3, 16, 16)
    forward = (("brightness", 1.4), ("contrast", 0.6), ("saturation", 0.8), ("hue", 0.1))
    expected = transforms.adjust_brightness(image, 1.4)
    expected = transforms.adjust_contrast(expected, 0.6)
    expected = transforms.adjust_saturation(expected, 0.8)
    expected = transforms.adjust_hue(expected, 0.1)
    result = apply_photometric(image, dataclasses.replace(NOTHING, jitter=forward))
    assert (result.int() - expected.int()).abs().max() <= 4  # torchvision cuts off decimals after every step
    reverse = apply_photometric(image, dataclasses.replace(NOTHING, jitter=forward[::-1]))
    assert (result.int() - reverse.int()).abs().max() > 20


def test_grey_makes_three_equal_channels() -> None:
    result = apply_photometric(noise(3, 8, 8), dataclasses.replace(NOTHING, grey=True))
    assert torch.equal(result[0], result[1])
    assert torch.equal(result[1], result[2])


def test_solarisation_inverts_what_is_128_or_brighter() -> None:
    image = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    result = apply_photometric(image, dataclasses.replace(NOTHING, solarise=True))
    values = image.int()
    assert torch.equal(result.int(), torch.where(values >= 128, 255 - values, values))


@pytest.mark.parametrize("side", [9, 32, 96])
@pytest.mark.parametrize("sigma", [0.1, 0.7, 2.0])
def test_blur_equals_torchvision_with_a_wide_kernel(side: int, sigma: float) -> None:
    image = noise(3, side, side)
    width = min(2 * 8 + 1, 2 * side - 1)
    expected = transforms.gaussian_blur(image, [width, width], [sigma, sigma])
    result = apply_photometric(image, dataclasses.replace(NOTHING, blur=sigma))
    assert (result.int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 50), (70, 1), (2, 3)])
def test_blur_takes_images_smaller_than_its_kernel(height: int, width: int) -> None:
    image = torch.full((3, height, width), 77, dtype=torch.uint8)
    assert torch.equal(apply_photometric(image, dataclasses.replace(NOTHING, blur=2.0)), image)


def test_one_channel_has_no_colour_to_change() -> None:
    image = noise(1, 12, 12)
    colours = dataclasses.replace(NOTHING, jitter=(("saturation", 1.2), ("hue", 0.1)), grey=True)
    assert torch.equal(apply_photometric(image, colours), image)
    lighter = apply_photometric(image, dataclasses.replace(NOTHING, jitter=(("brightness", 1.3),)))
    assert not torch.equal(lighter, image)


def test_parameters_drawn_apart_give_the_same_views_as_the_maker() -> None:
    views = ViewsConfig(num_local_crops=2, local_size=12)
    images = [noise(3, 30, 40, seed=k) for k in range(3)]
    keys = [(0, 5), (0, 9), (1, 5)]
    made = ViewMaker(views, (24, 20), seed=4)(images, keys)
    assert [tuple(view.shape) for view in made] == [(3, 3, 24, 20)] * 2 + [(3, 3, 12, 12)] * 2
    for number, view in enumerate(made):
        size = (24, 20) if number < 2 else (12, 12)
        for row, (image, key) in enumerate(zip(images, keys, strict=True)):
            assert torch.equal(view[row], apply_photo(image, draw(views, 4, *key, number), size))


def test_views_of_a_single_pixel_are_refused() -> None:
    with pytest.raises(UserError, match=r"raise data\.image_size"):
        ViewMaker(ViewsConfig(), (1, 1), seed=0)


def test_the_identity_warp_changes_nothing() -> None:
    images = noise(4, 1, 28, 28)
    assert torch.equal(apply_warps(images, [WarpParameters(IDENTITY, STILL)] * 4, (28, 28)), images)


def test_zooming_out_shows_black_around_the_image() -> None:
    images = torch.full((1, 1, 28, 28), 255, dtype=torch.uint8)
    view = apply_warps(images, [WarpParameters((2.0, 0, 0, 0, 2.0, 0), STILL)], (28, 28))[0, 0]
    assert view[:6].max() == view[:, :6].max() == view[-6:].max() == 0
    assert view[9:19, 9:19].min() > 250


def test_a_shift_looks_to_the_right_and_down() -> None:
    images = torch.zeros(1, 1, 20, 20, dtype=torch.uint8)
    images[0, 0, 12, 15] = 255
    view = apply_warps(images, [WarpParameters((1.0, 0, 0.2, 0, 1.0, 0.4), STILL)], (20, 20))[0, 0]
    assert divmod(int(view.argmax()), 20) == (12 - 4, 15 - 2)


def test_a_constant_elastic_displacement_is_a_shift() -> None:
    images = noise(1, 1, 20, 20)
    shifted = apply_warps(images, [WarpParameters((1.0, 0, 0.2, 0, 1.0, 0.2), STILL)], (20, 20))
    displaced = apply_warps(images, [WarpParameters(IDENTITY, STILL + np.float32(0.2))], (20, 20))
    assert (shifted.int() - displaced.int()).abs().max() <= 1


def test_thickness_moves_towards_the_brightest_or_the_darkest_neighbour() -> None:
    images = torch.zeros(3, 1, 9, 9, dtype=torch.uint8)
    images[:, :, 3:6, 3:6] = 200
    thicknesses = (1.0, -1.0, 0.5)
    views = apply_warps(images, [WarpParameters(IDENTITY, STILL, one) for one in thicknesses], (9, 9))[:, 0]
    assert [int((view == 200).sum()) for view in views] == [25, 1, 9]
    assert int((views[2] == 100).sum()) == 16


def test_a_digit_view_does_not_depend_on_its_batch() -> None:
    images = [noise(1, 28, 28, seed=k) for k in range(17)]
    keys = [(2, 3 * k) for k in range(17)]
    maker = ViewMaker(DIGITS, (28, 28), seed=1)
    together = maker(images, keys)
    for row in range(17):
        alone = maker(images[row : row + 1], keys[row : row + 1])
        assert all(torch.equal(one[row], other[0]) for one, other in zip(together, alone, strict=True))


def test_digit_views_take_images_of_other_sizes() -> None:
    maker = ViewMaker(DIGITS, (28, 28), seed=1)
    views = maker([noise(1, 28, 28), noise(1, 64, 40), noise(1, 1, 1)], [(0, 0), (0, 1), (0, 2)])
    assert [tuple(view.shape) for view in views] == [(3, 1, 28, 28)] * 2 + [(3, 1, 14, 14)]
