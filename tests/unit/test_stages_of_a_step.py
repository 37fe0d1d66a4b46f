"""A step in stages: the same losses and gradients as all at once, in less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.models import small_model
from torch import Tensor

from patchmix.contrasts import LOCAL_CROPS, PATCHMIX, Contrast
from patchmix.method import ContrastiveModel, StageLoss
from patchmix.mixing import MixPlan
from patchmix.models import in_parts
from patchmix.offsets import origin_offsets
from patchmix.passes import Passes, stages

VIEWS = ("view1", "view2", "mixed1", "mixed2", "locals", "mixed_locals")


def test_the_papers_step_has_a_stage_for_each_query() -> None:
    cut = list(stages(VIEWS, PATCHMIX + LOCAL_CROPS))
    assert [stage.views for stage in cut] == [
        ("view1", "view2"),
        ("mixed1", "mixed2"),
        ("locals",),
        ("mixed_locals",),
    ]
    assert [[row.name for row in stage.rows] for stage in cut] == [
        ["origin_to_origin"],
        ["mix_to_origin", "mix_to_mix"],
        ["local"],
        ["local_mix"],
    ]


def test_a_query_waits_for_its_last_key_and_views_that_nobody_names_do_not_run() -> None:
    symmetric = (
        Contrast("first", "view1", ("view2",), origin_offsets, 1.0),
        Contrast("second", "view2", ("view1",), origin_offsets, 1.0),
    )
    (only,) = stages(VIEWS, symmetric)
    assert only.views == ("view1", "view2")
    assert only.rows == symmetric


Arguments = tuple[tuple[Tensor, Tensor], tuple[MixPlan, MixPlan], float, list[Tensor], list[MixPlan]]


def step_of(dtype: torch.dtype = torch.float32, batch: int = 6) -> Arguments:
    """Arguments of a step with two crops an image."""
    generator = torch.Generator().manual_seed(0)
    views = tuple(torch.randn(batch, 3, 16, 16, generator=generator, dtype=dtype) for _ in range(2))
    crops = [torch.randn(batch, 3, 8, 8, generator=generator, dtype=dtype) for _ in range(2)]
    plans = tuple(MixPlan.draw(16, 2, 4, generator) for _ in range(2))
    return (views[0], views[1]), (plans[0], plans[1]), 0.2, crops, [MixPlan.draw(4, 2, 4, generator) for _ in range(2)]


def gradients(model: ContrastiveModel) -> dict[str, Tensor]:
    return {name: value.grad for name, value in model.named_parameters() if value.grad is not None}


def in_stages(model: ContrastiveModel, passes: Passes) -> Tensor:
    module, total = StageLoss(model), torch.zeros((), dtype=next(model.parameters()).dtype)
    while passes.stages:
        loss = module(passes)
        loss.backward()
        total = total + loss.detach()
    return total


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("momentum", [True, False])
def test_stages_give_the_losses_gradients_and_statistics_of_all_at_once(
    momentum: bool, recompute: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(in_parts, "CACHED", 17 * 4 * 24 * 4 * 2)  # two images a part
    whole = small_model(momentum).double()
    staged = copy.deepcopy(whole)
    staged.recompute = recompute
    expected = whole(*step_of(torch.float64))
    expected.total.backward()
    passes = staged.begin(*step_of(torch.float64))
    total = in_stages(staged, passes)
    torch.testing.assert_close(total, expected.total.detach())
    for row, loss in passes.losses.items():
        torch.testing.assert_close(loss, getattr(expected, row.name).detach())
    found = gradients(staged)
    assert found.keys() == gradients(whole).keys()
    for name, gradient in gradients(whole).items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-9, atol=1e-12, msg=name)
    buffers = dict(staged.named_buffers())
    for name, buffer in whole.named_buffers():
        torch.testing.assert_close(buffers[name], buffer, msg=name)


def test_what_is_computed_again_drops_the_same_paths() -> None:
    plain = small_model(drop_path=0.5)
    again = copy.deepcopy(plain)
    again.recompute = True
    for model in (plain, again):
        torch.manual_seed(3)
        in_stages(model, model.begin(*step_of()))
    for name, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(again)[name], gradient, msg=name)


def test_after_a_stage_only_keys_are_left_of_it() -> None:
    model = small_model(momentum=True)
    passes = model.begin(*step_of())
    model.advance(passes)
    assert not passes.queries
    assert set(passes.keys) == {"view1", "view2"}
    assert set(passes.inputs) == {"mixed1", "mixed2", "locals", "mixed_locals"}
    assert not any(key.requires_grad for key in passes.keys.values())


def test_activations_that_are_computed_again_are_not_kept() -> None:
    """Bytes that autograd keeps for the backward pass of the encoder, counted by torch's own hooks."""

    def kept(recompute: bool) -> int:
        model, total = small_model(), 0
        model.recompute = recompute

        def count(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.nbytes
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model.encode(model.encoder, torch.randn(8, 3, 16, 16))
        return total

    assert kept(recompute=True) * 5 < kept(recompute=False)


def test_parts_are_as_many_as_keep_activations_in_the_cache() -> None:
    spec = small_model().spec
    assert spec is not None
    images = torch.zeros(128, 3, 16, 16)
    bytes_an_image = 17 * 4 * 24 * 4
    assert in_parts.num_parts(spec, images) == 1
    assert 128 * bytes_an_image < in_parts.CACHED
    many = torch.zeros(2 * (in_parts.CACHED // bytes_an_image) + 1, 3, 16, 16)
    assert in_parts.num_parts(spec, many) == 3
    assert in_parts.num_parts(spec, many.to("meta")) == 1
    assert in_parts.num_parts(spec, many.to("meta"), recompute=True) == in_parts.LEAST_PARTS
