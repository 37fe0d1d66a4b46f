"""Photometric changes of whole batches: torchvision's, within its rounding, and the same in every batch."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as transforms

from patchmix.config import ViewsConfig
from patchmix.data import photometric
from patchmix.data.photometric import (
    NUM_UNIFORMS,
    PhotometricParameters,
    Photometrics,
    apply_photometric,
    apply_photometrics,
    draw_photometrics,
    joined,
)
from patchmix.data.views import change_views

FUNCTIONALS = {
    "brightness": transforms.adjust_brightness,
    "contrast": transforms.adjust_contrast,
    "saturation": transforms.adjust_saturation,
    "hue": transforms.adjust_hue,
}
ALL = ViewsConfig(jitter=0.8, grey=0.2, blur=(0.5, 0.5, 0.5), solarise=(0.3, 0.3, 0.3))


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)


def drawn(count: int, views: ViewsConfig = ALL, seed: int = 0) -> Photometrics:
    return draw_photometrics(np.random.default_rng(seed).random((count, NUM_UNIFORMS)), views, 0)


def by_torchvision(image: torch.Tensor, parameters: PhotometricParameters) -> torch.Tensor:
    for step, factor in parameters.jitter:
        image = FUNCTIONALS[step](image, factor)
    if parameters.grey:
        image = transforms.rgb_to_grayscale(image, num_output_channels=3)
    if parameters.blur > 0:
        image = transforms.gaussian_blur(image, [17, 17], [parameters.blur] * 2)
    return transforms.solarize(image, 128) if parameters.solarise else image


@pytest.mark.parametrize(
    ("step", "factors"),
    [
        ("brightness", (0.0, 0.6, 1.4)),
        ("contrast", (0.0, 0.6, 1.4)),
        ("saturation", (0.0, 0.8, 1.2, 3.0)),
        ("hue", (-0.5, -0.1, 0.0, 0.1, 0.5)),
    ],
)
def test_one_step_is_torchvisions_within_its_cut_decimals(step: str, factors: tuple[float, ...]) -> None:
    """It cuts them off the result, and off the grey that contrast and saturation blend with."""
    flat = torch.arange(0, 256, 5, dtype=torch.uint8).view(1, -1, 1).expand(3, -1, 52)
    for image in (noise(3, 40, 52), flat):
        for factor in factors:
            result = apply_photometric(image, PhotometricParameters(((step, factor),), False, 0.0, False))
            blended = abs(1 - factor) if step in ("contrast", "saturation") else 0
            assert (result.int() - FUNCTIONALS[step](image, factor).int()).abs().max() <= 1 + blended


def test_all_steps_together_are_torchvisions_within_its_roundings() -> None:
    """Where solarising does not turn a small difference round: between 122 and 134 grey levels."""
    images, changes = noise(200, 3, 20, 24), drawn(200)
    result = apply_photometrics(images, changes).int()
    differences = []
    for row, image in enumerate(images):
        parameters = changes.one(row)
        expected = by_torchvision(image, parameters).int()
        difference = result[row] - expected
        if parameters.solarise:
            difference[(expected > 120) | (result[row] > 120)] = 0
        assert difference.abs().max() <= 6
        differences.append(difference.float().mean())
    assert abs(float(torch.stack(differences).mean())) < 1  # torchvision cuts decimals off, and is darker by them


def test_random_changes_have_the_moments_of_torchvisions_random_transforms() -> None:
    ramp = torch.linspace(20, 220, 16)
    image = torch.stack([ramp.expand(16, 16), ramp.flip(0).expand(16, 16), ramp.view(16, 1).expand(16, 16)])
    images = image.round().to(torch.uint8).expand(3000, -1, -1, -1)
    ours = apply_photometrics(images, drawn(3000)).float()
    theirs = v2.Compose(
        [
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.2, 0.1)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], p=0.5),
            v2.RandomSolarize(128, p=0.3),
        ]
    )
    torch.manual_seed(0)
    others = torch.stack([theirs(one) for one in images]).float()
    # Per channel, over draws: each image's mean grey level, and its spread.
    for moment in (lambda x: x.mean((2, 3)), lambda x: x.std((2, 3))):
        mine, other = moment(ours), moment(others)
        error = torch.sqrt((mine.var(0) + other.var(0)) / 3000)
        assert torch.all((mine.mean(0) - other.mean(0)).abs() < 4 * error + 1)
        torch.testing.assert_close(mine.std(0), other.std(0), rtol=0.06, atol=0.3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [5, 32, 70])
def test_an_image_is_changed_alike_in_every_batch(channels: int, side: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images, changes = noise(40, channels, side, side + 1), drawn(40)
    before = images.clone()
    whole = apply_photometrics(images, changes)
    assert torch.equal(images, before)
    assert not torch.equal(images, whole)
    for row in range(40):
        assert torch.equal(apply_photometric(images[row], changes.one(row)), whole[row])
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    parts = joined([changes[row : row + 1] for row in order.tolist()])
    assert torch.equal(apply_photometrics(images[order], parts), whole[order])
    monkeypatch.setattr(photometric, "MOST_NUMBERS", 3 * images[0].numel())
    assert torch.equal(apply_photometrics(images, changes), whole)


def test_threads_change_nothing_in_changes() -> None:
    images, changes = noise(6, 3, 200, 200), drawn(6)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = apply_photometrics(images, changes)
        torch.set_num_threads(4)
        assert torch.equal(apply_photometrics(images, changes), alone)
    finally:
        torch.set_num_threads(before)


def test_nothing_drawn_is_the_image() -> None:
    never = ViewsConfig(jitter=0.0, grey=0.0, blur=(0.0,) * 3, solarise=(0.0,) * 3)
    images = noise(3, 3, 9, 9)
    assert torch.equal(apply_photometrics(images, drawn(3, never)), images)


def test_drawn_changes_as_arrays_are_those_of_one_image_each() -> None:
    changes = drawn(300)
    names = [{name for name, _ in changes.one(row).jitter} for row in range(300)]
    assert 0.7 < sum(len(each) == 4 for each in names) / 300 < 0.9
    assert all(len(each) in (0, 4) for each in names)
    for row in range(300):
        again = photometric.of_one(changes.one(row))
        assert changes.one(row) == again.one(0)
        assert again.one(0).blur == pytest.approx(changes.blur[row])


def test_views_of_one_size_are_changed_together_and_come_back_in_their_order() -> None:
    views = [noise(4, 3, side, side, seed=number) for number, side in enumerate((16, 16, 8, 8, 8))]
    changes = [drawn(4, seed=number) for number in range(5)]
    for view, change, result in zip(views, changes, change_views(views, changes), strict=True):
        assert torch.equal(result, apply_photometrics(view, change))
    assert all(torch.equal(*pair) for pair in zip(views, change_views(views, ()), strict=True))


def test_the_blur_of_a_line_has_the_width_that_was_asked_for() -> None:
    line = torch.zeros(1, 1, 81, dtype=torch.uint8)
    line[0, 0, 40] = 255
    places = torch.arange(81) - 40.0
    for sigma in (0.8, 1.5, 2.0):
        result = apply_photometric(line, PhotometricParameters((), False, sigma, False))[0, 0].double()
        assert float(result.sum()) == pytest.approx(255, abs=5)
        assert math.sqrt(float((result * places**2).sum() / result.sum())) == pytest.approx(sigma, abs=0.12)


@pytest.mark.gpu
def test_a_gpu_changes_images_as_the_cpu_does_without_anyone_waiting() -> None:
    views = [noise(64, 3, side, side, seed=side) for side in (96, 96, 32)]
    changes = [drawn(64, seed=number) for number in range(3)]
    expected = change_views(views, changes)
    pinned = [view.pin_memory() for view in views]
    change_views(pinned, changes, device=torch.device("cuda"))  # starts the libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        results = change_views(pinned, changes, device=torch.device("cuda"))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for one, other in zip(results, expected, strict=True):
        difference = (one.cpu().int() - other.int()).abs()
        assert float((difference > 1).float().mean()) < 1e-3  # solarising turns a rounding at 128 round
        assert float(difference.float().mean()) < 0.1
