"""Plots of a comparison as inline SVG in the page's colours (reporting/plots.py): curves with bands, and intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from markupsafe import Markup
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from patchmix.comparing.summary import signed
from patchmix.reporting.plots import FIRST, LIMIT, MUTED, SECOND, STYLE, Range, draw_intervals, svg

# Colours beside those of reports; comparison.css says what they are on the page.
THIRD, FOURTH, FIFTH = "#010209", "#01020a", "#01020b"
MORE = {THIRD: "third", FOURTH: "fourth", FIFTH: "fifth"}
COLOURS = (FIRST, SECOND, THIRD, FOURTH, FIFTH, LIMIT)
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1.5, 1.5)))  # of the next six settings, and the next


@dataclass(frozen=True)
class Band:
    """A curve's mean over seeds, between the lowest and the highest; x in millions of encoder passes."""

    label: str
    x: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


def bands(curves: Mapping[str, Sequence[Sequence[Sequence[float]]]]) -> list[Band]:
    """{setting: [curve of each seed: [[encoder passes, value]]]} as bands, at the places that all seeds have."""
    found = []
    for label, seeds in curves.items():
        by_seed = [{float(x): float(y) for x, y in curve} for curve in seeds if curve]
        places = sorted(set.intersection(*(set(each) for each in by_seed))) if by_seed else []
        values = [[each[place] for each in by_seed] for place in places]
        if places:
            mean = [sum(each) / len(each) for each in values]
            low, high = [min(each) for each in values], [max(each) for each in values]
            found.append(Band(label, [place / 1e6 for place in places], mean, low, high))
    return found


def band_plot(found: Sequence[Band], *, ylabel: str) -> Markup:
    """The curves, each with its band."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 3.9), layout="constrained")
        axes = figure.add_subplot()
        for number, band in enumerate(found):
            colour, dashes = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
            axes.fill_between(band.x, band.low, band.high, color=colour, alpha=0.16, linewidth=0)
            axes.plot(band.x, band.mean, color=colour, label=band.label, linestyle=dashes)
        axes.set_xlabel("encoder passes, millions of images")
        axes.set_ylabel(ylabel)
        axes.margins(x=0.01)
        axes.grid(visible=False, axis="x")
        axes.xaxis.set_major_locator(MaxNLocator(8))
        axes.legend(frameon=False, fontsize=9, labelcolor="linecolor", ncols=2 if len(found) > 6 else 1)
        return _coloured(figure)


@dataclass(frozen=True)
class Difference:
    """A mean difference to the reference, with its interval if there is one."""

    label: str
    value: float
    interval: tuple[float, float] | None


def difference_plot(rows: Sequence[Difference], *, xlabel: str) -> Markup:
    """A dot with its interval for each setting, beside a line at no difference; strong where they do not meet."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.4, 0.85 + 0.42 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        axes.axvline(0, color=LIMIT, linestyle=(0, (4, 3)), linewidth=1.2)
        ranges = [Range(row.label, row.value, *(row.interval or (row.value, row.value))) for row in rows]
        clear = [row.interval is not None and (row.interval[0] > 0 or row.interval[1] < 0) for row in rows]
        draw_intervals(axes, ranges, [FIRST if each else MUTED for each in clear], signed, xlabel)
        return _coloured(figure)


def _coloured(figure: Figure) -> Markup:
    drawn = svg(figure)
    for placeholder, name in MORE.items():
        drawn = drawn.replace(placeholder, f"var(--{name})")
    return drawn
