"""The encoder passes of one step, in their order, cut into stages.

A query's loss needs its own pass and the keys that it is compared with, nothing else of the step. So after each stage
the losses of some queries are complete, and their gradients can be taken before the next pass begins: then the
activations of one view at a time are in memory, not those of all (decision 0026). The numbers are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from torch import Tensor

from patchmix.contrasts import Contrast


class Stage(NamedTuple):
    """Views to run, one after the other, and the rows of the table whose losses are then complete."""

    views: tuple[str, ...]
    rows: tuple[Contrast, ...]


def stages(views: Iterable[str], contrasts: Sequence[Contrast]) -> Iterator[Stage]:
    """Cut the passes of these views, in this order, where a query has all its keys.

    Views that no row names do not run.
    """
    named = {view for row in contrasts for view in (row.query, *row.keys)}
    waiting = {row.query: [other for other in contrasts if other.query == row.query] for row in contrasts}
    done: set[str] = set()
    part: list[str] = []
    for view in views:
        if view not in named:
            continue
        done.add(view)
        part.append(view)
        complete = [
            query for query, rows in waiting.items() if done.issuperset([query, *(k for r in rows for k in r.keys)])
        ]
        if complete:
            yield Stage(tuple(part), tuple(row for query in complete for row in waiting.pop(query)))
            part = []


class Passes:
    """One step on its way: what has been computed so far, and the stages to come.

    (No dataclass: Fabric copies those that it hands on.)

    Args:
        inputs: the images of each view; they leave when it has run.
        shares: how much of an image each of its groups is, by view.
        stages: what is to come.
        batch_size: N.
        temperature: τ.
    """

    def __init__(
        self,
        inputs: dict[str, Tensor],
        shares: dict[str, tuple[int | float, ...]],
        stages: list[Stage],
        batch_size: int,
        temperature: float,
    ) -> None:
        self.inputs, self.shares, self.stages = inputs, shares, stages
        self.batch_size, self.temperature = batch_size, temperature
        self.queries: dict[str, Tensor] = {}  # predictor outputs; they leave when their losses are taken
        self.keys: dict[str, Tensor] = {}  # projections of all processes, without gradient
        self.losses: dict[Contrast, Tensor] = {}  # the bare cross-entropies by row, without gradient

    @property
    def answering(self) -> frozenset[str]:
        """The views that are keys of a row still to come."""
        return frozenset(key for stage in self.stages for row in stage.rows for key in row.keys)

    @property
    def asking(self) -> frozenset[str]:
        """The views that are queries of a row still to come."""
        return frozenset(row.query for stage in self.stages for row in stage.rows)
