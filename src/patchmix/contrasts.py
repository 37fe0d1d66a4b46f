"""A method as data: a table of contrasts (method.md, "Loss of one step").

Each row says which view asks (query), which views answer (keys), what the right answer is (target) and how much it
counts (weight). Views: view1, view2 are x¹, x²; mixed1, mixed2 are x̃¹, x̃²; locals, mixed_locals all local crops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from patchmix.targets import Offsets, Shares, mix_to_mix_offsets, mix_to_origin_offsets, origin_offsets


class Contrast(NamedTuple):
    """One row of a method's table; the loss is summed over the keys, then weighted."""

    name: str
    query: str
    keys: tuple[str, ...]
    target: Callable[[Shares, Shares], Offsets]  # of the groups' shares of query and key view
    weight: float


PATCHMIX = (
    Contrast("origin_to_origin", "view1", ("view2",), origin_offsets, 1.0),
    Contrast("mix_to_origin", "mixed2", ("view1",), mix_to_origin_offsets, 0.5),
    Contrast("mix_to_mix", "mixed2", ("mixed1",), mix_to_mix_offsets, 0.5),
)
# Rows of local crops; a mean over the C * N rows is the (1/C)·Σ of method.md.
LOCAL_CROPS = (
    Contrast("local", "locals", ("view1", "view2"), origin_offsets, 1.0),
    Contrast("local_mix", "mixed_locals", ("view1", "view2"), mix_to_origin_offsets, 1.0),
)


class StepLosses(NamedTuple):
    """Scalars. The parts are the bare cross-entropies; total is their weighted sum."""

    total: Tensor
    origin_to_origin: Tensor
    mix_to_origin: Tensor
    mix_to_mix: Tensor
    local: Tensor
    local_mix: Tensor
