"""The heads of a probe, against autograd with torch.optim.SGD; who is held out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchmix.evaluation.probe_heads import LinearHeads, held_out

SLICES = {"token": slice(0, 6), "both": slice(0, 10)}
LRS = (0.1, 2.0)


def batches(num_steps: int = 5, seed: int = 0) -> list[tuple[Tensor, Tensor, Tensor]]:
    """(features, labels, weights of two sets: all images; all but the first two)."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for _ in range(num_steps):
        features = torch.randn(8, 10, generator=generator)
        kept = torch.ones(8)
        kept[:2] = 0
        weights = torch.stack([torch.full((8,), 1 / 8), kept / kept.sum()], dim=1)
        made.append((features, torch.randint(3, (8,), generator=generator), weights))
    return made


@pytest.mark.parametrize("pooling", list(SLICES))
@pytest.mark.parametrize("place", range(2))
@pytest.mark.parametrize("which", range(2))
def test_every_head_learns_as_by_autograd_and_sgd(pooling: str, place: int, which: int) -> None:
    heads = LinearHeads(SLICES, LRS, 3, sets=2, seed=7)
    number = which * len(LRS) + place
    plain = nn.Linear(heads.weights[pooling].shape[2], 3)
    with torch.no_grad():
        plain.weight.copy_(heads.weights[pooling][number])
        plain.bias.zero_()
    optimizer = torch.optim.SGD(plain.parameters(), lr=LRS[place], momentum=0.9)
    for count, (features, labels, weights) in enumerate(batches()):
        scale = 1 - count / 5
        for group in optimizer.param_groups:
            group["lr"] = LRS[place] * scale
        losses = heads.step(features, labels, weights, scale)
        kept = weights[:, which] > 0
        loss = F.cross_entropy(plain(features[:, SLICES[pooling]])[kept], labels[kept])
        torch.testing.assert_close(losses[list(SLICES).index(pooling), number], loss.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    torch.testing.assert_close(heads.weights[pooling][number], plain.weight.detach())
    torch.testing.assert_close(heads.biases[pooling][number], plain.bias.detach())


def test_heads_go_on_as_if_they_had_not_stopped() -> None:
    whole, first = LinearHeads(SLICES, LRS, 3, sets=2), LinearHeads(SLICES, LRS, 3, sets=2)
    steps = batches()
    for each in steps:
        whole.step(*each, 1.0)
    for each in steps[:2]:
        first.step(*each, 1.0)
    second = LinearHeads(SLICES, LRS, 3, sets=2, seed=99)
    second.load({name: value.clone() for name, value in first.tensors().items()})
    for each in steps[2:]:
        second.step(*each, 1.0)
    for name, value in whole.tensors().items():
        assert value.equal(second.tensors()[name]), name


def test_features_of_inference_mode_can_be_learned_from() -> None:
    heads = LinearHeads({"default": slice(0, 10)}, (1.0,), 3)
    with torch.inference_mode():
        features = torch.randn(8, 10)
    labels = torch.arange(8) % 3
    before = float(heads.step(features, labels, torch.full((8, 1), 1 / 8), 1.0))
    for _ in range(20):
        after = float(heads.step(features, labels, torch.full((8, 1), 1 / 8), 1.0))
    assert after < before / 2


def test_held_out_are_a_share_of_every_class_and_never_all_of_it() -> None:
    labels = torch.tensor([0] * 40 + [1] * 3 + [2])
    chosen = held_out(labels, 0.1, seed=0)
    assert labels[chosen].bincount(minlength=3).tolist() == [4, 1, 0]
    assert chosen.equal(held_out(labels, 0.1, seed=0))
    assert not chosen.equal(held_out(labels, 0.1, seed=1))
    assert held_out(labels, 0.99, seed=0).sum() == 39 + 2
