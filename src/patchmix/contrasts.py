"""Methods as data: tables of contrasts (method.md, "Loss of one step"; docs/methods.md). No torch.

Each row says which view asks (query), which views answer (keys), what the right answer is (target) and how much it
counts (weight). Views: view1, view2 are x¹, x²; mixed1, mixed2 are x̃¹, x̃²; locals, mixed_locals all local crops.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from patchmix.offsets import (
    Offsets,
    Shares,
    mix_to_mix_offsets,
    mix_to_origin_offsets,
    origin_offsets,
    origin_to_mix_offsets,
    overlap_offsets,
)

if TYPE_CHECKING:
    from patchmix.config import MethodConfig

WHOLE = ("view1", "view2")
OTHER = {"view1": "view2", "view2": "view1", "mixed1": "mixed2", "mixed2": "mixed1"}


class Contrast(NamedTuple):
    """One row of a method's table; the loss is summed over the keys, then weighted."""

    name: str  # the loss that it is part of; rows of the same name are logged as their mean
    query: str
    keys: tuple[str, ...]
    target: Callable[[Shares, Shares], Offsets]  # of the groups' shares of query and key view
    weight: float

    @property
    def mirrored(self) -> Contrast:
        """The same contrast with the two views exchanged."""
        return self._replace(query=OTHER[self.query], keys=tuple(OTHER[key] for key in self.keys))


ORIGIN = Contrast("origin_to_origin", "view1", ("view2",), origin_offsets, 1.0)
# Rows of local crops; a mean over the C * N rows is the (1/C)·Σ of method.md.
LOCAL = Contrast("local", "locals", WHOLE, origin_offsets, 1.0)
LOCAL_MIX = Contrast("local_mix", "mixed_locals", WHOLE, mix_to_origin_offsets, 1.0)

PATCHMIX = (
    ORIGIN,
    Contrast("mix_to_origin", "mixed2", ("view1",), mix_to_origin_offsets, 0.5),
    Contrast("mix_to_mix", "mixed2", ("mixed1",), mix_to_mix_offsets, 0.5),
)
LOCAL_CROPS = (LOCAL, LOCAL_MIX)
MOCO_V3 = (ORIGIN, ORIGIN.mirrored)


class Method(NamedTuple):
    """A method: its table, and how its mixed views are made.

    contrasts: of the two views and what is mixed of them.
    local: of local crops, where there are any.
    mixers: how views are mixed, where the options do not say it; several: each step draws one.
    one_plan: both views of a step are mixed alike.
    paired: (SimCLR) both sides of a contrast learn, negatives come from both views, and there is no predictor.
    mixed_crops_instead: the contrasts that mixed local crops replace where there are local crops.
    """

    contrasts: tuple[Contrast, ...]
    local: tuple[Contrast, ...] = (LOCAL,)
    mixers: tuple[str, ...] = ("patches",)
    one_plan: bool = False
    paired: bool = False
    mixed_crops_instead: tuple[str, ...] = ()


METHODS: dict[str, Method] = {
    "patchmix": Method(PATCHMIX, LOCAL_CROPS),
    # The paper's graded similarities from fewer passes: both views ask, and one mixed view, or mixed local crops.
    "patchmix-lean": Method(
        (*MOCO_V3, *(Contrast("mix_to_origin", "mixed2", (view,), mix_to_origin_offsets, 0.5) for view in WHOLE)),
        (LOCAL_MIX,),
        mixed_crops_instead=("mix_to_origin",),
    ),
    "moco-v3": Method(MOCO_V3),
    "simclr": Method(tuple(row._replace(weight=0.5) for row in MOCO_V3), local=(), paired=True),
    "sdmp": Method(
        (
            *MOCO_V3,
            Contrast("mix_to_origin", "mixed1", ("view2",), mix_to_origin_offsets, 1.0),
            Contrast("mix_to_mix", "mixed1", ("mixed2",), overlap_offsets, 1.0),
        ),
        mixers=("mixup", "cutmix", "patches"),
        one_plan=True,
    ),
    "unmix": Method(
        (
            *MOCO_V3,
            Contrast("mix_to_origin", "mixed1", ("view2",), mix_to_origin_offsets, 1.0),
            Contrast("origin_to_mix", "view2", ("mixed1",), origin_to_mix_offsets, 1.0),
        ),
        mixers=("mixup", "cutmix"),
    ),
}


def table(config: MethodConfig, crops: bool) -> tuple[Contrast, ...]:
    """The rows that a step with these options computes, in the order of the method's table.

    crops: whether there are local crops.
    """
    method = METHODS[config.name]
    weights = {
        "mix_to_origin": config.mix_to_origin_weight,
        "mix_to_mix": config.mix_to_mix_weight,
        "local_mix": config.local_mix_weight,
    }
    rows = [row for row in method.contrasts if not (crops and row.name in method.mixed_crops_instead)]
    if config.symmetric:
        rows += [row.mirrored for row in rows if row.mirrored not in rows]
    rows += method.local if crops else ()
    given = [(row, weights.get(row.name)) for row in rows]
    weighed = [row if weight is None else row._replace(weight=weight) for row, weight in given]
    return tuple(row for row in weighed if row.weight > 0)


def mixes(config: MethodConfig, crops: bool) -> bool:
    """Whether a step with these options has mixed views at all (of one image only, if num_mix is 1)."""
    return any("mixed" in view for row in table(config, crops) for view in (row.query, *row.keys))


def mixers(config: MethodConfig) -> tuple[str, ...]:
    """How views are mixed: as the options say, else as the method does."""
    return config.mixers or METHODS[config.name].mixers


def has_momentum(config: MethodConfig) -> bool:
    """Whether keys come from a momentum encoder: as the options say, but never where both sides learn."""
    return config.momentum is not None and not METHODS[config.name].paired


def num_candidates(config: MethodConfig, batch_size: int) -> int:
    """Images among which a query finds its own, of which guessing is as good as any: all keys; for SimCLR 2N - 1."""
    return 2 * batch_size - 1 if METHODS[config.name].paired else batch_size
