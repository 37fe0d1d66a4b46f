"""The paper's similarity picture: queries with nine keys, a bar for each similarity, and all pairs as histograms."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MultipleLocator
from PIL import Image
from torch import Tensor

from patchmix.data.images import UnreadableImage
from patchmix.data.streams import Purpose, keyed_generator
from patchmix.errors import RunError, UserError
from patchmix.evaluation.features import Features, prepare_image
from patchmix.evaluation.opening import Evaluation
from patchmix.evaluation.pairs import BARS, PairSimilarity
from patchmix.files import replacing
from patchmix.reporting.pictures import tile

NUM_KEYS = 9
NUM_SAME = 4
"""Keys of the query's class, where there are so many; the paper's picture mixes both kinds too."""
ROWS_STREAM = 4  # beside the other subsets' streams, so that no two share numbers

INK, MUTED, GRID, SAME, OTHER = "#1c2024", "#5d6670", "#e4e7ea", "#b4540a", "#9aa4ae"
ENCODERS = ("#1a66c9", "#2f8f5b", "#8a4fa3", "#b58a00", "#a8324a")
WIDTH, TOP, ROW, HISTOGRAM, KEYS_AT, CELL = 11.0, 0.45, 1.85, 2.3, 1.7, 1.01
"""Inches: the picture, its heading, a row, a line of histograms; where keys begin, and how far apart they are."""
DPI = 144
HISTOGRAMS_A_LINE = 4
HISTOGRAM_BARS = 50
SHOWN = (0.001, 0.999)
"""Quantiles of the similarities between which a histogram is drawn."""
MOST_LETTERS = 16

_STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.color": INK,
    "text.parse_math": False,  # a class may be called $x$
    "xtick.color": MUTED,
    "ytick.color": MUTED,
}


@dataclass(frozen=True)
class Row:
    """A query and its keys, as positions among the images that were read: those of its class first."""

    query: int
    keys: list[int]


@dataclass(frozen=True)
class Panel:
    """What an encoder finds: all pairs, and the similarity [rows, keys] of the queries and their keys."""

    title: str
    pairs: PairSimilarity
    similarities: list[list[float]]


def choose_rows(labels: Tensor, num_queries: int, seed: int) -> list[Row]:
    """Queries of different classes, in the order of classes: a function of labels [n] and seed, never of features.

    A query's class has two images at least; up to four others of it are keys, the rest are images of as many other
    classes as there are. No image is a key of its own, and fewer than ten images give fewer keys.
    """
    generator = keyed_generator(Purpose.SUBSET, seed, ROWS_STREAM)
    classes, counts = np.unique(labels.numpy(), return_counts=True)
    chosen = np.sort(generator.permutation(classes[counts > 1])[:num_queries])
    rows = []
    for label in chosen:
        order = generator.permutation(len(labels))
        own = order[labels.numpy()[order] == label]
        others = _from_many_classes(order[labels.numpy()[order] != label], labels.numpy())
        same = own[1 : 1 + NUM_SAME]
        rows.append(Row(int(own[0]), [*same.tolist(), *others[: NUM_KEYS - len(same)].tolist()]))
    return rows


def _from_many_classes(positions: np.ndarray[Any, Any], labels: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The positions, the first of every class before the second of any."""
    seen: dict[int, int] = {}
    rank = []
    for label in labels[positions].tolist():
        rank.append(seen.setdefault(label, 0))
        seen[label] += 1
    return positions[np.argsort(rank, kind="stable")]


def read_images(rows: Sequence[Row], found: Features, evaluation: Evaluation) -> dict[int, tuple[Image.Image, str]]:
    """{position: (image as the encoder is given it, name of its class)} of all that is shown.

    Raises UserError where one cannot be read any more.
    """
    assert found.labels is not None
    images = {}
    for position in sorted({each for row in rows for each in (row.query, *row.keys)}):
        try:
            image = evaluation.test.read(int(found.indices[position]))
        except UnreadableImage as error:
            raise UserError(f"{error.path} could be read a moment ago, and cannot now: {error.why}") from None
        prepared = prepare_image(image, evaluation.spec, evaluation.config.crop_ratio)
        images[position] = tile(prepared), evaluation.test.classes[int(found.labels[position])]
    return images


def draw(
    path: Path,
    rows: Sequence[Row],
    images: Mapping[int, tuple[Image.Image, str]],
    panels: Sequence[Panel],
    *,
    num_encoders: int,
) -> None:
    """Write the picture as PNG: bars for the first `num_encoders` panels, a histogram for each.

    A bar is as high as the similarity lies above (or below) the mean of all the encoder's pairs of two classes, in
    their standard deviations; its number is the cosine itself. The paper's bars are the cosines: where all of them lie
    near 1 such bars show nothing, and those of two encoders cannot be compared. Raises RunError where the file cannot
    be written.
    """
    lines = -(-len(panels) // HISTOGRAMS_A_LINE)
    height = TOP + ROW * len(rows) + HISTOGRAM * lines
    with matplotlib.rc_context(_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # class names may be in any script
        figure = Figure(figsize=(WIDTH, height))
        # All images in one: axes of their own would take most of the time.
        canvas = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, height))
        canvas.axis("off")
        _draw_heading(canvas, panels[:num_encoders], height - 0.3)
        heights = [_in_deviations(panel) for panel in panels[:num_encoders]]
        every = [0.0, *(each for of_encoder in heights for of_row in of_encoder for each in of_row)]
        low, high = min(every), max(1.0, *every)
        for number, row in enumerate(rows):
            bottom = height - TOP - ROW * (number + 1)
            _draw_row(canvas, row, images, bottom)
            place = (KEYS_AT / WIDTH, (bottom + 0.15) / height, CELL * len(row.keys) / WIDTH, 0.65 / height)
            bars = figure.add_axes(place, ylim=(low - 0.05 * (high - low), high + 0.3 * (high - low)))
            shown = zip(heights, panels, strict=False)
            _draw_bars(bars, [(each[number], panel.similarities[number]) for each, panel in shown])
        for number, panel in enumerate(panels):
            line, column = divmod(number, HISTOGRAMS_A_LINE)
            width = (WIDTH - 0.5) / HISTOGRAMS_A_LINE
            left, bottom = 0.3 + width * column, HISTOGRAM * (lines - 1 - line) + 0.3
            place = (left / WIDTH, bottom / height, (width - 0.3) / WIDTH, (HISTOGRAM - 0.9) / height)
            _draw_histogram(figure.add_axes(place), panel, legend=number == 0)
        try:
            with replacing(path) as temporary:
                figure.savefig(temporary, format="png", dpi=DPI)
        except OSError as error:
            raise RunError(f"cannot write {path}: {error.strerror or error}") from error


def _draw_heading(canvas: Axes, encoders: Sequence[Panel], y: float) -> None:
    x = KEYS_AT
    for panel, colour in zip(encoders, ENCODERS, strict=False):
        label = canvas.text(x, y, f"■ {panel.title}", color=colour, fontsize=10)
        x += label.get_window_extent().width / canvas.bbox.width * WIDTH + 0.2
    note = "bars: standard deviations above the mean pair of two classes; numbers: cosines"
    canvas.text(WIDTH - 0.2, y, note, color=MUTED, fontsize=9, ha="right")


def _draw_row(canvas: Axes, row: Row, images: Mapping[int, tuple[Image.Image, str]], bottom: float) -> None:
    """A query and its keys; those of its class are framed."""
    picture, label = images[row.query]
    _draw_image(canvas, picture, f"query: {_short(label)}", (0.25, bottom + 0.5, 1.05))
    for place, key in enumerate(row.keys):
        picture, name = images[key]
        corner = (KEYS_AT + CELL * (place + 0.5) - 0.37, bottom + 0.88, 0.74)
        _draw_image(
            canvas, picture, _short(name), corner, colour=SAME if name == label else MUTED, framed=name == label
        )


def _short(name: str) -> str:
    return name if len(name) <= MOST_LETTERS else name[: MOST_LETTERS - 1] + "…"


def _draw_image(
    canvas: Axes,
    image: Image.Image,
    title: str,
    corner: tuple[float, float, float],
    *,
    colour: str = INK,
    framed: bool = False,
) -> None:
    """An image in a square of inches (left, bottom, side), its longer side as long as that."""
    left, bottom, side = corner
    width, height = (side * each / max(image.size) for each in image.size)
    x, y = left + (side - width) / 2, bottom + (side - height) / 2
    canvas.imshow(image, extent=(x, x + width, y, y + height), aspect="auto", zorder=1)
    if framed:
        canvas.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=SAME, linewidth=2, zorder=2))
    canvas.text(left + side / 2, bottom + side + 0.05, title, color=colour, fontsize=9, ha="center")


def _in_deviations(panel: Panel) -> list[list[float]]:
    """The similarities as distances from the mean pair of two classes; 0 where all those pairs are alike."""
    pairs = panel.pairs
    unit = pairs.deviation if pairs.gap_in_sd is not None else np.inf
    return [[(value - pairs.between_class.value) / unit for value in row] for row in panel.similarities]


def _draw_bars(axes: Axes, encoders: Sequence[tuple[Sequence[float], Sequence[float]]]) -> None:
    """A group of bars under each key, one for each encoder: (heights, numbers) of each."""
    width = 0.84 / len(encoders)
    for number, (heights, values) in enumerate(encoders):
        x = np.arange(len(values)) - 0.42 + width * (number + 0.5)
        axes.bar(x, heights, width * 0.92, color=ENCODERS[number])
        for place, height, value in zip(x, heights, values, strict=True):
            axes.annotate(
                f"{value:.2f}",
                (place, max(height, 0)),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=8 if len(encoders) < 3 else 6,
            )
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.set_xlim(-0.5, len(encoders[0][1]) - 0.5)
    axes.spines[:].set_visible(False)
    axes.set_xticks([])
    axes.yaxis.set_major_locator(MultipleLocator(2))
    axes.tick_params(axis="y", length=0, labelsize=7)


def _draw_histogram(axes: Axes, panel: Panel, *, legend: bool) -> None:
    """Shares of the pairs of either kind by similarity, over where nearly all of them are."""
    pairs = panel.pairs
    cumulated = (pairs.same / pairs.same.sum() + pairs.other / pairs.other.sum()).cumsum(dim=0).numpy() / 2
    first, last = np.searchsorted(cumulated, SHOWN)
    size = max(1, (last - first) // HISTOGRAM_BARS)
    edges = np.arange(first, min(last + size, 2 * BARS) + 1, size)
    for number, colour, label in ((pairs.other, OTHER, "two classes"), (pairs.same, SAME, "one class")):
        shares = np.add.reduceat(number.numpy()[: edges[-1]], edges[:-1]) / int(number.sum())
        axes.stairs(shares, edges / BARS - 1, fill=True, color=colour, alpha=0.6, label=label)
    axes.set_xlim(edges[0] / BARS - 1, edges[-1] / BARS - 1)
    axes.set_ylim(bottom=0)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    sd = "" if pairs.gap_in_sd is None else f", gap {pairs.gap_in_sd.value:.2f} sd"
    axes.set_title(f"{panel.title}\nAUC {100 * pairs.auc.value:.1f} %{sd}", fontsize=9, loc="left")
    if legend:
        axes.legend(frameon=False, fontsize=8, title="pairs of", title_fontsize=8)
