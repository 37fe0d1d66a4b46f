"""Section: what the features are worth, on test images, beside an untrained encoder and pixels."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from patchmix.evaluation.results import with_interval
from patchmix.reporting.plots import Range, interval_plot
from patchmix.reporting.run_files import Result, RunFiles
from patchmix.reporting.section import Section

SUBJECTS = {"": "this run", "pixels_": "raw pixels", "random_init_": "untrained encoder"}
COMMANDS = {
    "knn": ("Nearest neighbours", "weighted votes of the k most similar training images"),
    "fewshot": ("Few labels", "logistic regression on the features of a few labelled images"),
    "probe": ("Linear probe", "linear classifiers on frozen features; the head that held-out training images chose"),
    "finetune": ("Fine-tuning", "the whole network, trained with all labels"),
    "similarity": ("Similarity of pairs", "cosine × 100 of all pairs of test images; AUC: of one class against two"),
}
CLASSIFIERS = {"": "", "knn_": ", nearest neighbours", "finetune_": ", fine-tuned"}
"""What the names of few-label metrics begin with, as a heading ends."""


@dataclass(frozen=True)
class Measured:
    """A figure with its 95 % interval, None where the file has none."""

    value: float
    interval: tuple[float, float] | None

    @property
    def text(self) -> str:
        """`96.4 ± 1.2`."""
        return f"{self.value:.1f}" if self.interval is None else with_interval(self.value, self.interval)


def figures(result: Result) -> dict[str, dict[str, Measured]]:
    """{metric: {prefix: figure}} of a result; the prefixes are those of SUBJECTS."""
    intervals = result.get("intervals") or {}
    found: dict[str, dict[str, Measured]] = {}
    for name, value in result["metrics"].items():
        if not isinstance(value, int | float):
            continue
        prefix = next((each for each in SUBJECTS if each and name.startswith(each)), "")
        interval = intervals.get(name)
        pair = (float(interval[0]), float(interval[1])) if isinstance(interval, list) and len(interval) == 2 else None
        found.setdefault(name.removeprefix(prefix), {})[prefix] = Measured(float(value), pair)
    return found


def main_metric(names: list[str]) -> str | None:
    """The metric that a result is judged by: 20 neighbours, 10 labels per class, top-1; else the first."""
    preferred = ("top1_k20", "top1_10_per_class", "top1")
    return next((name for name in preferred if name in names), next(iter(names), None))


HEADINGS = {
    "map": "retrieval, mAP",
    "top1": "top-1",
    "top5": "top-5",
    "top1_published": "the paper's head",
    "top5_published": "the paper's head, top-5",
    "top1_ema": "moving average of the weights",
    "top5_ema": "moving average, top-5",
    "holdout_top1": "held-out training images",
    "auc": "AUC of pairs",
    "within_class": "pairs of one class",
    "between_class": "pairs of two classes",
    "gap": "gap",
    "gap_in_sd": "gap in standard deviations",
}


def heading(metric: str) -> str:
    """`top1_k20` as a column heading."""
    if match := re.fullmatch(r"top1_k(\d+)", metric):
        return f"k = {match[1]}"
    if match := re.fullmatch(r"recall_at_(\d+)", metric):
        return f"retrieval, recall@{match[1]}"
    if metric in HEADINGS:
        return HEADINGS[metric]
    if match := re.fullmatch(r"(knn_|finetune_|)top1_([\d.]+)_(per_class|percent)", metric):
        number = match[2]
        plural = "" if number == "1" else "s"
        labels = f"{number} label{plural} per class" if match[3] == "per_class" else f"{number} % of the labels"
        return labels + CLASSIFIERS[match[1]]
    return metric


def section(run: RunFiles) -> Section:
    """Tables and plots of results/*.json."""
    tables = [_table(command, result, run.last_step) for command, result in run.results.items()]
    broken = [name for name in run.unreadable if name != "environment.json"]
    return Section(
        "measured",
        "What the features are worth",
        {"tables": tables, "broken": broken, "has_test_labels": run.has_test_labels if not tables else None},
    )


def _table(command: str, result: Result, last_step: int) -> dict[str, Any]:
    by_metric = figures(result)
    title, how = COMMANDS.get(command, (command, ""))
    prefixes = [each for each in SUBJECTS if any(each in row for row in by_metric.values())]
    rows = [
        (heading(name), [row[prefix].text if prefix in row else "–" for prefix in prefixes])
        for name, row in by_metric.items()
    ]
    metric = main_metric(list(by_metric))
    data = result.get("data") or {}
    step = measured_step(result)
    return {
        "title": title,
        "how": how,
        "columns": [SUBJECTS[prefix] for prefix in prefixes],
        "rows": rows,
        "plot": _plot(by_metric[metric], heading(metric)) if metric else None,
        "alt": _alt(by_metric[metric], heading(metric)) if metric else "",
        "num_test": data.get("num_test"),
        "num_train": data.get("num_train"),
        "data": data.get("name"),
        "step": step if step is not None and step < last_step else None,
    }


def measured_step(result: Result) -> int | None:
    """The step of the checkpoint that was measured; None where the result does not say."""
    settings = result.get("settings")
    loaded = settings.get("loaded") if isinstance(settings, dict) else None
    match = re.search(r", step (\d+): ", loaded) if isinstance(loaded, str) else None
    return int(match[1]) if match else None


def _plot(row: dict[str, Measured], name: str) -> Markup | None:
    ranges = [
        Range(SUBJECTS[prefix], each.value, *(each.interval or (each.value, each.value)))
        for prefix, each in ((prefix, row.get(prefix)) for prefix in SUBJECTS)
        if each is not None
    ]
    what = "pairs" if name == HEADINGS["auc"] else "test images"
    return interval_plot(ranges, xlabel=f"right, % of the {what} ({name})") if len(ranges) > 1 else None


def _alt(row: dict[str, Measured], name: str) -> str:
    parts = [f"{SUBJECTS[prefix]} {row[prefix].text} %" for prefix in SUBJECTS if prefix in row]
    return f"Accuracy with 95 % intervals, {name}: " + ", ".join(parts)
