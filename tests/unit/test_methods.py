"""The rivals and the ablations: each method's step against its paper's formula written out."""

from __future__ import annotations

import dataclasses
import math
from typing import Any, get_args

import pytest
import torch
import torch.nn.functional as F
from tests.models import SPEC
from torch import Tensor

from patchmix.config import Config, DataConfig, MethodConfig, ModelConfig, ViewsConfig
from patchmix.config.training import MethodName, Mixer
from patchmix.contrasts import METHODS, table
from patchmix.cost import forward_units
from patchmix.losses import paired_info_nce
from patchmix.method import ContrastiveModel, build_model
from patchmix.mixing import BlendPlan, MixPlan, Plan
from patchmix.step_losses import StepLosses

TEMPERATURE = 0.2
BATCH = 6


def config_of(name: str, **options: Any) -> Config:
    crops = options.pop("num_local_crops", 0)
    return Config(
        data=DataConfig(image_size=16),
        model=ModelConfig(drop_path=0.0, projector_width=32, projection_size=8, patch_size=4),
        method=MethodConfig(**{"name": name, "momentum": 0.9, **options}),
        views=ViewsConfig(num_local_crops=crops, local_size=8),
    )


def model_of(name: str, **options: Any) -> ContrastiveModel:
    return build_model(config_of(name, **options), SPEC).double()


def views(size: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(BATCH, 3, size, size, generator=generator, dtype=torch.float64) for _ in range(2))
    return first, second


def plans() -> tuple[Plan, Plan]:
    generator = torch.Generator().manual_seed(1)
    return MixPlan.draw(16, 2, 4, generator), MixPlan.draw(16, 2, 4, generator)


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


@pytest.mark.parametrize(
    ("name", "momentum", "units"),
    [
        ("patchmix", 0.99, 9),
        ("patchmix", None, 8),
        ("moco-v3", 0.99, 8),
        ("moco-v3", None, 6),
        ("patchmix-lean", 0.99, 11),
        ("patchmix-lean", None, 9),
        ("simclr", None, 6),
        ("simclr", 0.99, 6),
        ("sdmp", 0.99, 12),
        ("unmix", 0.99, 12),
    ],
)
def test_cost_in_forward_passes(name: str, momentum: float | None, units: float) -> None:
    assert forward_units(config_of(name, momentum=momentum)) == units


def test_local_crops_cost_by_their_patches() -> None:
    share = 4 / 16
    assert forward_units(config_of("patchmix", num_local_crops=2)) == pytest.approx(9 + 3 * 2 * 2 * share)
    assert forward_units(config_of("moco-v3", num_local_crops=2)) == pytest.approx(8 + 3 * 2 * share)
    assert forward_units(config_of("patchmix-lean", num_local_crops=2)) == pytest.approx(8 + 3 * 2 * share)
    unknown = dataclasses.replace(config_of("patchmix", num_local_crops=1), data=DataConfig())
    with pytest.raises(ValueError, match="whose size is not known"):
        forward_units(unknown)
    assert forward_units(unknown, (16, 16)) == pytest.approx(9 + 6 * share)


def test_cost_is_what_a_step_does() -> None:
    """Images that pass through an encoder, three for each with gradient."""
    for name in METHODS:
        model = model_of(name)
        seen = 0.0

        def count(_: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            nonlocal seen
            seen += len(inputs[0]) * (3 if output.requires_grad else 1)

        for encoder in (model.encoder, model.momentum_encoder):
            if encoder is not None:
                encoder.register_forward_hook(count)
        model(views(), plans(), TEMPERATURE)
        assert seen / BATCH == forward_units(config_of(name)), name
