"""What `patchmix bench` shows: the parts of a step, and the figures beside those of the plain version."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence

from rich.console import Console

from patchmix.benching.steps import in_order
from patchmix.evaluation.results import print_table

Metrics = Mapping[str, float | None]
# Key, what it is, its unit, decimals; the plain version's key is plain_ and this.
FIGURES = (
    ("step_seconds", "a step, without waiting for data, ms", 1000.0, 1),
    ("gigaflop_per_step", "operations of a step, GFLOP", 1.0, 1),
    ("gigaflop_per_second", "GFLOP/s", 1.0, 1),
    ("flops_share_of_limit", "share of the matrix-product limit, %", 100.0, 1),
    ("peak_memory_mb", "peak memory of a step, MB", 1.0, 0),
    ("worker_ms_per_sample", "a worker's time for an image, ms", 1.0, 3),
)


def part_medians(steps: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Median seconds of each part over these steps, in the order of a step."""
    return {name: statistics.median(step[name] for step in steps) for name in in_order(steps[0])}


def show_parts(console: Console, parts: Mapping[str, float]) -> None:
    """Milliseconds and share of each part."""
    whole = sum(parts.values())
    rows = [(name, f"{1000 * seconds:.2f}", f"{100 * seconds / whole:.1f}") for name, seconds in parts.items()]
    rows.append(("all of them", f"{1000 * whole:.2f}", "100.0"))
    print_table(console, "Parts of a step, medians", ("part", "ms", "%"), rows)


def show_stages(console: Console, stages: Mapping[str, float]) -> None:
    """Milliseconds of a worker for an image, by stage."""
    names = [name for name in stages if name not in ("worker", "plain")]
    rows = [(name, f"{stages[name]:.3f}") for name in names]
    print_table(console, "The input pipeline alone, one thread, all views of an image", ("stage", "ms"), rows)


def show_figures(console: Console, metrics: Metrics, why_not: str | None) -> None:
    """Each figure, that of the plain version, and the first as a share of the second."""
    rows = []
    for key, title, scale, decimals in FIGURES:
        ours, plain = metrics[key], metrics.get(f"plain_{key}")
        if ours is None:
            continue
        cells = [f"{scale * value:,.{decimals}f}" if value is not None else "–" for value in (ours, plain)]
        rows.append((title, *cells, f"{ours / plain:.2f}" if plain else "–"))
    print_table(console, "Figures, medians", ("", "patchmix", "plain", "ratio"), rows)
    if why_not is not None:
        print_plain = f"The plain step was not measured: {why_not}."
        console.print(print_plain, markup=False, highlight=False, soft_wrap=True)
