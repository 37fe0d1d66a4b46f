"""Evaluations arranged for comparison: a column per run, a row per figure, seeds summed up, the paper's beside them.

Two figures share a row only if they come from the same images by the same protocol.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patchmix.config.options import shown
from patchmix.evaluation.results import spread
from patchmix.reporting.evaluations import SCRATCH, Evaluation, Measurement
from patchmix.reporting.measured import SUBJECTS, Measured, heading, main_metric
from patchmix.reporting.published import METRICS, PUBLISHED, differences, published, run_settings

TITLES = {
    "knn": "kNN",
    "probe": "linear probe",
    "fewshot": "few labels",
    "finetune": "fine-tuned",
    SCRATCH: "trained from scratch",
    "similarity": "similarity",
}

ALWAYS_SAID = ("epochs", "fast", "freeze", "leave_one_out")

Key = tuple[Path | str, int | None]


@dataclass(frozen=True)
class Mean:
    """Mean and standard deviation (n − 1) over n runs, or over n seeds of an evaluation."""

    value: float
    deviation: float
    number: int

    @property
    def text(self) -> str:
        """`34.1 ± 0.2 (n = 3)`."""
        return f"{self.value:.1f} ± {self.deviation:.1f} (n = {self.number})"


@dataclass
class Column:
    """One network: a run at a step, or weights that belong to no run."""

    run: Measurement
    step: int | None
    heading: str = ""


@dataclass
class Row:
    """One figure of every column, None where a column lacks it.

    means: by group of seeds; published: by recipe. `main` is False for what only the machine-readable formats show.
    """

    data: str
    label: str
    command: str
    metric: str
    main: bool
    num_images: tuple[int, ...]
    cells: list[Measured | Mean | None]
    means: list[Measured | Mean | None] = field(default_factory=list)
    published: list[float | None] = field(default_factory=list)


@dataclass
class Arrangement:
    """The whole table; `groups` are columns that differ in the seed alone, `recipes` those of the paper."""

    columns: list[Column]
    groups: list[list[int]]
    recipes: list[str]
    rows: list[Row]
    notes: list[str]


def arrange(evaluations: Sequence[Evaluation]) -> Arrangement:
    """Put evaluations into rows and columns; notes say what must not be compared."""
    columns = _columns(evaluations)
    numbers = {key: number for number, key in enumerate(columns)}
    groups, notes = _groups(list(columns.values()))
    why_not = {evaluation.path: differences(evaluation) for evaluation in evaluations if _has_published(evaluation)}
    recipes = list(dict.fromkeys(e.run.recipe for e in evaluations if e.run.recipe and not why_not.get(e.path, [""])))
    rows: list[Row] = []
    titles = _data_titles(evaluations)
    for title in dict.fromkeys(titles.values()):
        same_data = [each for each in evaluations if titles[each.path] == title]
        for command in sorted({each.command for each in same_data}, key=_order):
            same = [each for each in same_data if each.command == command]
            for variant, members in _variants(same).items():
                rows += _rows(title, command, variant, members, numbers, why_not, recipes)
    for row in rows:
        row.means = [_over_runs(row, group) for group in groups]
    notes += [
        f"{path}: no published number beside it, {'; '.join(reasons)}" for path, reasons in why_not.items() if reasons
    ]
    others = sorted({each.run.recipe or "no recipe" for each in evaluations if each.run.recipe not in PUBLISHED})
    if others:
        notes.append(f"published numbers exist for the paper's recipes only, not for {', '.join(others)}")
    return Arrangement(list(columns.values()), groups, recipes, rows, notes)


def _columns(evaluations: Sequence[Evaluation]) -> dict[Key, Column]:
    columns = {_key(each): Column(each.run, each.step) for each in evaluations}
    for (source, _), column in columns.items():
        several = sum(other == source for other, _ in columns) > 1
        name = _short(column.run)
        alike = any(_short(each.run) == name for (other, _), each in columns.items() if other != source)
        column.heading = column.run.name if alike else name
        if several:
            column.heading += f", step {'?' if column.step is None else f'{column.step:,}'}"
    return columns


def _key(evaluation: Evaluation) -> Key:
    run = evaluation.run
    return (run.name if run.directory is None else run.directory.resolve()), evaluation.step


def _short(run: Measurement) -> str:
    return run.name if run.directory is None else run.directory.resolve().name


def _groups(columns: list[Column]) -> tuple[list[list[int]], list[str]]:
    """Columns whose runs differ in the seed alone, and why other runs of one recipe have no mean."""
    groups: list[list[int]] = []
    notes = []
    by_recipe: dict[str, list[tuple[int, dict[str, Any], Any]]] = {}
    for number, column in enumerate(columns):
        settings = None if column.run.directory is None else run_settings(column.run.directory)
        if settings is not None:
            seed = settings.pop("seed")
            entry = (number, settings | {"step": column.step}, seed)
            by_recipe.setdefault(column.run.recipe or "", []).append(entry)
    for recipe, members in by_recipe.items():
        alike: list[list[tuple[int, dict[str, Any], Any]]] = []
        for member in members:
            same = next((group for group in alike if group[0][1] == member[1]), None)
            if same is None:
                alike.append([member])
            elif member[2] not in (seed for _, _, seed in same):
                same.append(member)
            else:
                notes.append(f"{columns[member[0]].heading} has the seed of another run: it is in no mean")
        groups += [[number for number, _, _ in group] for group in alike if len(group) > 1]
        if recipe and len(alike) > 1:
            first = alike[0][0][1]
            names = sorted({name for group in alike for name in first if group[0][1][name] != first[name]})
            notes.append(f"runs of recipe {recipe} differ in {', '.join(names)}: no mean over those")
    return groups, notes


def _has_published(evaluation: Evaluation) -> bool:
    return evaluation.command in METRICS and evaluation.run.recipe in PUBLISHED


def _data_titles(evaluations: Sequence[Evaluation]) -> dict[Path, str]:
    """`cifar10: 50,000 training and 10,000 test images` of each file, other images under another title."""
    found: dict[Path, tuple[str, str]] = {}
    for each in evaluations:
        fingerprint = each.data.get("fingerprint")
        counts = [
            f"{each.data[name]:,} {word}"
            for name, word in (("num_train", "training"), ("num_test", "test"))
            if isinstance(each.data.get(name), int)
        ]
        title = f"{each.data.get('name', 'unknown data')}{': ' if counts else ''}{' and '.join(counts)}"
        test = fingerprint.get("test") or fingerprint.get("train") if isinstance(fingerprint, dict) else None
        found[each.path] = f"{title} images" if counts else title, f"{fingerprint}" if test else ""
    result = {}
    for path, (title, fingerprint) in found.items():
        versions = list(dict.fromkeys(other for same, other in found.values() if same == title))
        number = f" (version {1 + versions.index(fingerprint)}: other files)" if len(versions) > 1 else ""
        result[path] = title + number
    return result


def _order(command: str) -> tuple[int, str]:
    known = list(TITLES)
    return (known.index(command) if command in known else len(known)), command


def _variants(evaluations: list[Evaluation]) -> dict[str, list[Evaluation]]:
    """Evaluations by what tells their protocols apart, in words: '' where nothing does.

    What makes an evaluation another one than its name says (ALWAYS_SAID) stands there also where all share it.
    Options of the data belong to a run (its size, its channels) unless one run was evaluated with several.
    """
    protocols = [(each, each.protocol) for each in evaluations]
    names = sorted({name for _, protocol in protocols for name in protocol})
    telling = []
    for name in names:
        by_run: dict[Key, set[str]] = {}
        for each, protocol in protocols:
            by_run.setdefault(_key(each), set()).add(repr(protocol.get(name)))
        across = set().union(*by_run.values())
        if any(len(values) > 1 for values in by_run.values()) or (len(across) > 1 and not name.startswith("data.")):
            telling.append(name)
    found: dict[str, list[Evaluation]] = {}
    for each, protocol in protocols:
        said = [name for name in names if name in telling or _is_unusual(each, name)]
        label = ", ".join(f"{name} = {_text(protocol.get(name))}" for name in said)
        found.setdefault(label, []).append(each)
    return found


def _is_unusual(evaluation: Evaluation, name: str) -> bool:
    return name in ALWAYS_SAID and evaluation.protocol.get(name) != evaluation.defaults.get(name)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else shown(value)


def _rows(
    data: str,
    command: str,
    variant: str,
    members: list[Evaluation],
    numbers: dict[Key, int],
    why_not: dict[Path, list[str]],
    recipes: list[str],
) -> list[Row]:
    found: dict[tuple[str, str], list[tuple[Evaluation, Measured]]] = {}
    for each in members:
        for metric, prefix, figure in each.figures():
            found.setdefault((metric, prefix), []).append((each, figure))
    names = list(dict.fromkeys(metric for metric, _ in found))
    main = (
        [main_metric(names)]
        if command in ("knn", "similarity")
        else [name for name in names if "top1" in name and name != "holdout_top1"] or names
    )
    rows = []
    for metric in names:
        title = TITLES.get(command, command)
        of_metric = "" if metric == "top1" and command in TITLES else f", {heading(metric)}"
        for prefix in SUBJECTS:
            figures = found.get((metric, prefix), [])
            if not figures:
                continue
            cells: list[dict[Any, Measured]] = [{} for _ in numbers]
            for each, figure in figures:
                # Of two of the same seed the first file is the newer one (knn.json before knn-1.json).
                cells[numbers[_key(each)]].setdefault(each.seed, figure)
            comparable = {each.run.recipe for each, _ in figures if not why_not.get(each.path, [""])}
            rows.append(
                Row(
                    data,
                    f"{title}{of_metric}{f' ({variant})' if variant else ''}"
                    + (f": {SUBJECTS[prefix]}" if prefix else ""),
                    command,
                    prefix + metric,
                    metric in main,
                    tuple(sorted({each.num_images for each, _ in figures if each.num_images is not None})),
                    [_cell(list(by_seed.values())) for by_seed in cells],
                    published=[
                        published(recipe, command, prefix + metric) if recipe in comparable else None
                        for recipe in recipes
                    ],
                )
            )
    return rows


def _cell(figures: list[Measured]) -> Measured | Mean | None:
    if not figures:
        return None
    return figures[0] if all(each == figures[0] for each in figures) else _mean(figures)


def _over_runs(row: Row, group: list[int]) -> Measured | Mean | None:
    cells = [row.cells[number] for number in group]
    there = [cell for cell in cells if cell is not None]
    if row.metric.startswith(tuple(filter(None, SUBJECTS))) and there and all(cell == there[0] for cell in there):
        return there[0]  # pixels do not depend on the run, and the untrained encoder only on the evaluation's seed
    return _mean(cells)


def _mean(cells: Sequence[Measured | Mean | None]) -> Mean | None:
    values = [cell.value for cell in cells if cell is not None]
    if len(values) < 2:
        return None
    return Mean(statistics.fmean(values), spread(values), len(values))
