"""Soft targets against plain loops, and against what they describe: how many patches images share."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from patchmix.mixing import MixPlan
from patchmix.targets import (
    mix_to_mix,
    mix_to_mix_offsets,
    mix_to_origin,
    mix_to_origin_offsets,
    origin_to_origin,
    soft_targets,
)

SHAPES = {
    "batch_size": st.integers(1, 9),
    "num_mix": st.integers(1, 6),
    "world_size": st.integers(1, 3),
    "rank": st.integers(0, 2),
    "smoothing": st.sampled_from([0.0, 0.1, 0.5]),
}


def smoothed(target: Tensor, smoothing: float) -> Tensor:
    return (1 - smoothing) * target + smoothing / target.shape[1]


def plain_mix_to_origin(batch: int, num_mix: int, rank: int, world_size: int) -> Tensor:
    target = torch.zeros(batch, world_size * batch, dtype=torch.float64)
    for image in range(batch):
        for group in range(num_mix):
            target[image, rank * batch + (image + group) % batch] += 1 / num_mix
    return target


def plain_mix_to_mix(batch: int, num_mix: int, rank: int, world_size: int) -> Tensor:
    target = torch.zeros(batch, world_size * batch, dtype=torch.float64)
    for image in range(batch):
        for first in range(num_mix):
            for second in range(num_mix):  # group `first` of one, group `second` of the other: the same image?
                target[image, rank * batch + (image + first - second) % batch] += 1 / num_mix**2
    return target


@given(**SHAPES)
def test_equal_plain_loops_and_rows_sum_to_one(
    batch_size: int, num_mix: int, world_size: int, rank: int, smoothing: float
) -> None:
    rank %= world_size
    options = {"rank": rank, "world_size": world_size, "smoothing": smoothing, "dtype": torch.float64}
    own = torch.zeros(batch_size, world_size * batch_size, dtype=torch.float64)
    own[:, rank * batch_size : (rank + 1) * batch_size] = torch.eye(batch_size)
    pairs = [
        (origin_to_origin(batch_size, **options), own),
        (
            mix_to_origin(batch_size, num_mix, **options),
            plain_mix_to_origin(batch_size, num_mix, rank, world_size),
        ),
        (mix_to_mix(batch_size, num_mix, **options), plain_mix_to_mix(batch_size, num_mix, rank, world_size)),
    ]
    for found, expected in pairs:
        torch.testing.assert_close(found, smoothed(expected, smoothing), rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(found.sum(1), torch.ones(batch_size, dtype=torch.float64))


@given(st.integers(1, 5), st.integers(2, 8))
def test_say_which_share_of_a_mixed_image_comes_from_which_image(num_mix: int, batch: int) -> None:
    # One pixel a patch, and the pixel's value is the image's number: count who is in whom.
    plan = MixPlan.draw(4 * num_mix, num_mix, 1, generator=torch.Generator().manual_seed(0))
    images = torch.arange(batch).view(batch, 1, 1, 1).expand(batch, 1, 1, 4 * num_mix)
    mixed = plan.mix(images).flatten(1)
    share = torch.stack([(mixed == image).double().mean(1) for image in range(batch)], dim=1)
    torch.testing.assert_close(mix_to_origin(batch, num_mix, dtype=torch.float64), share)


def test_two_images_give_a_quarter_a_half_and_a_quarter() -> None:
    assert mix_to_mix_offsets(2) == {-1: 0.25, 0: 0.5, 1: 0.25}
    assert mix_to_mix(4, 2)[0].tolist() == [0.5, 0.25, 0.0, 0.25]


def test_offsets_that_wrap_onto_each_other_add_up() -> None:
    assert mix_to_origin(2, 4)[0].tolist() == [0.5, 0.5]
    assert mix_to_mix(2, 2)[0].tolist() == [0.5, 0.5]
    assert mix_to_mix(1, 3).tolist() == [[1.0]]


@pytest.mark.parametrize("offsets", [mix_to_origin_offsets(2), mix_to_mix_offsets(2)])
def test_groups_inside_a_process_equal_processes_of_that_size(offsets: dict[int, float]) -> None:
    grouped = soft_targets(offsets, 6, mix_group=3).dense()
    separate = [soft_targets(offsets, 3, rank=rank, world_size=2).dense() for rank in (0, 1)]
    assert torch.equal(grouped, torch.cat(separate))


def test_are_made_in_the_wanted_type() -> None:
    assert origin_to_origin(3).dtype == torch.float32
    exact = mix_to_origin(5, 3, dtype=torch.float64)
    assert exact.dtype == torch.float64
    assert exact[0, 0].item() == 1 / 3
