"""What an evaluation hands over: a JSON file written whole or not at all, 95 % intervals, and a table."""

from __future__ import annotations

import itertools
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

WHERE_AND_HOW_FAST = frozenset(
    (
        *("output", "cache", "resume", "overwrite", "checkpoint_every_epochs", "chunk_size", "used"),
        "network",  # where what was trained lies
        *("root", "data.root", "data.num_workers", "run.device", "run.num_threads", "run.batch_size"),
    )
)
"""Settings and data entries in which evaluations of the same thing may differ."""


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
    # Exact at the ends, which rounding misses: no interval leaves its own accuracy out.
    low = 0.0 if correct == 0 else 100 * max(0.0, centre - half)
    return low, 100.0 if correct == total else 100 * min(1.0, centre + half)


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
    console: Console | None = None,
    **more: Any,
) -> dict[str, Any]:
    """Write one evaluation as JSON and return it; `more` are further entries, such as `spread`.

    `path` is always the newest. An evaluation of other settings that it held is kept as <command>-1.json and so on,
    which the console is told; one of the same settings is replaced. A reader sees the old file or the new one whole.
    Accuracies are in per cent, `intervals` at 95 %. Raises RunError where it cannot be written any more (see
    `result_path`).
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
    kept = _keep_other(path, asked_for(json.loads(text)))
    write_text(path, text)
    if kept is not None and console is not None:
        say(console, f"{path} held an evaluation of other settings: it is kept as {kept.name}")
    return result


def asked_for(result: Mapping[str, Any]) -> dict[str, Any]:
    """What was evaluated and how, of a result as it was read from its file: equal for a repetition.

    Data are told by their fingerprint, not by where they lie; of a run, the step that was measured counts too.
    """
    asked: dict[str, Any] = {"checkpoint": result.get("checkpoint")}
    for entry in ("data", "settings"):
        for name, value in (result.get(entry) or {}).items():
            inner = value.items() if isinstance(value, dict) else ((None, value),)
            for key, each in inner:
                full = name if key is None else f"{name}.{key}"
                if name not in WHERE_AND_HOW_FAST and full not in WHERE_AND_HOW_FAST:
                    asked[f"{entry}: {full}"] = each
    return asked


def _keep_other(path: Path, asked: Mapping[str, Any]) -> Path | None:
    """Copy the evaluation of other settings that `path` holds beside it; returns where to, None if there is none.

    It takes the first number that is free, or whose file holds what `path` or the new result holds anyway, so that
    going to and fro between two settings leaves two files.
    """
    old = _asked_for_in(path)
    if old is None or old == asked:
        return None
    for number in itertools.count(1):
        kept = path.with_name(f"{path.stem}-{number}{path.suffix}")
        if not kept.exists() or _asked_for_in(kept) in (old, asked):
            write_text(kept, path.read_text(encoding="utf-8"))
            return kept
    raise AssertionError("numbers do not end")


def _asked_for_in(path: Path) -> dict[str, Any] | None:
    """`asked_for` of a result file; None where there is no such file or it holds no result."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return asked_for(content) if isinstance(content, dict) and "metrics" in content else None


def with_interval(value: float, interval: Interval) -> str:
    """`96.4 ± 1.3`, by the wider side; `99.9 +0.1 −0.6` where that would reach beyond 0 or 100."""
    below, above = max(0.0, value - interval[0]), max(0.0, interval[1] - value)
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
