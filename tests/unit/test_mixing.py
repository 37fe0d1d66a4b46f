"""MixPlan against a plain loop written from method.md, and its edges."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from patchmix.mixing import MixPlan


def plain_mix(images: Tensor, permutation: Tensor, num_mix: int, patch: int, group: int) -> Tensor:
    """method.md, "Mixing", as loops over images and patches."""
    mixed = images.clone()
    batch, _, height, width = images.shape
    num_patches = (height // patch) * (width // patch)
    size = num_patches // num_mix
    for image in range(batch):
        first = image - image % group
        for place in range(num_mix * size):
            position = int(permutation[place])
            row, column = divmod(position, width // patch)
            rows = slice(row * patch, (row + 1) * patch)
            columns = slice(column * patch, (column + 1) * patch)
            source = first + (image - first + place // size) % group
            mixed[image, :, rows, columns] = images[source, :, rows, columns]
    return mixed


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, MixPlan, int]:
    patch, rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    num_mix = draw(st.integers(1, rows * columns))
    group = draw(st.integers(1, 4))
    batch = group * draw(st.integers(1, 3))
    channels = draw(st.sampled_from([1, 3, 7]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    images = torch.randint(0, 256, (batch, channels, rows * patch, columns * patch), generator=generator)
    dtype = draw(st.sampled_from([torch.uint8, torch.float32, torch.float64, torch.bfloat16]))
    return images.to(dtype), MixPlan.draw(rows * columns, num_mix, patch, generator=generator), group


@given(cases())
def test_equals_a_plain_loop_for_any_shape_type_and_group(case: tuple[Tensor, MixPlan, int]) -> None:
    images, plan, group = case
    mixed = plan.mix(images, group)
    assert mixed.dtype == images.dtype
    assert torch.equal(mixed, plain_mix(images, plan.permutation, plan.num_mix, plan.patch_size, group))


@given(cases())
def test_one_image_is_the_identity(case: tuple[Tensor, MixPlan, int]) -> None:
    images, plan, _ = case
    assert torch.equal(MixPlan(plan.permutation, 1, plan.patch_size).mix(images), images)


@given(cases())
def test_no_patch_is_lost(case: tuple[Tensor, MixPlan, int]) -> None:
    images, plan, _ = case
    # At every pixel, the batch has the same values as before, given to other images.
    before, after = images.double().sort(0).values, plan.mix(images).double().sort(0).values
    assert torch.equal(before, after)


@given(cases())
def test_commutes_with_a_cyclic_shift_of_the_batch(case: tuple[Tensor, MixPlan, int]) -> None:
    images, plan, _ = case
    assert torch.equal(plan.mix(images.roll(1, 0)), plan.mix(images).roll(1, 0))


def test_left_over_patches_stay_with_their_own_image() -> None:
    plan = MixPlan(torch.arange(8), 3, 1)  # groups of 2, 2 left over
    assert plan.groups.tolist() == [0, 0, 1, 1, 2, 2, 0, 0]


@given(cases())
def test_group_sizes_count_every_position(case: tuple[Tensor, MixPlan, int]) -> None:
    _, plan, _ = case
    groups = plan.groups.tolist()
    assert plan.group_sizes == tuple(groups.count(group) for group in range(plan.num_mix))


def test_does_not_change_its_input_and_keeps_the_gradient() -> None:
    images = torch.rand(4, 3, 8, 8, requires_grad=True)
    before = images.detach().clone()
    MixPlan.draw(16, 2, 2, generator=torch.Generator().manual_seed(0)).mix(images).sum().backward()
    assert torch.equal(images.detach(), before)
    assert torch.equal(images.grad, torch.ones_like(images))  # every pixel goes to exactly one mixed image


def test_plans_of_one_generator_are_reproducible_and_differ() -> None:
    first = [MixPlan.draw(49, 2, 2, generator=torch.Generator().manual_seed(7)).permutation for _ in range(2)]
    assert torch.equal(*first)
    generator = torch.Generator().manual_seed(7)
    plans = [MixPlan.draw(49, 2, 2, generator=generator).permutation for _ in range(2)]
    assert not torch.equal(*plans)


def test_runs_under_compile_without_a_graph_break() -> None:
    images = torch.rand(4, 3, 8, 8)
    plan = MixPlan.draw(16, 3, 2, generator=torch.Generator().manual_seed(0))
    compiled = torch.compile(plan.mix, backend="eager", fullgraph=True)
    assert torch.equal(compiled(images), plan.mix(images))


@pytest.mark.parametrize(
    ("permutation", "num_mix", "patch_size", "words"),
    [
        (torch.arange(4), 0, 1, "num_mix = 0"),
        (torch.arange(4), 5, 1, "1 to 4 patches"),
        (torch.arange(4), 2, 0, "patch_size = 0"),
        (torch.tensor([0, 0, 1, 2]), 2, 1, "not a permutation"),
        (torch.rand(4), 2, 1, "int64 vector"),
    ],
)
def test_refuses_what_is_no_plan(permutation: Tensor, num_mix: int, patch_size: int, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MixPlan(permutation, num_mix, patch_size)


@pytest.mark.parametrize("shape", [(2, 3, 9, 8), (2, 3, 4, 8), (2, 3, 8, 16)])
def test_refuses_images_that_do_not_divide_into_its_patches(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not divide into 16 patches of 2 × 2"):
        MixPlan(torch.arange(16), 2, 2).mix(torch.zeros(shape))


def test_refuses_a_group_that_does_not_divide_the_batch() -> None:
    with pytest.raises(ValueError, match="mix_group = 3 does not divide the 4 images"):
        MixPlan(torch.arange(16), 2, 2).mix(torch.zeros(4, 1, 8, 8), mix_group=3)
