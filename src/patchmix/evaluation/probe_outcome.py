"""What a probe found: the grid of heads, which of them is reported, and its figures; as tables and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from torch import Tensor

from patchmix.evaluation.results import Interval, print_table, with_interval
from patchmix.evaluation.scores import accuracies


@dataclass(frozen=True)
class GridEntry:
    """One head: what it reads, its learning rate per 256 images or its C, and its accuracy on held-out training images.

    `holdout_top1` is in per cent; None for a head that diverged.
    """

    pooling: str
    value: float
    holdout_top1: float | None


@dataclass(frozen=True)
class Row:
    """One row of the table: figures of the head that was chosen for this subject."""

    prefix: str
    suffix: str
    title: str
    logits: Tensor
    labels: Tensor

    def scores(self) -> tuple[dict[str, float], dict[str, Interval]]:
        """`top1` and `top5` under this row's names, and their intervals."""
        metrics, intervals = accuracies(self.logits, self.labels)
        return (
            {f"{self.prefix}{name}{self.suffix}": value for name, value in metrics.items()},
            {f"{self.prefix}{name}{self.suffix}": value for name, value in intervals.items()},
        )


@dataclass
class Outcome:
    """All that a probe has to tell. `value_name`: what a grid entry's value is (lr, or C)."""

    value_name: str
    num_held_out: int
    grid: list[GridEntry]
    chosen: GridEntry
    rows: list[Row]
    skipped: dict[str, Any]
    settings: dict[str, Any] = field(default_factory=dict)

    def entries(self) -> list[dict[str, Any]]:
        """The `grid` entry of the result."""
        return [self.entry(each) for each in self.grid]

    def entry(self, head: GridEntry) -> dict[str, Any]:
        """One head as JSON."""
        return {"pooling": head.pooling, self.value_name: head.value, "holdout_top1": head.holdout_top1}

    def print(self, console: Console, metrics: Mapping[str, float], intervals: Mapping[str, Interval]) -> None:
        """The grid, the chosen head marked, and the test figures."""
        values = sorted({each.value for each in self.grid})
        found = {(each.pooling, each.value): each for each in self.grid}
        rows = [
            [pooling, *(self._cell(found.get((pooling, value))) for value in values)]
            for pooling in dict.fromkeys(each.pooling for each in self.grid)
        ]
        title = f"Heads, top-1 % on {self.num_held_out:,} held-out training images; * is reported"
        print_table(console, title, [f"{self.value_name}", *(f"{value:.4g}" for value in values)], rows)
        lines = [
            [row.title, *(with_interval(metrics[name], intervals[name]) for name in row.scores()[0])]
            for row in self.rows
        ]
        print_table(console, "Test images, %, ± 95 % interval", ["", "top-1", "top-5"], lines)

    def _cell(self, entry: GridEntry | None) -> str:
        if entry is None:
            return ""
        text = "diverged" if entry.holdout_top1 is None else f"{entry.holdout_top1:.1f}"
        return text + ("*" if entry == self.chosen else "")


def best(grid: Sequence[GridEntry]) -> GridEntry:
    """The head to report: the highest held-out accuracy, of equal ones the first."""
    return max(grid, key=lambda each: -1.0 if each.holdout_top1 is None else each.holdout_top1)


def available(slices: Mapping[str, slice], poolings: Sequence[str]) -> dict[str, slice]:
    """The poolings asked for that this network has; all that it has, where it has none of them."""
    return {name: slices[name] for name in poolings if name in slices} or dict(slices)
