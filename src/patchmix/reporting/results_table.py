"""`patchmix results`: all evaluations of some runs in one table, beside the paper's numbers of the same recipe."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from patchmix.data.unreadable import tsv_field
from patchmix.evaluation.results import print_table
from patchmix.progress import say
from patchmix.reporting.arrangement import Arrangement, Mean, Row, arrange
from patchmix.reporting.evaluations import Evaluation, read_evaluations
from patchmix.reporting.measured import Measured
from patchmix.reporting.published import SOURCE, differences, published

TITLE = "Right, % of the images, with 95 % interval"
COLUMNS = ("run", "command", "metric", "value", "low", "high", "num_images", "checkpoint", "file")
MORE_COLUMNS = ("data", "num_train", "recipe", "seed", "published")


def results(runs: Sequence[str], format: str = "table", console: Console | None = None) -> None:
    """Print all evaluations of the runs: `table`, `markdown`, `csv` (one line a figure) or `json`.

    Table and Markdown show one k of kNN and no top-5; the others hold every figure. What had to be left out, and what
    must not be compared, is said below the table, for csv and json on standard error. Raises UserError where a path
    is absent or nothing was evaluated.
    """
    console = console or Console()
    evaluations, notes = read_evaluations(runs)
    table = arrange(evaluations)
    notes = [tsv_field(note) for note in (*notes, *table.notes)]
    if format == "csv":
        say(console, _csv(evaluations))
    elif format == "json":
        say(console, json.dumps(_as_json(evaluations, table, notes), indent=2))
    if format in ("csv", "json"):
        for note in notes:
            print(f"patchmix: {note}", file=sys.stderr)
        return
    headings, rows = _cells(table)
    if format == "markdown":
        say(console, _markdown(headings, rows))
    else:
        print_table(console, TITLE, headings, rows)
    hidden = not all(row.main for row in table.rows)
    if hidden:
        notes.append("other k, top-5 and the like: --format csv or json")
    if table.groups or any(isinstance(cell, Mean) for row in table.rows for cell in row.cells):
        notes.append("n: mean ± standard deviation over so many seeds")
    if table.recipes:
        notes.append(f"published: {SOURCE}")
    for note in notes:
        say(console, f"{'* ' if format == 'markdown' else ''}{note}.")


def collect(runs: Sequence[str]) -> dict[str, Any]:
    """All evaluations of the runs as `results --format json` prints them: figures, means, notes. Raises UserError."""
    evaluations, notes = read_evaluations(runs)
    table = arrange(evaluations)
    return _as_json(evaluations, table, [tsv_field(note) for note in (*notes, *table.notes)])


def _cells(table: Arrangement) -> tuple[list[str], list[list[str]]]:
    """Headings, and the main rows under a line for each set of images."""
    means = [table.columns[group[0]].run.recipe or "same settings" for group in table.groups]
    headings = [
        "",
        *(column.heading for column in table.columns),
        *(f"{recipe}, mean" for recipe in means),
        *(f"{recipe}, published" for recipe in table.recipes),
        "images",
    ]
    rows = []
    data = None
    for row in filter(lambda row: row.main, table.rows):
        if row.data != data:
            rows.append([row.data, *[""] * (len(headings) - 1)])
            data = row.data
        rows.append(
            [
                f"  {row.label}",
                *(_text(cell) for cell in (*row.cells, *row.means)),
                *("" if value is None else f"{value:.1f}" for value in row.published),
                "–".join(f"{number:,}" for number in dict.fromkeys((*row.num_images[:1], *row.num_images[-1:]))),
            ]
        )
    return [tsv_field(each) for each in headings], [[tsv_field(cell) for cell in row] for row in rows]


def _text(cell: Measured | Mean | None) -> str:
    return "" if cell is None else cell.text


def _markdown(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as GitHub renders it; lines that name the images are bold."""
    lines = [_line(headings), _line(["---", *["---:"] * (len(headings) - 1)])]
    for row in rows:
        title = not row[0].startswith(" ")
        lines.append(_line([f"**{row[0]}**" if title else row[0].strip(), *row[1:]]))
    return "\n".join([f"{TITLE}\n", *lines, ""])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _records(evaluations: Sequence[Evaluation]) -> list[dict[str, Any]]:
    """One record for every figure of every file."""
    found = []
    for each in evaluations:
        comparable = not differences(each)
        for metric, prefix, figure in each.figures():
            low, high = figure.interval or (None, None)
            name = prefix + metric
            found.append(
                {
                    "run": each.run.name,
                    "command": each.result["command"],
                    "metric": name,
                    "value": figure.value,
                    "low": low,
                    "high": high,
                    "num_images": each.num_images,
                    "checkpoint": each.result.get("checkpoint"),
                    "file": str(each.path),
                    "data": each.data.get("name"),
                    "num_train": each.data.get("num_train"),
                    "recipe": each.run.recipe,
                    "seed": each.seed,
                    "published": published(each.run.recipe, each.command, name) if comparable else None,
                }
            )
    return found


def _csv(evaluations: Sequence[Evaluation]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, (*COLUMNS, *MORE_COLUMNS), lineterminator="\n")
    writer.writeheader()
    for record in _records(evaluations):
        writer.writerow({name: tsv_field(value) if isinstance(value, str) else value for name, value in record.items()})
    return text.getvalue().rstrip("\n")


def _as_json(evaluations: Sequence[Evaluation], table: Arrangement, notes: list[str]) -> dict[str, Any]:
    means = [
        _mean_record(table, row, group, mean)
        for row in table.rows
        for group, mean in zip(table.groups, row.means, strict=True)
        if isinstance(mean, Mean)
    ]
    return {"figures": _records(evaluations), "means": means, "notes": notes, "published_source": SOURCE}


def _mean_record(table: Arrangement, row: Row, group: list[int], mean: Mean) -> dict[str, Any]:
    columns = [table.columns[number] for number, cell in enumerate(row.cells) if number in group and cell is not None]
    return {
        "recipe": columns[0].run.recipe,
        "runs": [column.run.name for column in columns],
        "data": row.data,
        "label": row.label,
        "command": row.command,
        "metric": row.metric,
        "mean": mean.value,
        "standard_deviation": mean.deviation,
        "n": mean.number,
    }
