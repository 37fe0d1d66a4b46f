"""The model: what runs, in which state, and what gets a gradient."""

from __future__ import annotations

import math

import pytest
import torch
from tests.models import small_model
from timm.layers import DropPath
from torch import Tensor

from patchmix.contrasts import LOCAL_CROPS, PATCHMIX
from patchmix.losses import soft_info_nce
from patchmix.method import ContrastiveModel
from patchmix.mixing import MixPlan
from patchmix.targets import mix_to_mix, mix_to_origin


def views(batch: int = 6, size: int = 16, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randn(batch, 3, size, size, generator=generator),
        torch.randn(batch, 3, size, size, generator=generator),
    )


def plans(num_mix: int = 2, count: int = 16) -> tuple[MixPlan, MixPlan]:
    generator = torch.Generator().manual_seed(1)
    return MixPlan.draw(count, num_mix, 4, generator), MixPlan.draw(count, num_mix, 4, generator)


@pytest.mark.parametrize("momentum", [True, False])
@pytest.mark.parametrize("num_mix", [1, 2, 3, 16])
def test_total_is_the_weighted_sum_of_its_parts(momentum: bool, num_mix: int) -> None:
    losses = small_model(momentum)(views(), plans(num_mix), 0.2)
    total = losses.origin_to_origin + (losses.mix_to_origin + losses.mix_to_mix) / 2
    torch.testing.assert_close(losses.total, total)
    assert losses.local.item() == losses.local_mix.item() == 0
    assert losses.total.requires_grad


def test_local_crops_add_their_two_sums() -> None:
    model = small_model(momentum=True)
    crops, crop_plans = list(views(size=8, seed=2)), list(plans(2, count=4))
    losses = model(views(), plans(), 0.2, crops, crop_plans)
    total = losses.origin_to_origin + (losses.mix_to_origin + losses.mix_to_mix) / 2
    torch.testing.assert_close(losses.total, total + losses.local + losses.local_mix)
    with pytest.raises(ValueError, match="2 local views need as many plans, not 1"):
        model(views(), plans(), 0.2, crops, crop_plans[:1])


@pytest.mark.parametrize("momentum", [True, False])
def test_exact_targets_weigh_each_view_by_its_own_patches(momentum: bool) -> None:
    model, exact = small_model(momentum), small_model(momentum)
    exact.exact_targets = True
    crops, crop_plans = list(views(size=8, seed=2)), list(plans(3, count=4))  # 2, 1, 1 patches; of views 6, 5, 5
    arguments = (views(), plans(3), 0.2, crops, crop_plans)
    equal, found = model(*arguments), exact(*arguments)
    assert torch.equal(found.origin_to_origin, equal.origin_to_origin)
    assert torch.equal(found.local, equal.local)

    queries, keys = (torch.randn(6, 8, generator=torch.Generator().manual_seed(n)) for n in (0, 1))
    shares = exact.shares(plans(3), crop_plans)
    rows = {row.name: row for row in (*PATCHMIX, *LOCAL_CROPS)}
    expected = {
        "mix_to_origin": mix_to_origin(6, 3, shares=(6, 5, 5)),
        "mix_to_mix": mix_to_mix(6, 3, shares=(6, 5, 5)),
        "local_mix": mix_to_origin(6, 3, shares=(2, 1, 1)),
    }
    for name, target in expected.items():
        assert not torch.equal(getattr(found, name), getattr(equal, name))
        row = rows[name]
        for key in row.keys:
            offsets = row.target(shares[row.query], shares[key])
            sparse = exact.target(offsets, 6, queries.device)
            torch.testing.assert_close(
                soft_info_nce(queries, keys, sparse, 0.2), soft_info_nce(queries, keys, target, 0.2)
            )


@pytest.mark.parametrize("num_mix", [1, 2, 4])
def test_exact_targets_change_nothing_where_images_share_patches_evenly(num_mix: int) -> None:
    model = small_model(momentum=True)
    equal = model(views(), plans(num_mix), 0.2)
    model.exact_targets = True
    assert torch.equal(model(views(), plans(num_mix), 0.2).total, equal.total)


def test_mixing_one_image_makes_all_three_contrasts_alike_in_target() -> None:
    # With M = 1 and the same view twice, the mixed contrasts are the plain one.
    model = small_model(momentum=True)
    first, _ = views()
    losses = model((first, first), plans(1), 0.2)
    torch.testing.assert_close(losses.mix_to_origin, losses.origin_to_origin)
    torch.testing.assert_close(losses.mix_to_mix, losses.origin_to_origin)


@pytest.mark.parametrize("momentum", [True, False])
def test_every_trained_parameter_gets_a_gradient_and_no_other(momentum: bool) -> None:
    model = small_model(momentum)
    model(views(), plans(), 0.2).total.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (not name.startswith("momentum")), name


def test_momentum_update_moves_parameters_by_the_formula_and_buffers_not_at_all() -> None:
    model = small_model(momentum=True)
    assert model.momentum_encoder is not None
    with torch.no_grad():
        for parameter in model.encoder.parameters():
            parameter.add_(1.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.update_momentum_encoder(0.75)
    for name, value in model.state_dict().items():
        if name.startswith("momentum_") and name in dict(model.named_parameters()):
            expected = 0.75 * before[name] + 0.25 * before[name.removeprefix("momentum_")]
            torch.testing.assert_close(value, expected)
        else:
            assert torch.equal(value, before[name]), name


def test_momentum_branch_has_no_drop_path_and_the_trained_one_has() -> None:
    model = small_model(momentum=True, drop_path=0.5)
    assert model.momentum_encoder is not None
    assert not any(module.drop_prob for module in model.momentum_encoder.modules() if isinstance(module, DropPath))
    assert any(module.drop_prob for module in model.encoder.modules() if isinstance(module, DropPath))
    model.train()
    first = model.keys_of(views()[0])
    assert torch.equal(first, model.keys_of(views()[0]))


def test_every_branch_and_view_runs_once() -> None:
    """Forward passes counted by BatchNorm itself: method.md's 9 units with momentum, 8 without."""

    def passes(model: ContrastiveModel, head: str) -> int:
        return int(getattr(model, head)[1].num_batches_tracked)

    with_momentum, without = small_model(momentum=True), small_model()
    for model in (with_momentum, without):
        model(views(), plans(), 0.2)
    assert [passes(with_momentum, head) for head in ("projector", "momentum_projector", "predictor")] == [2, 3, 2]
    assert [passes(without, head) for head in ("projector", "predictor")] == [4, 2]


def test_the_table_of_contrasts_is_the_papers() -> None:
    rows = [(row.query, row.keys, row.weight) for row in PATCHMIX]
    assert rows == [("view1", ("view2",), 1.0), ("mixed2", ("view1",), 0.5), ("mixed2", ("mixed1",), 0.5)]


def test_the_same_seed_gives_the_same_model_and_leaves_the_global_state_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    first, second, other = small_model(), small_model(), small_model(seed=1)
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.encoder.pos_embed, other.encoder.pos_embed)


def test_rectangular_and_grey_images_work() -> None:
    model = small_model(channels=1, image_size=(8, 16))
    images = tuple(torch.randn(4, 1, 8, 16) for _ in range(2))
    losses = model(images, plans(3, count=8), 0.2)
    assert math.isfinite(losses.total.item())


def test_losses_are_in_float32_under_bf16_autocast() -> None:
    model = small_model(momentum=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = model(views(), plans(), 0.2)
    assert losses.total.dtype == torch.float32
    exact = model(views(), plans(), 0.2)
    torch.testing.assert_close(losses.total, exact.total, rtol=0.05, atol=0.05)
