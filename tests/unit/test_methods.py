"""The rivals and the ablations: each method's step against its paper's formula written out."""

from __future__ import annotations

import math
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from tests.methods import BATCH, TEMPERATURE, config_of, model_of, plans, views
from torch import Tensor

from patchmix.config import MethodConfig
from patchmix.config.training import MethodName, Mixer
from patchmix.contrasts import METHODS, table
from patchmix.errors import UserError
from patchmix.losses import paired_info_nce
from patchmix.method import ContrastiveModel
from patchmix.mixing import BlendPlan, MixPlan, Plan
from patchmix.schedules import settings_at
from patchmix.step_losses import StepLosses


def query(model: ContrastiveModel, images: Tensor) -> Tensor:
    found: Tensor = F.normalize(model.predictor(model.projector(model.encoder(images))))
    return found


def key(model: ContrastiveModel, images: Tensor) -> Tensor:
    assert model.momentum_encoder is not None
    assert model.momentum_projector is not None
    found: Tensor = F.normalize(model.momentum_projector(model.momentum_encoder(images)))
    return found


def by_hand(queries: Tensor, keys: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy at one key a query, as MoCo v3's Algorithm 1 has it (without its factor 2τ)."""
    return F.cross_entropy(queries @ keys.T / TEMPERATURE, labels)


OWN = torch.arange(BATCH)
NEXT = (OWN + 1) % BATCH
BEFORE = (OWN - 1) % BATCH


def test_moco_v3_is_symmetric() -> None:
    """arXiv:2104.02057, Algorithm 1: ctr(q1, k2) + ctr(q2, k1)."""
    model, (first, second) = model_of("moco-v3"), views()
    losses = model((first, second), plans(), TEMPERATURE)
    expected = by_hand(query(model, first), key(model, second), OWN) + by_hand(
        query(model, second), key(model, first), OWN
    )
    torch.testing.assert_close(losses.total, expected)
    torch.testing.assert_close(losses.origin_to_origin, expected / 2)
    assert losses.mix_to_origin == losses.mix_to_mix == losses.local == 0


@pytest.mark.parametrize("plan", [BlendPlan((0.7, 0.3)), BlendPlan((0.2, 0.8))])
def test_sdmp_adds_mix_to_source_and_mix_to_mix(plan: BlendPlan) -> None:
    """CVPR 2022: λ·ctr(q̃, k_i) + (1 - λ)·ctr(q̃, k_partner), and the mixed keys by what they have in common.

    With the next image as partner two neighbours share one image, so common is min(λ, 1 - λ) on either side.
    """
    model, (first, second) = model_of("sdmp"), views()
    losses = model((first, second), (plan, plan), TEMPERATURE)
    share = plan.shares[0]
    mixed = query(model, share * first + (1 - share) * first.roll(-1, 0))
    sources = key(model, second)
    to_source = share * by_hand(mixed, sources, OWN) + (1 - share) * by_hand(mixed, sources, NEXT)
    answers = key(model, share * second + (1 - share) * second.roll(-1, 0))
    common = min(share, 1 - share)
    to_mix = by_hand(mixed, answers, OWN) + common * (by_hand(mixed, answers, NEXT) + by_hand(mixed, answers, BEFORE))
    torch.testing.assert_close(losses.mix_to_origin, to_source)
    torch.testing.assert_close(losses.mix_to_mix, to_mix / (1 + 2 * common))
    torch.testing.assert_close(losses.total, 2 * losses.origin_to_origin + to_source + to_mix / (1 + 2 * common))


def test_unmix_compares_a_mixture_with_the_other_view_both_ways() -> None:
    """arXiv:2003.05438: λ·L(mixture, view) + (1 - λ)·L(mixture of the partner, view), L symmetric, plus the plain L."""
    plan = BlendPlan((0.6, 0.4))
    model, (first, second) = model_of("unmix"), views()
    losses = model((first, second), (plan, plan), TEMPERATURE)
    mixture = 0.6 * first + 0.4 * first.roll(-1, 0)
    asks, answers = query(model, mixture), key(model, second)
    torch.testing.assert_close(
        losses.mix_to_origin, 0.6 * by_hand(asks, answers, OWN) + 0.4 * by_hand(asks, answers, NEXT)
    )
    asks, answers = query(model, second), key(model, mixture)
    torch.testing.assert_close(
        losses.origin_to_mix, 0.6 * by_hand(asks, answers, OWN) + 0.4 * by_hand(asks, answers, BEFORE)
    )
    parts = 2 * losses.origin_to_origin + losses.mix_to_origin + losses.origin_to_mix
    torch.testing.assert_close(losses.total, parts)


def plain_nt_xent(first: Tensor, second: Tensor) -> Tensor:
    """arXiv:2002.05709, equation 1, as a loop over the 2N images."""
    both = F.normalize(torch.cat([first, second]))
    losses = []
    for row in range(len(both)):
        partner = (row + len(first)) % len(both)
        scores = [both[row] @ both[other] / TEMPERATURE for other in range(len(both)) if other != row]
        losses.append(-(both[row] @ both[partner] / TEMPERATURE) + torch.stack(scores).logsumexp(0))
    return torch.stack(losses).mean()


def test_simclr_equals_the_papers_loop_and_both_sides_learn() -> None:
    model, (first, second) = model_of("simclr"), views()
    assert model.momentum_encoder is None
    projections = [model.projector(model.encoder(view)) for view in (first, second)]
    total = model((first, second), plans(), TEMPERATURE).total
    expected = plain_nt_xent(*projections)
    torch.testing.assert_close(total, expected)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for found, wanted in zip(torch.autograd.grad(total, trained), torch.autograd.grad(expected, trained), strict=True):
        torch.testing.assert_close(found, wanted)
    own, other = (torch.randn(4, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    gradients = torch.autograd.grad(paired_info_nce(own, other, TEMPERATURE), (own, other))
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_the_lean_form_asks_one_mixed_view_for_both_whole_ones() -> None:
    model, (first, second) = model_of("patchmix-lean"), views()
    whole = plans()
    losses = model((first, second), whole, TEMPERATURE)
    asks = query(model, whole[1].mix(second))
    expected = [
        (by_hand(asks, key(model, view), OWN) + by_hand(asks, key(model, view), NEXT)) / 2 for view in (first, second)
    ]
    torch.testing.assert_close(losses.mix_to_origin, (expected[0] + expected[1]) / 2)
    torch.testing.assert_close(losses.total, 2 * losses.origin_to_origin + losses.mix_to_origin)


def test_local_crops_take_the_mixed_views_place_in_the_lean_form() -> None:
    rows = {row.name for row in table(MethodConfig(name="patchmix-lean"), crops=True)}
    assert rows == {"origin_to_origin", "local_mix"}


@pytest.mark.parametrize("momentum", [0.9, None])
@pytest.mark.parametrize("crops", [0, 2])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_takes_a_step_with_and_without_momentum_and_crops(
    name: str, crops: int, momentum: float | None
) -> None:
    model = model_of(name, momentum=momentum, num_local_crops=crops)
    local = list(views(8))[:crops]
    local_plans: list[Plan] = [MixPlan.draw(4, 2, 4, torch.Generator().manual_seed(n)) for n in range(crops)]
    losses = model(views(), plans(), TEMPERATURE, local, local_plans)
    losses.total.backward()
    assert math.isfinite(losses.total.item())
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_the_options_name_the_methods_and_mixers_that_there_are() -> None:
    assert set(get_args(MethodName)) == set(METHODS)
    assert {mixer for method in METHODS.values() for mixer in method.mixers} <= set(get_args(Mixer))
    assert {row.name for method in METHODS.values() for row in (*method.contrasts, *method.local)} <= set(
        StepLosses._fields
    )


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["origin_to_origin", "mix_to_origin", "mix_to_mix"]),
        ({"mix_to_mix_weight": 0.0}, ["origin_to_origin", "mix_to_origin"]),
        ({"mix_to_origin_weight": 0.0}, ["origin_to_origin", "mix_to_mix"]),
        ({"mix_to_origin_weight": 0.0, "mix_to_mix_weight": 0.0}, ["origin_to_origin"]),
        ({"symmetric": True}, ["origin_to_origin", "mix_to_origin", "mix_to_mix"] * 2),
    ],
)
def test_ablations_leave_rows_out_or_add_their_mirror_images(options: dict[str, Any], names: list[str]) -> None:
    rows = table(MethodConfig(**options), crops=False)
    assert [row.name for row in rows] == names
    assert len({(row.query, row.keys) for row in rows}) == len(rows)
    losses = model_of("patchmix", **options)(views(), plans(), TEMPERATURE)
    parts = sum(row.weight * getattr(losses, row.name) for row in rows)
    torch.testing.assert_close(losses.total, parts)


def test_what_is_left_out_is_not_computed() -> None:
    model = model_of("patchmix", mix_to_origin_weight=0.0, mix_to_mix_weight=0.0)
    passes = model.begin(views(), plans(), TEMPERATURE)
    assert set(passes.inputs) == {"view1", "view2"}


def test_the_symmetric_form_is_both_directions_by_hand() -> None:
    model, (first, second), (one, two) = model_of("patchmix", symmetric=True), views(), plans()
    total = torch.zeros((), dtype=torch.float64)
    for here, there, ours, others in ((first, second, one, two), (second, first, two, one)):
        asks, source, answers = query(model, others.mix(there)), key(model, here), key(model, ours.mix(here))
        total += by_hand(query(model, here), key(model, there), OWN)
        total += (by_hand(asks, source, OWN) + by_hand(asks, source, NEXT)) / 4
        graded = by_hand(asks, answers, OWN) / 2 + (by_hand(asks, answers, NEXT) + by_hand(asks, answers, BEFORE)) / 4
        total += graded / 2
    torch.testing.assert_close(model((first, second), (one, two), TEMPERATURE).total, total)


def test_without_momentum_keys_are_those_of_the_trained_branch_without_gradient() -> None:
    model, (first, second) = model_of("moco-v3", momentum=None), views()
    projections = [F.normalize(model.projector(model.encoder(view))) for view in (first, second)]
    total = model((first, second), plans(), TEMPERATURE).total
    expected = by_hand(query(model, first), projections[1].detach(), OWN)
    expected = expected + by_hand(query(model, second), projections[0].detach(), OWN)
    torch.testing.assert_close(total, expected)
    weight = model.predictor[0].weight
    torch.testing.assert_close(torch.autograd.grad(total, weight)[0], torch.autograd.grad(expected, weight)[0])


def test_temperature_goes_along_a_cosine_to_its_final_value() -> None:
    config = config_of("patchmix", temperature=0.1, temperature_final=0.3)
    steps = 10 * config.optim.epochs
    found = [settings_at(step, config, 10).temperature for step in (0, steps // 2, steps - 1)]
    assert found == pytest.approx([0.1, 0.2, 0.3], abs=1e-3)
    assert settings_at(5, config_of("patchmix"), 10).temperature == 0.2


def test_simclr_has_no_momentum_encoder_and_no_targets_to_smooth() -> None:
    assert settings_at(3, config_of("simclr"), 10).momentum is None
    with pytest.raises(UserError, match="simclr has no targets to smooth"):
        MethodConfig(name="simclr", smoothing=0.1)
