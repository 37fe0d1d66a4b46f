"""Every mixer: a mixed image holds its images in the shares that the targets are told."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.models import small_model
from torch import Tensor

from patchmix.config import MethodConfig
from patchmix.mixing import BlendPlan, MixPlan, PastePlan, Plan
from patchmix.offsets import mix_to_origin_offsets, origin_to_mix_offsets, overlap_offsets
from patchmix.randomness import draw_any_plan, draw_plan
from patchmix.targets import soft_targets

SIZE = (12, 8)


def drawn(step: int = 1, view: int = 0, seed: int = 0, images: tuple[int, int] = (0, 6), **options: Any) -> Plan:
    return draw_any_plan(SIZE, MethodConfig(**options), 4, seed=seed, step=step, view=view, images=images)


def parts_held(plan: Plan, batch: int, mix_group: int | None = None) -> Tensor:
    """[batch, batch]: how much of mixed image i is image j, by images that are 1 in a channel of their own."""
    images = torch.eye(batch, dtype=torch.float64)[:, :, None, None].expand(batch, batch, *SIZE).contiguous()
    return plan.mix(images, mix_group).mean((2, 3))


@given(
    st.sampled_from([("patches",), ("mixup",), ("cutmix",), ("mixup", "cutmix", "patches")]),
    st.sampled_from(["batch", "image"]),
    st.integers(1, 4),
    st.integers(0, 2**31),
    st.sampled_from([None, 3]),
)
def test_targets_give_each_image_its_share(
    mixers: Any, permutations: str, num_mix: int, seed: int, group: int | None
) -> None:
    plan = drawn(
        seed=seed, num_mix=min(num_mix, 2 if "cutmix" in mixers else 4), mixers=mixers, permutations=permutations
    )
    offsets = mix_to_origin_offsets(plan.shares, (1,))
    expected = soft_targets(offsets, 6, mix_group=group).dense(torch.float64)
    torch.testing.assert_close(parts_held(plan, 6, group), expected)


@pytest.mark.parametrize("plan", [BlendPlan((0.5, 0.5)), PastePlan(SIZE, (0, 3), (2, 5))])
def test_groups_that_do_not_divide_the_batch_and_other_sizes_are_refused(plan: Plan) -> None:
    with pytest.raises(ValueError, match="mix_group = 4 does not divide the 6 images"):
        plan.mix(torch.zeros(6, 3, *SIZE), 4)
    if isinstance(plan, PastePlan):
        with pytest.raises(ValueError, match="does not fit images"):
            plan.mix(torch.zeros(6, 3, 4, 4))


def test_both_views_of_sdmp_are_mixed_alike_and_those_of_the_others_apart() -> None:
    images = torch.randn(6, 3, *SIZE)
    for name, alike in {"sdmp": True, "unmix": False, "patchmix": False}.items():
        pairs = [[drawn(step, view, name=name).mix(images) for view in (0, 1)] for step in range(1, 9)]
        assert all(torch.equal(*pair) for pair in pairs) == alike, name


@pytest.mark.parametrize("mixers", [("mixup",), ("cutmix",)])
def test_shares_differ_from_step_to_step_and_are_exact(mixers: Any) -> None:
    plans = [drawn(step=step, mixers=mixers) for step in range(1, 20)]
    assert all(plan.exact for plan in plans)
    assert len({plan.shares for plan in plans}) > 10


def test_the_published_mixer_is_drawn_as_ever() -> None:
    for view in range(4):
        ours, published = drawn(view=view, num_mix=3), draw_plan(SIZE, 3, 4, seed=0, step=1, view=view)
        assert isinstance(ours, MixPlan)
        assert torch.equal(ours.permutation, published.permutation)
        assert not ours.exact


def test_each_image_is_cut_in_its_own_way_whatever_the_number_of_processes() -> None:
    whole = drawn(permutations="image", num_mix=2, images=(0, 6))
    halves = [drawn(permutations="image", num_mix=2, images=(first, 3)) for first in (0, 3)]
    assert isinstance(whole, MixPlan)
    assert whole.groups.shape == (6, 6)
    assert len({tuple(row.tolist()) for row in whole.groups}) > 1
    images = torch.randn(6, 3, *SIZE)
    parts = [half.mix(part) for half, part in zip(halves, images.chunk(2), strict=True)]
    assert torch.equal(torch.cat(parts), whole.mix(images, mix_group=3))
    with pytest.raises(ValueError, match="a plan for 6 images does not fit a batch of 4"):
        whole.mix(images[:4])


def test_several_mixers_take_turns_by_chance_the_same_one_for_all_views_of_a_step() -> None:
    mixers = ("mixup", "cutmix")
    kinds = [[type(drawn(step, view, mixers=mixers)) for view in (0, 1)] for step in range(1, 60)]
    assert all(first == second for first, second in kinds)
    assert 15 < sum(first is BlendPlan for first, _ in kinds) < 45


def test_local_crops_are_mixed_in_the_same_shares() -> None:
    for mixer in ("mixup", "cutmix"):
        first, second = (drawn(view=view, mixers=(mixer,)) for view in (2, 3))
        assert first.shares == second.shares


def test_cutmix_pastes_one_rectangle() -> None:
    for seed in range(20):
        plan = PastePlan.draw(SIZE, torch.Generator().manual_seed(seed))
        pasted = plan.mix(torch.arange(3.0)[:, None, None, None].expand(3, 1, *SIZE).contiguous())[0, 0] == 1
        rows, columns = pasted.any(1), pasted.any(0)
        assert torch.equal(pasted, rows[:, None] & columns)
        assert plan.shares == (96 - int(pasted.sum()), int(pasted.sum()))


def test_mixup_of_two_has_a_uniform_share() -> None:
    generator = torch.Generator().manual_seed(0)
    shares = torch.tensor([BlendPlan.draw(2, generator).shares[0] for _ in range(2000)])
    assert abs(shares.mean() - 0.5) < 0.03
    assert abs(shares.var() - 1 / 12) < 0.01


@given(st.lists(st.floats(0.05, 1), min_size=1, max_size=4))
def test_what_an_image_finds_among_mixed_ones_is_the_transpose(shares: list[float]) -> None:
    forward = soft_targets(mix_to_origin_offsets(shares, (1,)), 7).dense(torch.float64)
    backward = soft_targets(origin_to_mix_offsets((1,), shares), 7).dense(torch.float64)
    torch.testing.assert_close(backward, forward.T)


def test_overlap_is_the_smaller_of_two_shares() -> None:
    assert overlap_offsets((0.75, 0.25), (0.75, 0.25)) == pytest.approx({-1: 0.25 / 1.5, 0: 1 / 1.5, 1: 0.25 / 1.5})
    assert overlap_offsets((3,), (1,)) == {0: 1.0}


def test_tokens_mixed_after_the_embedding_are_those_of_mixed_pixels() -> None:
    """Patch embedding is linear patch by patch, so the mixer "tokens after embedding" is the mixer "patches"."""
    embed = small_model().encoder.patch_embed
    plan, images = MixPlan.draw(16, 3, 4, torch.Generator().manual_seed(0)), torch.randn(6, 3, 16, 16)
    sources = plan.sources(6)
    tokens = embed(images).flatten(1, 2)
    mixed = tokens.gather(0, sources[:, :, None].expand_as(tokens))
    torch.testing.assert_close(embed(plan.mix(images)).flatten(1, 2), mixed)
