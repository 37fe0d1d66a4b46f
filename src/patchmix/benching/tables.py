"""What `patchmix bench` shows: the parts of a step, and the figures beside those of the plain version."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rich.console import Console

from patchmix.benching.pipeline import InputCost
from patchmix.benching.plain import PLAIN_PRECISION
from patchmix.benching.steps import Consecutive
from patchmix.evaluation.results import print_table
from patchmix.progress import counted, say

Metrics = Mapping[str, float | None]
SHARE = "flops_share_of_limit"
# Key, what it is, its unit, decimals; the plain version's key is plain_ and this.
FIGURES = (
    ("step_seconds", "a step on a batch that is there, in turns, ms", 1000.0, 1),
    ("gigaflop_per_step", "operations of a step, GFLOP", 1.0, 1),
    ("gigaflop_per_second", "GFLOP/s", 1.0, 1),
    (SHARE, "share of the matrix-product limit, %", 100.0, 1),
    ("peak_memory_mb", "peak memory of a step, MB", 1.0, 0),
    ("worker_ms_per_sample", "a worker's time for an image, ms", 1.0, 3),
    ("worker_kept_ms_per_sample", "the same, decoded images kept, ms", 1.0, 3),
)


def show_parts(console: Console, found: Consecutive) -> None:
    """Milliseconds and share of each part."""
    whole = sum(found.parts.values())
    rows = [(name, f"{1000 * seconds:.2f}", f"{100 * seconds / whole:.1f}") for name, seconds in found.parts.items()]
    rows.append(("all of them", f"{1000 * whole:.2f}", "100.0"))
    title = f"Parts of a step, means of {counted(len(found.samples), 'consecutive step')}"
    print_table(console, title, ("part", "ms", "%"), rows)


def show_stages(console: Console, cost: InputCost) -> None:
    """Milliseconds of one thread for an image, by stage."""
    rows = [(name, f"{milliseconds:.3f}") for name, milliseconds in cost.stages.items()]
    print_table(console, "The input pipeline alone, one thread, all views of an image", ("stage", "ms"), rows)


def show_figures(console: Console, metrics: Metrics, precision: str, why_no_step: str | None, cost: InputCost) -> None:
    """Each figure, that of the plain version, and the first as a share of the second; then what they need said."""
    rows = []
    for key, title, scale, decimals in FIGURES:
        ours, plain = metrics[key], metrics.get(f"plain_{key}")
        if ours is None:
            continue
        cells = [f"{scale * value:,.{decimals}f}" if value is not None else "–" for value in (ours, plain)]
        # Shares of two limits say nothing of each other.
        is_alike = key != SHARE or precision == PLAIN_PRECISION
        rows.append((title, *cells, f"{ours / plain:.2f}" if plain and is_alike else "–"))
    heads = ("", f"patchmix, {precision}", f"plain, {PLAIN_PRECISION}", "ratio")
    print_table(console, "Figures, medians", heads, rows)
    for line in _notes(metrics, precision, why_no_step, cost):
        say(console, line)


def _notes(metrics: Metrics, precision: str, why_no_step: str | None, cost: InputCost) -> Iterator[str]:
    ours, plain = metrics["limit_gigaflop_per_second"], metrics["plain_limit_gigaflop_per_second"]
    share, by_plain = metrics[SHARE], metrics["flops_share_of_plain_limit"]
    if share is not None and by_plain is not None:
        yield f"The matrix-product limit in {precision} is {ours:,.0f} GFLOP/s." + (
            ""
            if precision == PLAIN_PRECISION
            else f" It is {plain:,.0f} in {PLAIN_PRECISION}, by which plain's share is taken; by that one patchmix's "
            f"would be {100 * by_plain:.1f} %."
        )
    if why_no_step is not None:
        yield f"The plain step was not measured: {why_no_step}."
    if cost.why_no_plain is not None:
        yield f"The plain input pipeline was not measured: {cost.why_no_plain}."
    if cost.on_device:
        yield "A worker's time is without the photometrics: the device applies them (run.photometrics)."
    if cost.worker_kept is not None:
        yield "The workers of this run keep decoded images: from the second epoch on they read no files."
