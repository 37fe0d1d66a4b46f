"""Are images of one class more alike to an encoder than images of two? All pairs in figures, some in a picture.

The paper shows queries with nine keys each and a bar for every similarity. That picture is drawn here beside the
figures of all pairs, since nine keys prove nothing.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import Tensor, nn

from patchmix.config import SimilarityConfig
from patchmix.data.datasets import ImageSource
from patchmix.data.unreadable import tsv_field
from patchmix.errors import UserError
from patchmix.evaluation.baselines import subjects
from patchmix.evaluation.description import describe_data, describe_settings, describe_skipped
from patchmix.evaluation.features import Features, InputSpec
from patchmix.evaluation.opening import Evaluation, OpenedEncoder, open_evaluation
from patchmix.evaluation.pairs import Figure, PairSimilarity, cosines, pair_similarity
from patchmix.evaluation.results import Interval, print_table, result_path, verdict, with_interval, write_result
from patchmix.evaluation.similarity_picture import Panel, Row, choose_rows, draw, read_images
from patchmix.progress import say

INTERVAL = "95 %, bootstrap over images, linearised: resampled is what each image moves the figure by"
IN_HUNDREDTHS = ("auc", "within_class", "between_class", "gap")
COLUMNS = {
    "auc": "AUC, %",
    "within_class": "within class",
    "between_class": "between classes",
    "gap": "gap",
    "gap_in_sd": "gap in sd",
}
"""Headings of the metrics, the main one first."""


class _OneSplit(Evaluation):
    """An evaluation whose training and test images are the same, of either split."""

    def features(
        self, encoder: nn.Module, source: ImageSource, spec: InputSpec, title: str, console: Console
    ) -> Features:
        # Nothing is trained, so no class is missed by it.
        return OpenedEncoder.features(self, encoder, source, spec, title, console)


@dataclass(frozen=True)
class _Measured:
    """One row of the table: an encoder or raw pixels. `similarities` [rows, keys] are those in the picture."""

    prefix: str
    title: str
    pairs: PairSimilarity
    similarities: list[list[float]]

    @property
    def figures(self) -> dict[str, Figure]:
        """The figures that there are, by metric."""
        found = {name: getattr(self.pairs, name) for name in COLUMNS}
        return {name: figure for name, figure in found.items() if figure is not None}


def similarity(config: SimilarityConfig, console: Console | None = None) -> dict[str, Any]:
    """Compare all pairs of test images by the cosine of their features; print, write and return the result.

    Metrics: `auc` (per cent, how often a pair of one class is more similar than a pair of two), `within_class`,
    `between_class` and `gap` (mean cosines × 100, and their difference), and `gap_in_sd` (the gap in standard
    deviations of the similarities of pairs of two classes; absent where those are all equal). `random_init_` and
    `pixels_` stand in front for the untrained encoder and raw pixels, the mean of these images subtracted.

    Where all features share a direction, as MoCo's do, every cosine is high whatever the images show. That moves the
    mean cosines, and the gap shrinks by it. `auc` and `gap_in_sd` are for comparing encoders: they do not change when
    all similarities are shifted and stretched alike. (Subtracting the mean feature would be another encoder, and one
    that depends on which images are looked at.)

    `beside` has the same of the other checkpoints, with the differences `this - other` on the same images.
    results/similarity.png is the picture of the newest result. Raises UserError for whatever the user can mend, and
    RunError where the files cannot be written.
    """
    console = console or Console()
    started = time.perf_counter()
    train = config.split == "train"
    evaluation = open_evaluation("similarity", config, leave_one_out=train)
    others = [open_evaluation("similarity", _for(other, config), leave_one_out=train) for other in config.beside]
    path = result_path("similarity", evaluation.loaded.run_directory, config.output)
    titles = _titles([evaluation, *others])
    one_split = _one_split(evaluation)
    found: list[_Measured] = []
    for subject in subjects(one_split, console, config.baselines):
        if not found:
            first, rows = subject.test, choose_rows(_labels(subject.test), config.num_queries, config.seed)
        title = subject.title if subject.prefix or not others else titles[0]
        found.append(_measure(subject.prefix, title, subject.test, rows, one_split))
    beside = [
        _measure_beside(title, _one_split(other), first, rows, console)
        for title, other in zip(titles[1:], others, strict=True)
    ]
    metrics, intervals = _entries(
        {each.prefix + name: figure for each in found for name, figure in each.figures.items()}
    )
    table = [_cells(each) for each in (found[0], *beside, *found[1:])]
    print_table(console, f"Cosine × 100 of all pairs of images, {one_split.summary}", ["", *COLUMNS.values()], table)
    say(console, verdict(metrics, intervals, "auc"))
    compared = []
    for each, other in zip(beside, others, strict=True):
        compared.append(_compared(found[0], each, other))
        say(console, _difference(compared[-1]))
    without = first if train else dataclasses.replace(first, skipped=[])
    skipped = describe_skipped(without, first, console)
    picture = path.with_suffix(".png")
    panels = [Panel(each.title, each.pairs, each.similarities) for each in (found[0], *beside, *found[1:])]
    draw(picture, rows, read_images(rows, first, one_split), panels, num_encoders=1 + len(beside))
    result = write_result(
        path,
        command="similarity",
        checkpoint=config.checkpoint,
        data=describe_data(evaluation),
        metrics=metrics,
        intervals=intervals,
        beside=compared,
        picture={"file": picture.name, "rows": _shown(rows, first, one_split, panels[: 1 + len(beside)])},
        skipped=skipped,
        settings={
            **describe_settings(evaluation),
            "similarity": "cosine, all pairs of two different images",
            "interval": INTERVAL,
        },
        seconds=time.perf_counter() - started,
        console=console,
    )
    say(console, f"Written to {path} and {picture}")
    return result


def _for(checkpoint: str, config: SimilarityConfig) -> SimilarityConfig:
    """The config of a checkpoint that is measured beside: the same images, prepared as it was trained."""
    data = dataclasses.replace(config.data, image_size=None, mean=None, std=None, channels=None)
    return dataclasses.replace(config, checkpoint=checkpoint, beside=(), num_heads=None, data=data)


def _one_split(evaluation: Evaluation) -> _OneSplit:
    return _OneSplit(**{**vars(evaluation), "train": evaluation.test})


def _titles(evaluations: Sequence[Evaluation]) -> list[str]:
    """Short names of the checkpoints, with their methods; the whole text where two would have the same."""
    titles = []
    for each in evaluations:
        checkpoint, run, config = each.config.checkpoint, each.loaded.run_directory, each.loaded.config or {}
        method = config.get("method", {}).get("name")
        name = Path(checkpoint if run is None else run.resolve()).name
        titles.append(f"{name} ({method})" if method else name)
    whole = [each.config.checkpoint for each in evaluations]
    return titles if len(set(titles)) == len(titles) else whole


def _labels(found: Features) -> Tensor:
    assert found.labels is not None  # open_labelled has refused images without
    return found.labels


def _measure(prefix: str, title: str, found: Features, rows: Sequence[Row], evaluation: Evaluation) -> _Measured:
    try:
        pairs = pair_similarity(found.features.to(evaluation.device), _labels(found))
    except ValueError:
        test = evaluation.test
        raise UserError(
            f"of the {test.split} images of {test.name} that can be read ({len(found.indices)}), no two are of one "
            "class, or all are: similarity needs pairs of one class and of two"
        ) from None
    similarities = [cosines(found.features[row.query], found.features[row.keys]).tolist() for row in rows]
    return _Measured(prefix, title, pairs, similarities)


def _measure_beside(
    title: str, evaluation: _OneSplit, first: Features, rows: Sequence[Row], console: Console
) -> _Measured:
    """Another checkpoint on the images of the first; UserError where it finds others there."""
    encoder = evaluation.loaded.encoder.to(evaluation.device)
    found = evaluation.features(encoder, evaluation.test, evaluation.spec, title, console)
    if not (found.indices.equal(first.indices) and _labels(found).equal(_labels(first))):
        raise UserError(f"the images of {evaluation.test.name} have changed while they were read: try again")
    return _measure("", title, found, rows, evaluation)


def _entries(figures: Mapping[str, Figure]) -> tuple[dict[str, float], dict[str, Interval]]:
    """Metrics and intervals as the result has them: all but standard deviations in hundredths."""
    metrics, intervals = {}, {}
    for name, figure in figures.items():
        scale = 100 if name.endswith(IN_HUNDREDTHS) else 1
        low, high = figure.interval()
        metrics[name], intervals[name] = scale * figure.value, (scale * low, scale * high)
    return metrics, intervals


def _cells(measured: _Measured) -> list[str]:
    metrics, intervals = _entries(measured.figures)
    cells = [with_interval(metrics[name], intervals[name]) for name in IN_HUNDREDTHS]
    if "gap_in_sd" not in metrics:
        return [measured.title, *cells, "–"]
    value, (low, high) = metrics["gap_in_sd"], intervals["gap_in_sd"]
    return [measured.title, *cells, f"{value:.2f} ± {max(value - low, high - value):.2f}"]


def _compared(one: _Measured, other: _Measured, evaluation: Evaluation) -> dict[str, Any]:
    """The entry of a checkpoint in `beside`."""
    metrics, intervals = _entries(other.figures)
    both = {name: figure - other.figures[name] for name, figure in one.figures.items() if name in other.figures}
    differences, of_differences = _entries(both)
    return {
        "checkpoint": evaluation.config.checkpoint,
        "title": other.title,
        "loaded": evaluation.loaded.description,
        "encoder": evaluation.spec.to_dict(),
        "metrics": metrics,
        "intervals": intervals,
        "differences": differences,
        "difference_intervals": of_differences,
    }


def _difference(entry: Mapping[str, Any]) -> str:
    """One line: how far the first encoder's AUC is above another's, by the images that both saw."""
    value, (low, high) = entry["differences"]["auc"], entry["difference_intervals"]["auc"]
    clear = "" if low > 0 or high < 0 else ", within the uncertainty"
    return f"auc: {value:+.1f} points ({low:+.1f} to {high:+.1f}, paired) against {entry['title']}{clear}."


def _shown(
    rows: Sequence[Row], found: Features, evaluation: Evaluation, panels: Sequence[Panel]
) -> list[dict[str, Any]]:
    """What the picture shows, for the result."""
    source, labels = evaluation.test, _labels(found)

    def image(position: int) -> dict[str, Any]:
        return {
            "path": tsv_field(source.path(int(found.indices[position]))),
            "class": source.classes[int(labels[position])],
        }

    return [
        {
            "query": image(row.query),
            "keys": [
                image(key) | {"similarity": {panel.title: panel.similarities[number][place] for panel in panels}}
                for place, key in enumerate(row.keys)
            ],
        }
        for number, row in enumerate(rows)
    ]
