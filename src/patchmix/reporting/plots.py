"""Plots as inline SVG that takes its colours from the page, so that one drawing serves light and dark.

matplotlib draws in placeholder colours; each becomes a CSS variable that `style.css` defines for both
schemes. Text stays text: it can be searched, is read in the page's own font and needs no font in the file.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

INK, MUTED, GRID = "#010203", "#010204", "#010205"
FIRST, SECOND, LIMIT = "#010206", "#010207", "#010208"
VARIABLES = {INK: "ink", MUTED: "muted", GRID: "grid", FIRST: "first", SECOND: "second", LIMIT: "limit"}

MAX_POINTS = 300
"""Points a curve is drawn with; more are averaged, with a band from their lowest to their highest."""

STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "patchmix",
    "font.size": 10,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "lines.linewidth": 1.8,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Line:
    """One curve: `label` is written at its end where a plot has several."""

    x: Sequence[float]
    y: Sequence[float]
    label: str = ""


@dataclass(frozen=True)
class Level:
    """A horizontal line that a curve is read against."""

    y: float
    label: str


@dataclass(frozen=True)
class Range:
    """A value with its interval, for `interval_plot`."""

    label: str
    value: float
    low: float
    high: float


def line_plot(lines: Sequence[Line], *, xlabel: str, levels: Sequence[Level] = (), marker: bool = False) -> Markup:
    """Curves over steps or epochs; at most two."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.2, 2.5), layout="constrained")
        axes = figure.add_subplot()
        for line, colour in zip(lines, (FIRST, SECOND), strict=False):
            _curve(axes, line, colour, marker=marker)
        for level in levels:
            axes.axhline(level.y, color=LIMIT, linestyle=(0, (4, 3)), linewidth=1.2)
            # Written on the far side of the line, seen from the curve.
            above = level.y >= lines[0].y[-1]
            axes.annotate(
                level.label,
                (0.995, level.y),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3 if above else -3),
                textcoords="offset points",
                ha="right",
                va="bottom" if above else "top",
                color=LIMIT,
                fontsize=9,
            )
        axes.margins(x=0.01, y=0.16 if levels else 0.06)
        if len(lines) > 1:
            axes.legend(frameon=False, fontsize=9, labelcolor="linecolor", handlelength=1.2)
        axes.set_xlabel(xlabel)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
        axes.grid(visible=False, axis="x")
        return svg(figure)


def interval_plot(ranges: Sequence[Range], *, xlabel: str) -> Markup:
    """A dot with its interval for each; the first one stands out."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 0.75 + 0.42 * len(ranges)), layout="constrained")
        colours = [FIRST, *[MUTED] * (len(ranges) - 1)]
        draw_intervals(figure.add_subplot(), ranges, colours, "{:.1f}".format, xlabel)
        return svg(figure)


def draw_intervals(
    axes: Axes, ranges: Sequence[Range], colours: Sequence[str], text: Callable[[float], str], xlabel: str
) -> None:
    """A row for each: a dot, its interval, its value as text, in its colour."""
    for row, (each, colour) in enumerate(zip(ranges, colours, strict=True)):
        axes.plot([each.low, each.high], [row, row], color=colour, linewidth=3)
        axes.plot([each.value], [row], marker="o", markersize=7, color=colour)
        axes.annotate(
            text(each.value),
            (each.value, row),
            xytext=(0, 6),
            textcoords="offset points",
            ha="center",
            fontsize=9,
            color=colour,
        )
    axes.set_yticks(range(len(ranges)), [each.label for each in ranges], color=INK)
    axes.set_ylim(len(ranges) - 0.5, -0.75)
    axes.margins(x=0.08)
    axes.set_xlabel(xlabel)
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


def _curve(axes: Axes, line: Line, colour: str, *, marker: bool) -> None:
    x, y = np.asarray(line.x, dtype=float), np.asarray(line.y, dtype=float)
    if len(x) > MAX_POINTS:
        # Of even size: a last bin of a few points would end the curve in a spike.
        bins = np.array_split(y, MAX_POINTS)
        x = np.array([each.mean() for each in np.array_split(x, MAX_POINTS)])
        axes.fill_between(x, [b.min() for b in bins], [b.max() for b in bins], color=colour, alpha=0.18, linewidth=0)
        y = np.array([b.mean() for b in bins])
    dots = "o" if (marker and len(x) <= 40) or len(x) == 1 else None
    axes.plot(x, y, color=colour, label=line.label, marker=dots, markersize=3.5)


def svg(figure: Figure) -> Markup:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r' xmlns(:xlink)?="[^"]*"', "", text).replace("xlink:href", "href")
    # Sized by the page; the view box keeps the proportions.
    text = re.sub(r'(<svg [^>]*?)width="[^"]*"|(<svg [^>]*?)height="[^"]*"', r"\1\2", text, count=1)
    text = re.sub(r'(<svg [^>]*?)(?:width|height)="[^"]*"', r"\1", text, count=1)
    text = text.replace("<svg ", '<svg aria-hidden="true" focusable="false" ', 1)
    for placeholder, name in VARIABLES.items():
        text = text.replace(placeholder, f"var(--{name})")
    return Markup(text)
