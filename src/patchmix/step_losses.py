"""The losses of a step by name: what `model(…)` returns and what is logged."""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

import torch
from torch import Tensor

from patchmix import distributed
from patchmix.contrasts import Contrast


class StepLosses(NamedTuple):
    """Scalars. The parts are the bare cross-entropies; total is their weighted sum."""

    total: Tensor
    origin_to_origin: Tensor
    mix_to_origin: Tensor
    mix_to_mix: Tensor
    local: Tensor
    local_mix: Tensor
    origin_to_mix: Tensor


def by_name(losses: dict[Contrast, Tensor]) -> dict[str, Tensor]:
    """Cross-entropies by name; rows of the same name (a contrast and its mirror image) give their mean."""
    rows: dict[str, list[Tensor]] = defaultdict(list)
    for row, loss in losses.items():
        rows[row.name].append(loss)
    return {name: torch.stack(parts).mean() for name, parts in rows.items()}


def mean_losses(losses: dict[Contrast, Tensor], total: Tensor) -> dict[str, Tensor]:
    """What is logged of a step: {"loss", "loss_origin_to_origin", …}, means over all processes, no gradient.

    losses: bare cross-entropies by row. total: their weighted sum.
    """
    found = by_name(losses)
    names = [name for name in StepLosses._fields if name in found]
    means = distributed.mean_over_ranks(torch.stack([total, *(found[name] for name in names)]))
    return dict(zip(["loss", *(f"loss_{name}" for name in names)], means, strict=True))
