"""What happens to an image before the encoder sees it, and how features of a whole source are gathered."""

from __future__ import annotations

import io
import multiprocessing
import subprocess

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from torch import nn
from torchvision.transforms import v2

from patchmix.errors import UserError
from patchmix.evaluation.features import Input, describe_preparation, extract, prepare_image


def takes(height: int, width: int, channels: int = 3) -> Input:
    return Input((height, width), channels, (0.5,) * channels, (0.25,) * channels)


def photo(height: int, width: int, channels: int = 3) -> torch.Tensor:
    rows = torch.linspace(0, 255, height).view(1, -1, 1)
    columns = torch.linspace(0, 255, width).view(1, 1, -1)
    return ((rows + columns) / 2).expand(channels, -1, -1).round().to(torch.uint8).contiguous()


def test_a_photograph_is_resized_to_input_times_256_over_224_and_cropped() -> None:
    image = photo(300, 400)
    expected = v2.functional.center_crop(
        v2.functional.resize(image, [256, 341], interpolation=v2.InterpolationMode.BICUBIC, antialias=True),
        [224, 224],
    )
    assert torch.equal(prepare_image(image, takes(224, 224)), expected)


def test_resizing_agrees_with_pillow_to_a_grey_level() -> None:
    image = photo(300, 400)
    pillow = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((341, 256), Image.Resampling.BICUBIC)
    expected = v2.functional.center_crop(v2.functional.pil_to_tensor(pillow), [224, 224]).int()
    assert (prepare_image(image, takes(224, 224)).int() - expected).abs().max() <= 1


def test_an_image_of_the_input_size_is_taken_as_it_is() -> None:
    image = photo(32, 32)
    assert torch.equal(prepare_image(image, takes(32, 32)), image)
    assert torch.equal(prepare_image(image, takes(32, 32), crop_ratio=1.0), image)


def test_a_crop_ratio_given_explicitly_crops_images_of_the_input_size_too() -> None:
    image = photo(32, 32)
    assert not torch.equal(prepare_image(image, takes(32, 32), crop_ratio=224 / 256), image)


def test_crop_ratio_one_keeps_the_whole_shorter_side() -> None:
    image = torch.zeros(1, 40, 60, dtype=torch.uint8)
    image[:, :, 10:50] = 200
    prepared = prepare_image(image, takes(20, 20, 1), crop_ratio=1.0)
    assert prepared.float().mean() > 190


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    target=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    ratio=st.one_of(st.none(), st.floats(0.3, 1)),
    channels=st.sampled_from([1, 3]),
)
def test_any_image_becomes_uint8_of_the_encoders_size_and_channels(
    height: int, width: int, target: tuple[int, int], ratio: float | None, channels: int
) -> None:
    image = torch.full((4 - channels, height, width), 77, dtype=torch.uint8)
    prepared = prepare_image(image, takes(*target, channels), ratio)
    assert prepared.shape == (channels, *target)
    assert prepared.dtype == torch.uint8
    assert (prepared.int() - 77).abs().max() <= 1  # no black border: the resized image always covers the crop


def test_grey_images_reach_an_rgb_encoder_as_three_equal_channels() -> None:
    prepared = prepare_image(photo(16, 16, channels=1), takes(16, 16, 3))
    assert torch.equal(prepared[0], prepared[1])
    assert torch.equal(prepared[0], prepared[2])


def test_features_are_those_of_normalised_images_in_order(encoder, spec, make_striped) -> None:
    source = make_striped(7)
    found = extract(encoder, source, spec, batch_size=3)
    pixels = (torch.stack(source.images).float() / 255 - 0.5) / 0.25
    encoder.eval()
    with torch.no_grad():
        expected = encoder(pixels)
    torch.testing.assert_close(found.features, expected, rtol=1e-5, atol=1e-6)
    assert found.indices.tolist() == list(range(7))
    assert torch.equal(found.labels, source.labels)
    assert found.num_unchanged == 7


def test_unreadable_images_are_left_out_and_named(encoder, spec, make_striped) -> None:
    whole = extract(encoder, make_striped(8), spec, batch_size=2)
    found = extract(encoder, make_striped(8, unreadable=[2, 3, 7]), spec, batch_size=2)
    assert found.indices.tolist() == [0, 1, 4, 5, 6]
    assert torch.equal(found.labels, whole.labels[found.indices])
    torch.testing.assert_close(found.features, whole.features[found.indices])
    assert [skipped[:2] for skipped in found.skipped] == [(i, f"memory/train/{i}") for i in (2, 3, 7)]
    assert found.skipped[0][2] == "the file is cut off"


def test_a_source_without_one_readable_image_is_an_error_that_names_the_first(encoder, spec, make_striped) -> None:
    with pytest.raises(UserError, match="none of its 3 images can be read; the first: memory/train/0: the file is"):
        extract(encoder, make_striped(3, unreadable=[0, 1, 2]), spec)


def test_worker_processes_change_nothing(encoder, spec, make_striped) -> None:
    source = make_striped(9, unreadable=[4])
    alone, shared = (extract(encoder, source, spec, batch_size=2, num_workers=n) for n in (0, 2))
    assert torch.equal(alone.features, shared.features)
    assert torch.equal(alone.indices, shared.indices)
    assert alone.skipped == shared.skipped


def test_workers_outlive_the_signals_that_stop_a_run(encoder, spec, make_striped) -> None:
    class Interrupted(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            for worker in multiprocessing.active_children():
                for name in ("-INT", "-TERM"):  # by another process, as a terminal or a batch system does
                    subprocess.run(["kill", name, str(worker.pid)], check=True)
            return encoder(images)

    source = make_striped(12)
    found = extract(Interrupted(), source, spec, batch_size=1, num_workers=1)
    assert found.indices.tolist() == list(range(12))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_no_random_number_is_drawn(encoder, spec, make_striped, num_workers: int) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    extract(encoder, make_striped(5), spec, num_workers=num_workers)
    assert torch.equal(torch.get_rng_state(), before)


def test_every_module_gets_its_own_mode_back(encoder, spec, make_striped) -> None:
    encoder.train()
    encoder.blocks[0].eval()
    before = [module.training for module in encoder.modules()]
    extract(encoder, make_striped(3), spec)
    assert [module.training for module in encoder.modules()] == before


def test_the_mode_comes_back_also_when_reading_fails(encoder, spec, make_striped) -> None:
    encoder.train()
    with pytest.raises(UserError):
        extract(encoder, make_striped(2, unreadable=[0, 1]), spec)
    assert encoder.training


def test_features_can_be_trained_on(encoder, spec, make_striped) -> None:
    features = extract(encoder, make_striped(4), spec).features
    assert not features.is_inference()
    head = nn.Linear(features.shape[1], 2)
    head(features).sum().backward()
    assert head.weight.grad is not None


def test_bf16_autocast_gives_float32_features_near_the_exact_ones(encoder, spec, make_striped) -> None:
    exact = extract(encoder, make_striped(6), spec).features
    mixed = extract(encoder, make_striped(6), spec, precision="bf16-mixed").features
    assert mixed.dtype == torch.float32
    assert not torch.equal(mixed, exact)
    torch.testing.assert_close(mixed, exact, rtol=0.1, atol=0.1)


def test_the_preparation_is_described_with_its_numbers() -> None:
    assert describe_preparation(takes(224, 224), None).startswith("shorter side to 256 px (bicubic), centre crop 224 ×")


def test_without_a_terminal_lines_tell_how_far_it_is(encoder, spec, make_striped, monkeypatch) -> None:
    monkeypatch.setattr("patchmix.evaluation.features.LINE_EVERY", 0.0)
    text = io.StringIO()
    extract(encoder, make_striped(10), spec, batch_size=4, console=Console(file=text), title="encoder, train")
    assert text.getvalue().splitlines() == ["encoder, train: 4 of 10 images", "encoder, train: 8 of 10 images"]
