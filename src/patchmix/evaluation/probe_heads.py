"""Linear heads of a probe: a grid of learning rates × poolings, trained together on the features of one pass.

shapes: n images, h heads of a pooling, c classes, d numbers that the pooling reads
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from patchmix.data.streams import Purpose, keyed_generator

MOMENTUM = 0.9
# Beside fewshot's stream 1, so that no two share numbers.
HEADS_STREAM, HELD_OUT_STREAM = 2, 3
INITIAL_STD = 0.01  # of the weights; biases begin at 0 (as in MoCo v3's linear classification)


@dataclass(frozen=True)
class Head:
    """One of the heads: what it reads, and its learning rate per 256 images."""

    pooling: str
    lr: float


class LinearHeads:
    """Softmax regressions for every pooling and learning rate, by SGD with momentum 0.9 and no weight decay.

    Gradients are written out, (softmax(x·Wᵀ + b) − onehot)ᵀ·x: features from an inference-mode encoder can be
    learned from, and all heads of a pooling are two matrix products a step. Heads do not see each other.

    Args:
        slices: for each pooling, where its numbers lie in the features.
        lrs: learning rates per 256 images.
        sets: copies of the whole grid that learn from different images (`step`'s weights tell them apart).
    """

    def __init__(
        self,
        slices: Mapping[str, slice],
        lrs: Sequence[float],
        num_classes: int,
        *,
        sets: int = 1,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.slices, self.lrs, self.num_classes, self.sets = dict(slices), tuple(lrs), num_classes, sets
        generator = torch.Generator().manual_seed(
            int(keyed_generator(Purpose.SUBSET, seed, HEADS_STREAM).integers(2**63))
        )
        self.weights: dict[str, Tensor] = {}
        self.biases: dict[str, Tensor] = {}
        heads = sets * len(self.lrs)
        for pooling, part in self.slices.items():
            first = INITIAL_STD * torch.randn(num_classes, part.stop - part.start, generator=generator)
            self.weights[pooling] = first.repeat(heads, 1, 1).to(device)  # all begin alike
            self.biases[pooling] = torch.zeros(heads, num_classes, device=device)
        self.momenta = {name: torch.zeros_like(value) for name, value in self._parameters().items()}

    @property
    def heads(self) -> list[Head]:
        """The heads of one set, pooling by pooling."""
        return [Head(pooling, lr) for pooling in self.slices for lr in self.lrs]

    def logits(self, features: Tensor, pooling: str) -> Tensor:
        """[n, all] features to [n, h, c], set by set, in the order of `lrs`."""
        weight, bias = self.weights[pooling], self.biases[pooling]
        found = features[:, self.slices[pooling]] @ weight.flatten(0, 1).T
        return found.view(len(features), *bias.shape) + bias

    def head_logits(self, features: Tensor, pooling: str, number: int) -> Tensor:
        """[n, all] features to [n, c], of one head: those of the first set come first, in the order of `lrs`."""
        part = features[:, self.slices[pooling]]
        return torch.nn.functional.linear(part, self.weights[pooling][number], self.biases[pooling][number])

    def step(self, features: Tensor, labels: Tensor, weights: Tensor, lr_scale: float) -> Tensor:
        """One step of SGD on a batch; returns each head's loss before it, [poolings, h].

        features [n, all] float32; labels int64 [n]; weights [n, sets]: how much an image counts for a set, summing
        to 1 over the batch (0 for those held out from it). The learning rates are multiplied by `lr_scale`.
        """
        rows = torch.arange(len(labels), device=labels.device)
        lrs = torch.tensor(self.lrs, device=features.device).repeat(self.sets) * lr_scale
        each = weights.repeat_interleave(len(self.lrs), dim=1)  # [n, h]
        losses = []
        for pooling, part in self.slices.items():
            scores = torch.log_softmax(self.logits(features, pooling), dim=2)
            losses.append(-(scores[rows, :, labels] * each).sum(dim=0))
            gradient = scores.exp_()
            gradient[rows, :, labels] -= 1
            gradient *= each[:, :, None]
            weight_gradient = gradient.flatten(1).T @ features[:, part]
            self._update(f"weight.{pooling}", weight_gradient.view_as(self.weights[pooling]), lrs[:, None, None])
            self._update(f"bias.{pooling}", gradient.sum(dim=0), lrs[:, None])
        return torch.stack(losses)

    def tensors(self) -> dict[str, Tensor]:
        """All that a checkpoint needs."""
        moments = {f"momentum.{name}": value for name, value in self.momenta.items()}
        return {**self._parameters(), **moments}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """The inverse of `tensors`."""
        for name, value in self.tensors().items():
            value.copy_(tensors[name])

    def _update(self, name: str, gradient: Tensor, lrs: Tensor) -> None:
        momentum = self.momenta[name].mul_(MOMENTUM).add_(gradient)
        self._parameters()[name].sub_(lrs * momentum)

    def _parameters(self) -> dict[str, Tensor]:
        weights = {f"weight.{pooling}": value for pooling, value in self.weights.items()}
        return weights | {f"bias.{pooling}": value for pooling, value in self.biases.items()}


def held_out(labels: Tensor, share: float, seed: int) -> Tensor:
    """Which images choose the head: bool [n], of each class round(share · size), at least one and not all.

    A class of one image keeps it for training. A function of its arguments alone.
    """
    generator = keyed_generator(Purpose.SUBSET, seed, HELD_OUT_STREAM)
    chosen = torch.zeros(len(labels), dtype=torch.bool)
    for label in sorted(set(labels.tolist())):
        members = (labels == label).nonzero()[:, 0]
        count = min(max(1, math.floor(share * len(members) + 0.5)), len(members) - 1)
        chosen[members[torch.from_numpy(generator.permutation(len(members))[:count])]] = True
    return chosen
