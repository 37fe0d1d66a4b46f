"""What an evaluation hands over: a JSON file written whole or not at all, 95 % intervals, and a table."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist
from typing import Any

from rich.console import Console
from rich.table import Table

from patchmix.environment import environment
from patchmix.errors import UserError
from patchmix.files import write_text
from patchmix.progress import say

Interval = tuple[float, float]


def wilson_interval(correct: float, total: int, confidence: float = 0.95) -> Interval:
    """Interval of an accuracy, in per cent, for `correct` of `total` test images.

    Source: Wilson, JASA 22 (1927). It stays within 0–100 and has a width also where all are right.
    """
    if total < 1 or not 0 <= correct <= total:
        raise ValueError(f"{correct} correct of {total} is not an accuracy")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = correct / total
    centre = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return 100 * max(0.0, centre - half), 100 * min(1.0, centre + half)


def interval_over_draws(accuracies: Sequence[float], total: int, confidence: float = 0.95) -> Interval:
    """Interval of the mean accuracy (per cent) of several draws of labels, all tested on the same images.

    Two independent uncertainties: which test images (Wilson, at the mean), and which labels (Student's t
    over the draws). They are combined by recovering variances from the two intervals (MOVER: Zou & Donner,
    Statistics in Medicine 27, 2008). One draw says nothing about the second, which is then left out.
    """
    from scipy.stats import t as student  # type: ignore[import-untyped]  # with scikit-learn

    mean = sum(accuracies) / len(accuracies)
    low, high = wilson_interval(mean / 100 * total, total, confidence)
    draws = 0.0
    if len(accuracies) > 1:
        quantile = float(student.ppf(0.5 + confidence / 2, len(accuracies) - 1))
        draws = quantile * spread(accuracies) / math.sqrt(len(accuracies))
    return max(0.0, mean - math.hypot(mean - low, draws)), min(100.0, mean + math.hypot(high - mean, draws))


def spread(accuracies: Sequence[float]) -> float:
    """Standard deviation over draws (n − 1); 0 for a single one."""
    if len(accuracies) < 2:
        return 0.0
    mean = sum(accuracies) / len(accuracies)
    return math.sqrt(sum((value - mean) ** 2 for value in accuracies) / (len(accuracies) - 1))


def result_path(command: str, run_directory: Path | None, output: str | None) -> Path:
    """results/<command>.json under `output` where given, else in the run, else in the current directory.

    Makes the directory, so that a place that cannot be written to is found before the work, not after it.
    Raises UserError there.
    """
    root = Path(output) if output is not None else run_directory or Path()
    directory = root / "results"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise UserError(f"results cannot be written to {directory}: {error.strerror}; give another --output") from None
    return directory / f"{command}.json"


def write_result(
    path: Path,
    *,
    command: str,
    checkpoint: str,
    data: Mapping[str, Any],
    metrics: Mapping[str, float],
    intervals: Mapping[str, Interval],
    settings: Mapping[str, Any],
    seconds: float,
    **more: Any,
) -> dict[str, Any]:
    """Write one evaluation as JSON and return it; `more` are further entries, such as `spread`.

    A reader sees the old file or the new one whole. Accuracies are in per cent, `intervals` at 95 %.
    Raises RunError where it cannot be written any more (see `result_path`).
    """
    result: dict[str, Any] = {
        "command": command,
        "checkpoint": checkpoint,
        "data": dict(data),
        "metrics": dict(metrics),
        "intervals": {name: list(interval) for name, interval in intervals.items()},
        **more,
        "settings": dict(settings),
        "environment": environment(),
        "seconds": round(seconds, 3),
    }
    # NaN is no JSON, and browsers refuse the whole file for it.
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(path, text)
    return result


def with_interval(value: float, interval: Interval) -> str:
    """`96.4 ± 1.3`, by the wider side; `99.9 +0.1 −0.6` where that would reach beyond 0 or 100."""
    below, above = value - interval[0], interval[1] - value
    wider = max(below, above)
    if value - wider >= 0 and value + wider <= 100:
        return f"{value:.1f} ± {wider:.1f}"
    return f"{value:.1f} +{above:.1f} −{below:.1f}"


def verdict(metrics: Mapping[str, float], intervals: Mapping[str, Interval], name: str) -> str:
    """One line: does the encoder beat raw pixels and the untrained encoder, by more than chance explains?

    Intervals that do not overlap are called a difference; that is stricter than a paired test.
    """
    value, low, high = metrics[name], *intervals[name]
    parts = []
    for prefix, title in (("pixels_", "raw pixels"), ("random_init_", "the untrained encoder")):
        other = prefix + name
        if other in metrics:
            clear = low > intervals[other][1] or high < intervals[other][0]
            word = "above" if value >= metrics[other] else "below"
            doubt = "" if clear else ", within the uncertainty"
            parts.append(f"{abs(value - metrics[other]):.1f} points {word} {title}{doubt}")
    return f"{name}: {with_interval(value, intervals[name])} %" + (": " + "; ".join(parts) if parts else "") + "."


def print_table(console: Console, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table with a title: drawn on a terminal; elsewhere plain aligned text that no width cuts."""
    say(console, title)
    if console.is_terminal:
        table = Table()
        for position, column in enumerate(columns):
            table.add_column(column, justify="left" if position == 0 else "right", no_wrap=position == 0)
        for row in rows:
            table.add_row(*row)
        console.print(table)
        return
    widths = [max(len(line[i]) for line in (columns, *rows)) for i in range(len(columns))]
    lines = []
    for line in (columns, *rows):
        cells = [cell.ljust(widths[0]) if i == 0 else cell.rjust(widths[i]) for i, cell in enumerate(line)]
        lines.append("  ".join(cells).rstrip())
    say(console, "\n".join(lines))
