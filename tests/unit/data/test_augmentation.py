# ruff: noqa: NPY002  (timm draws from the global generators)
"""Augmentation of labelled images: a function of (seed, epoch, index) that gives what the encoder takes."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomCrop
from torchvision.transforms.v2 import functional as transforms

from patchmix import recipes
from patchmix.data.augmentation import _DIGITS, _posterize, create_augment, shifted
from patchmix.errors import UserError
from patchmix.evaluation.features import Input, prepare_image

GREY, RGB = Input((12, 12), 1, (0.5,), (0.25,)), Input((12, 12), 3, (0.5,) * 3, (0.25,) * 3)
RAND = "rand-m9-mstd0.5-inc1"


def picture(channels: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height)
    return torch.randint(0, 256, (channels, height, width), generator=generator).to(torch.uint8)


@pytest.mark.parametrize("spec", [GREY, RGB])
@pytest.mark.parametrize("kind", ["crop", "pad", "digits", "none"])
@pytest.mark.parametrize("rand_augment", [None, RAND])
def test_images_of_any_size_and_channels_become_the_encoders_input(spec: Input, kind, rand_augment) -> None:
    augment = create_augment(kind, spec, 0, rand_augment=rand_augment, jitter=0.4)
    for image in (picture(1, 1, 1), picture(3, 12, 12), picture(3, 30, 17), picture(1, 5, 40)):
        made = augment(image, 0, 0)
        assert made.shape == (spec.channels, 12, 12)
        assert made.dtype == torch.uint8


@pytest.mark.parametrize("kind", ["crop", "pad", "digits"])
@pytest.mark.parametrize("rand_augment", [None, RAND])
def test_the_result_depends_on_seed_epoch_and_index_alone(kind, rand_augment) -> None:
    image = picture(3, 20, 20)

    def made(seed: int, epoch: int, index: int) -> torch.Tensor:
        return create_augment(kind, RGB, seed, rand_augment=rand_augment, jitter=0.4)(image, epoch, index)

    used = create_augment(kind, RGB, 1, rand_augment=rand_augment, jitter=0.4)
    used(image, 9, 9)
    random.random()
    np.random.permutation(3)
    assert used(image, 2, 7).equal(made(1, 2, 7))
    assert pickle.loads(pickle.dumps(used))(image, 2, 7).equal(made(1, 2, 7))
    batch = used.batch([image, image], [(2, 7), (2, 8)])
    assert batch[0].equal(made(1, 2, 7))
    assert batch[1].equal(made(1, 2, 8))
    others = [made(2, 2, 7), made(1, 3, 7), made(1, 2, 8)]
    assert not any(made(1, 2, 7).equal(other) for other in others)


def test_rand_augment_leaves_the_global_generators_as_they_were() -> None:
    augment = create_augment("crop", RGB, 0, rand_augment=RAND)
    python, numpy = random.getstate(), np.random.get_state()
    augment(picture(3, 20, 20), 0, 0)
    assert random.getstate() == python
    assert str(np.random.get_state()) == str(numpy)


def test_where_there_is_rand_augment_there_is_no_jitter() -> None:
    image = picture(3, 20, 20)
    with_both = create_augment("crop", RGB, 0, rand_augment=RAND, jitter=0.4)
    alone = create_augment("crop", RGB, 0, rand_augment=RAND)
    assert all(with_both(image, 0, index).equal(alone(image, 0, index)) for index in range(8))
    jittered, plain = create_augment("crop", RGB, 0, jitter=0.4), create_augment("crop", RGB, 0)
    assert not any(jittered(image, 0, index).equal(plain(image, 0, index)) for index in range(8))


def test_pad_is_one_of_torchvisions_padded_crops_perhaps_flipped() -> None:
    image = picture(1, 12, 12)
    windows = [shifted(image, down, right) for down in range(9) for right in range(9)]
    everything = [*windows, *(each.flip(-1) for each in windows)]
    torchvisions = [RandomCrop(12, padding=4)(image) for _ in range(20)]
    assert all(any(crop.equal(window) for window in windows) for crop in torchvisions)
    augment = create_augment("pad", GREY, 0)
    made = [augment(image, 0, index) for index in range(200)]
    found = {next(place for place, each in enumerate(everything) if each.equal(one)) for one in made}
    assert len(found) > 100  # of 162
    assert {place // 81 for place in found} == {0, 1}


def test_none_is_what_evaluation_sees() -> None:
    image = picture(3, 20, 31)
    augment = create_augment("none", GREY, 0, rand_augment=RAND, jitter=0.4)
    assert augment(image, 0, 0).equal(prepare_image(image, GREY))


def test_digits_have_the_strengths_of_the_demo() -> None:
    views = recipes.resolve("demo").views
    names = ("kind", "global_scale", "ratio", "shift", "rotation", "shear", "elastic", "elastic_grid", "thickness")
    assert [getattr(_DIGITS, name) for name in names] == [getattr(views, name) for name in names]


@pytest.mark.parametrize("name", ["randaugment", "augmix-m5", "rand-q7", ""])
def test_another_name_than_timms_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=r"none of timm's RandAugment: give one like rand-m9-mstd0\.5-inc1"):
        create_augment("crop", RGB, 0, rand_augment=name)


@pytest.mark.parametrize("magnitude", [0, 9, 10])
def test_rand_augment_works_at_every_strength(magnitude: int) -> None:
    augment = create_augment("pad", RGB, 0, rand_augment=f"rand-m{magnitude}-mstd0.5-inc1-n15-p1")
    image = picture(3, 12, 12)
    made = [augment(image, 0, index) for index in range(60)]
    assert len({tuple(each.flatten().tolist()) for each in made}) > 20


def test_posterising_to_nothing_is_black() -> None:
    whole = transforms.to_pil_image(picture(3, 12, 12))
    assert not any(low or high for low, high in _posterize(whole, 0).getextrema())
    assert _posterize(whole, 8).tobytes() == whole.tobytes()
