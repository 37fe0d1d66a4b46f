"""Soft targets against plain loops, and against what they describe: how many patches images share."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from patchmix.mixing import MixPlan
from patchmix.offsets import mix_to_mix_offsets, mix_to_origin_offsets
from patchmix.targets import mix_to_mix, mix_to_origin, origin_to_origin, soft_targets

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
    assert mix_to_mix_offsets((1, 1), (1, 1)) == {-1: 0.25, 0: 0.5, 1: 0.25}
    assert mix_to_mix(4, 2)[0].tolist() == [0.5, 0.25, 0.0, 0.25]


def test_offsets_that_wrap_onto_each_other_add_up() -> None:
    assert mix_to_origin(2, 4)[0].tolist() == [0.5, 0.5]
    assert mix_to_mix(2, 2)[0].tolist() == [0.5, 0.5]
    assert mix_to_mix(1, 3).tolist() == [[1.0]]


@pytest.mark.parametrize("offsets", [mix_to_origin_offsets((1, 1), (1,)), mix_to_mix_offsets((1, 1), (1, 1))])
def test_groups_inside_a_process_equal_processes_of_that_size(offsets: dict[int, float]) -> None:
    grouped = soft_targets(offsets, 6, mix_group=3).dense()
    separate = [soft_targets(offsets, 3, rank=rank, world_size=2).dense() for rank in (0, 1)]
    assert torch.equal(grouped, torch.cat(separate))


@st.composite
def plan_pairs(draw: st.DrawFn) -> tuple[MixPlan, MixPlan]:
    """Two plans of as many images, of other numbers of patches."""
    num_mix = draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    counts = draw(st.tuples(st.integers(num_mix, 14), st.integers(num_mix, 14)))
    first, second = (MixPlan.draw(count, num_mix, 1, generator) for count in counts)
    return first, second


def counted(query: MixPlan, key: MixPlan | None, batch: int) -> Tensor:
    """Share of pairs (patch of mixed i, patch of mixed j) that come from one image; key None: j is not mixed."""
    pairs = torch.zeros(batch, batch, dtype=torch.float64)
    of_query = query.sources(batch).tolist()
    of_key = [[image] for image in range(batch)] if key is None else key.sources(batch).tolist()
    for image, sources in enumerate(of_query):
        for other, other_sources in enumerate(of_key):
            for source in sources:
                pairs[image, other] += other_sources.count(source)
    return pairs / (len(of_query[0]) * len(of_key[0]))


@given(plan_pairs(), st.integers(1, 7))
def test_exact_weights_equal_patches_counted_one_by_one(plans: tuple[MixPlan, MixPlan], batch: int) -> None:
    query, key = plans
    num_mix, sizes = query.num_mix, query.group_sizes
    other = soft_targets(mix_to_mix_offsets(sizes, key.group_sizes), batch).dense(torch.float64)
    found = [
        (mix_to_origin(batch, num_mix, shares=sizes, dtype=torch.float64), counted(query, None, batch)),
        (mix_to_mix(batch, num_mix, shares=sizes, dtype=torch.float64), counted(query, query, batch)),
        (other, counted(query, key, batch)),
    ]
    for target, expected in found:
        torch.testing.assert_close(target, expected, rtol=1e-12, atol=1e-15)
        torch.testing.assert_close(target.sum(1), torch.ones(batch, dtype=torch.float64))


@given(plan_pairs(), st.integers(2, 5))
def test_exact_mix_to_mix_is_what_independent_plans_have_in_common_on_average(
    plans: tuple[MixPlan, MixPlan], batch: int
) -> None:
    # At any position, each image of one mixed image meets each of the other by the product of their shares.
    query, key = (plan.group_sizes for plan in plans)
    to_origin, from_origin = (
        soft_targets(mix_to_origin_offsets(sizes, (1,)), batch).dense(torch.float64) for sizes in (query, key)
    )
    target = soft_targets(mix_to_mix_offsets(query, key), batch).dense(torch.float64)
    torch.testing.assert_close(target, to_origin @ from_origin.T, rtol=1e-12, atol=1e-15)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_exact_weights_of_equal_groups_are_the_published_ones_to_the_bit(num_mix: int, size: int, other: int) -> None:
    equal, query, key = (1,) * num_mix, (size,) * num_mix, (other,) * num_mix
    assert mix_to_origin_offsets(query, (1,)) == dict.fromkeys(range(num_mix), 1 / num_mix)
    published = {d: (num_mix - abs(d)) / num_mix**2 for d in range(-num_mix + 1, num_mix)}
    assert mix_to_mix_offsets(query, key) == mix_to_mix_offsets(equal, equal) == published


def test_left_over_patches_count_for_their_own_image() -> None:
    # 7 patches, M = 2: 4 own ones and 3 of the next image.
    assert mix_to_origin_offsets((4, 3), (1,)) == {0: 4 / 7, 1: 3 / 7}
    assert mix_to_mix_offsets((4, 3), (4, 3)) == {-1: 12 / 49, 0: 25 / 49, 1: 12 / 49}
    with pytest.raises(ValueError, match="2 shares do not fit num_mix = 3 groups"):
        mix_to_origin(4, 3, shares=(4, 3))


def test_are_made_in_the_wanted_type() -> None:
    assert origin_to_origin(3).dtype == torch.float32
    exact = mix_to_origin(5, 3, dtype=torch.float64)
    assert exact.dtype == torch.float64
    assert exact[0, 0].item() == 1 / 3
