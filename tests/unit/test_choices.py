"""What recipe `folder` chooses for which images on which machine, and that what is given is kept."""

import dataclasses
from typing import Any

import pytest

from patchmix import recipes
from patchmix.choices import Choices, Machine
from patchmix.choosing import CIFAR, COLUMNS, IMAGENET, LARGEST_BATCH, SMALL, choose, image_bytes
from patchmix.data.sample import ImageSample, Spread
from patchmix.errors import UserError

TWO_CORES = Machine("cpu", 2)
ONE_GPU = Machine("cuda", 16, 1, "NVIDIA H100", 80 * 2**30)
PHOTOS = ImageSample(
    num_images=5000,
    num_tried=256,
    num_unreadable=0,
    num_decoded=64,
    shorter_sides=Spread(300, 480, 1080),
    widths=(400, 4000),
    heights=(300, 3000),
    formats={"JPEG": 256},
    grey=False,
    mean=(0.48, 0.46, 0.41),
    std=(0.23, 0.23, 0.23),
)


def photos(num_images: int = 5000, side: float = 480, **changes: Any) -> ImageSample:
    return dataclasses.replace(PHOTOS, num_images=num_images, shorter_sides=Spread(side, side, side), **changes)


def chosen(sample: ImageSample, machine: Machine, **given: Any) -> dict[str, Any]:
    return choose(sample, machine, {name.replace("__", "."): value for name, value in given.items()}).values


def test_a_cpu_gets_the_small_recipes_numbers():
    values = chosen(photos(10_000, 32), TWO_CORES)
    recipe = recipes.resolve("cifar10-cpu")
    config = recipes.resolve("folder", None, {"data.root": "x"}, chosen=values)
    assert config.model == recipe.model
    assert (config.optim, config.method, config.views) == (recipe.optim, recipe.method, recipe.views)
    assert values["data.image_size"] == 32


@pytest.mark.parametrize(
    ("side", "machine", "size", "patch"),
    [
        (480, TWO_CORES, 64, 8),
        (28, TWO_CORES, 28, 4),
        (30, TWO_CORES, 28, 4),
        (1, TWO_CORES, 8, 1),
        (480, ONE_GPU, 224, 16),
        (100, ONE_GPU, 128, 8),
        (64, ONE_GPU, 64, 4),
        (32, ONE_GPU, 32, 2),
    ],
)
def test_the_input_follows_the_images_and_the_machine(side, machine, size, patch):
    values = chosen(photos(side=side), machine)
    assert (values["data.image_size"], values["model.patch_size"]) == (size, patch)


def test_a_gpu_gets_the_papers_columns():
    few, many = chosen(photos(5000), ONE_GPU), chosen(photos(60_000), ONE_GPU)
    assert few["model.name"] == "vit_tiny"
    assert many["model.name"] == "vit_small"
    for values in (few, many):
        assert COLUMNS[values["model.name"]].items() <= values.items()


def test_epochs_meet_the_papers_at_its_data_sets_and_fall_between():
    def epochs(count: int) -> int:
        return chosen(photos(count), ONE_GPU)["optim.epochs"]

    assert (epochs(CIFAR[0]), epochs(IMAGENET[0])) == (CIFAR[1], IMAGENET[1])
    assert (epochs(100), epochs(10**7)) == (CIFAR[1], IMAGENET[1])
    assert CIFAR[1] > epochs(200_000) > epochs(800_000) > IMAGENET[1]


@pytest.mark.parametrize("count", [2, 3, 5, 30, 127, 1000, 10**6])
@pytest.mark.parametrize("machine", [TWO_CORES, ONE_GPU, dataclasses.replace(ONE_GPU, num_gpus=2, num_processes=2)])
def test_every_number_of_images_gives_a_config_that_can_run(count, machine):
    if count < 2 * machine.num_processes:
        return
    values = chosen(photos(count), machine)
    given = {"data.root": "x", "run.num_devices": machine.num_processes}
    config = recipes.resolve("folder", None, given, chosen=values)
    assert 2 * machine.num_processes <= config.optim.batch_size <= count
    assert config.optim.epochs >= 1
    assert config.optim.warmup_epochs <= 0.3 * config.optim.epochs


def test_a_small_gpu_gets_a_smaller_batch_by_the_estimate():
    small = dataclasses.replace(ONE_GPU, gpu_memory=8 * 2**30)
    values, large = chosen(photos(60_000), small), chosen(photos(60_000), ONE_GPU)
    assert values["optim.batch_size"] < large["optim.batch_size"] == 512
    assert values["optim.batch_size"] * image_bytes(values) <= 0.6 * small.gpu_memory


@pytest.mark.parametrize("processes", [2, 4, 8])
@pytest.mark.parametrize("machine", [TWO_CORES, ONE_GPU])
def test_the_largest_batch_is_that_of_all_processes(processes, machine):
    several = dataclasses.replace(machine, num_gpus=processes, num_processes=processes)
    assert chosen(photos(100_000), several)["optim.batch_size"] == LARGEST_BATCH[machine.device]


def test_local_crops_and_other_models_count_in_the_estimate():
    plain = {"model.name": "vit_small", "data.image_size": 224, "model.patch_size": 16}
    crops = image_bytes(plain | {"views.num_local_crops": 8, "views.local_size": 96})
    assert crops / image_bytes(plain) == pytest.approx(8 * 37 / 197)
    eighth = image_bytes({"model.name": "vit_small_patch8_224", "data.image_size": 224})
    assert eighth / image_bytes(plain) == pytest.approx(785 / 197)


def test_null_is_a_value_and_the_view_follows_a_given_patch():
    assert chosen(photos(), TWO_CORES, data__image_size=None)["model.patch_size"] == 28  # 8 x 8 of the default's 224 px
    assert chosen(photos(), TWO_CORES, model__patch_size=14)["data.image_size"] == 70
    assert chosen(photos(side=29), TWO_CORES, model__name="vit_tiny_patch16_224")["data.image_size"] == 64
    given = {"data__image_size": 37, "model__patch_size": 37}
    assert "model.patch_size" not in chosen(photos(), TWO_CORES, **given)


def test_what_is_given_is_kept_and_the_rest_follows_it():
    base = chosen(photos(), TWO_CORES, model__name="vit_base")
    assert base["optim.lr"] == COLUMNS["vit_base"]["optim.lr"]
    assert "model.width" not in base
    assert "model.name" not in base
    sized = chosen(photos(), TWO_CORES, data__image_size=96)
    assert sized["model.patch_size"] == 12
    assert "data.image_size" not in sized
    wide = chosen(photos(), TWO_CORES, model__width=96)
    assert "model.num_heads" not in wide  # those of width 64 need not divide it
    shorter = chosen(photos(), TWO_CORES, optim__epochs=10)
    assert "optim.epochs" not in shorter
    assert shorter["optim.warmup_epochs"] == 3
    assert "model.patch_size" not in chosen(photos(), ONE_GPU, model__name="resnet50")


def test_an_image_size_without_patches_is_refused():
    with pytest.raises(UserError, match=r"data.image_size = 97 does not divide into patches.* 96"):
        chosen(photos(), TWO_CORES, data__image_size=97)


def test_grey_images_get_one_channel_with_their_own_statistics():
    xrays = photos(grey=True, mean=(0.2,), std=(0.1,))
    values = chosen(xrays, TWO_CORES)
    assert (values["data.channels"], values["data.mean"], values["data.std"]) == (1, (0.2,), (0.1,))
    assert "data.mean" not in chosen(xrays, TWO_CORES, data__channels=3)
    own = chosen(xrays, TWO_CORES, data__mean=(0.4,), data__std=(0.2,))
    assert own["data.channels"] == 1
    assert "data.channels" not in chosen(xrays, TWO_CORES, data__mean=(0.4,) * 3, data__std=(0.2,) * 3)
    assert "data.mean" not in chosen(photos(grey=True, mean=(0.45,), std=(0.22,)), TWO_CORES)


def test_photographs_are_normalised_as_published_and_others_by_what_was_measured():
    assert "data.mean" not in chosen(photos(), TWO_CORES)
    dark = photos(mean=(0.05, 0.06, 0.07), std=(0.1, 0.1, 0.1))
    assert chosen(dark, TWO_CORES)["data.mean"] == (0.05, 0.06, 0.07)
    black = photos(mean=(0.0, 0.0, 0.0), std=(0.0, 0.0, 0.0))
    assert "data.mean" not in chosen(black, TWO_CORES)  # nothing can be divided by a spread of 0


def test_every_choice_is_said_with_its_reason():
    choices: Choices = choose(photos(), TWO_CORES, {})
    assert choices.reasons.keys() == choices.values.keys()
    assert all(choices.reasons.values())
    text = choices.text
    assert "5,000 images (256 looked at), shorter side 480 px, colour; a CPU with 2 cores" in text
    for each in choices.items:
        assert each.what in text
        assert each.why in text


def test_the_small_model_is_that_of_the_recipe_it_names():
    recipe = recipes.resolve("cifar10-cpu")
    for name, value in SMALL.items():
        section, key = name.split(".")
        assert getattr(getattr(recipe, section), key) == value
