"""What a comparison comes to: comparison.json, and its tables in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from patchmix.comparing.differences import describe, paired
from patchmix.progress import duration
from patchmix.reporting.measured import heading, main_metric

Entry = dict[str, Any]

TITLES = {"knn_": "kNN", "probe_fast_": "fast probe", "fewshot_": "few labels", "online_": "online"}
"""What metrics' names begin with, in words."""
FINISHED, ELSEWHERE = "finished", "running elsewhere"
HEADS = ("model.drop_path", "model.projector_width", "model.projection_size")
"""Options of the model that change neither what a pass of the encoder is nor what it costs, which counts no heads."""


def statistics(cells: Sequence[Entry], reference: str) -> dict[str, list[Entry]]:
    """`table` and `differences` over the finished cells: every metric of every setting."""
    table, differences = [], []
    for metric in dict.fromkeys(name for cell in cells for name in cell["metrics"]):
        values = by_seed(cells, metric)
        for name, found in values.items():
            table.append({"name": name, "metric": metric, **describe(list(found.values()))})
            difference = paired(found, values.get(reference, {})) if name != reference else None
            if difference is not None:
                differences.append({"name": name, "reference": reference, "metric": metric, **difference})
    return {"table": table, "differences": differences}


def by_seed(cells: Iterable[Entry], metric: str) -> dict[str, dict[int, float]]:
    """{name of the setting: {seed: value}} of the finished cells that have the metric."""
    found: dict[str, dict[int, float]] = {}
    for cell in cells:
        if cell["status"] == FINISHED and metric in cell["metrics"]:
            found.setdefault(cell["name"], {})[cell["seed"]] = cell["metrics"][metric]
    return found


def main_metrics(content: Mapping[str, Any]) -> list[str]:
    """The metric of each evaluation that tables show; online kNN where nothing else was measured."""
    names = list(dict.fromkeys(row["metric"] for row in content["table"]))
    found: list[str] = []
    for prefix in TITLES:
        own = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
        best = main_metric(own)
        if best is not None and (prefix != "online_" or not found):
            found.append(prefix + best)
    return found


def curves(content: Mapping[str, Any]) -> dict[str, list[Any]]:
    """{name of the setting: the learning curves of its finished cells}: what bands are drawn from."""
    found: dict[str, list[Any]] = {name: [] for name in names(content)}
    for cell in content["cells"]:
        if cell["status"] == FINISHED:
            found[cell["name"]].append(cell["curve"])
    return found


def title(metric: str) -> str:
    """`kNN, k = 20`."""
    if metric == "online_knn_top1":
        return "kNN while training"
    prefix = next((each for each in TITLES if metric.startswith(each)), "")
    return f"{TITLES[prefix]}, {heading(metric.removeprefix(prefix))}" if prefix else metric


def result_table(content: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: what each setting cost, and mean ± standard deviation (n) of the main metrics."""
    metrics = main_metrics(content)
    found = {(row["name"], row["metric"]): row for row in content["table"]}
    rows = []
    for setting in content["settings"]["compared"]:
        cells = [cell for cell in content["cells"] if cell["name"] == setting["name"]]
        seconds = [cell["seconds"] for cell in cells if cell["status"] == FINISHED and cell["seconds"] is not None]
        rows.append(
            [
                setting["name"],
                "–" if setting["epochs"] is None else f"{setting['epochs']:,}",
                "–" if setting["encoder_passes"] is None else millions(setting["encoder_passes"]),
                duration(sum(seconds) / len(seconds)) if seconds else "–",
                *(_mean(found.get((setting["name"], metric))) for metric in metrics),
            ]
        )
    return ["", "epochs", "encoder passes", "time of a run", *(f"{title(metric)}, %" for metric in metrics)], rows


def difference_table(content: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: the main metrics' differences to the reference."""
    metrics = main_metrics(content)
    rows = [
        [
            row["name"],
            title(row["metric"]),
            signed(row["mean"]),
            interval(row),
            f"{row['n']}",
            "–" if row["detectable"] is None else f"{row['detectable']:.2f}",
        ]
        for metric in metrics
        for row in content["differences"]
        if row["metric"] == metric
    ]
    return ["", "metric", f"minus {content['reference']}", "95 % interval", "pairs", "could be seen"], rows


def interval(row: Mapping[str, Any]) -> str:
    """`+0.40 to +2.10`; a single pair has none."""
    if row["interval95"] is None:
        return "none: one pair"
    return " to ".join(signed(value) for value in row["interval95"])


def millions(passes: float) -> str:
    """Encoder passes as a reader takes them in: `1.86 M`, `4,608`."""
    return f"{passes / 1e6:,.4g} M" if passes >= 1e6 else f"{passes:,.0f}"


def signed(points: float) -> str:
    """`+0.40`, `−0.40`."""
    return f"{points:+.2f}".replace("-", "−")


def notes(content: Mapping[str, Any]) -> list[str]:
    """What must be known to read the tables."""
    said = []
    budget = content["budget"]
    if budget == "encoder-passes":
        said.append(
            "Equal cost: whole epochs whose encoder passes come nearest to the reference's; "
            f"at most {100 * _largest_deviation(content):.1f} % beside it."
        )
        if _encoders_differ(content):
            said.append(
                "The encoders or their inputs differ, so a pass of one does not cost what a pass of another does."
            )
    if budget == "seconds" and (off := _off_the_clock(content)) is not None:
        said.append(
            f"Equal cost: whole epochs whose steps come nearest to {content['settings']['seconds_per_run']:g} s by a "
            f"trial of each setting; at most {100 * off:.1f} % beside it."
        )
    said += _software(content)
    counts: dict[str, int] = {}
    for cell in content["cells"]:
        counts[cell["status"]] = counts.get(cell["status"], 0) + 1
    if set(counts) - {FINISHED}:
        said.append("Runs: " + ", ".join(f"{number} {status}" for status, number in counts.items()) + ".")
    if any(row["n"] == 1 for row in content["table"]):
        said.append("One seed has no spread: run more to tell a difference from luck.")
    if not content["measurable"]:
        said.append("The data has no labelled test images: nothing was measured after training.")
    return said


def markdown(content: Mapping[str, Any]) -> str:
    """table.md."""
    parts = [f"# {content['recipe'] or 'Comparison'}: {', '.join(names(content))}"]
    for headings, rows in (result_table(content), difference_table(content)):
        if rows:
            parts.append(markdown_table(headings, rows))
    parts += notes(content)
    return "\n\n".join(parts) + "\n"


def markdown_table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown: the first column to the left, figures to the right."""
    lines = [headings, ["---", *["---:"] * (len(headings) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def names(content: Mapping[str, Any]) -> list[str]:
    """The settings, the reference first."""
    return [setting["name"] for setting in content["settings"]["compared"]]


def _mean(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return "–"
    return f"{row['mean']:.2f} (1)" if row["std"] is None else f"{row['mean']:.2f} ± {row['std']:.2f} ({row['n']})"


def _largest_deviation(content: Mapping[str, Any]) -> float:
    """Of encoder passes from the reference's, as a share of these."""
    passes = [setting["encoder_passes"] for setting in content["settings"]["compared"]]
    return max((abs(each / passes[0] - 1) for each in passes if each is not None and passes[0]), default=0.0)


def _off_the_clock(content: Mapping[str, Any]) -> float | None:
    """The largest share by which a run's steps, at its trial's pace, differ from the seconds that it was to take."""
    wanted = content["settings"]["seconds_per_run"]
    shares = [
        abs(each["epochs"] * each["cost"]["steps_per_epoch"] * each["seconds_per_step"] / wanted - 1)
        for each in content["settings"]["compared"]
        if each["epochs"] and each["cost"] and each["seconds_per_step"]
    ]
    return max(shares, default=None)


def _software(content: Mapping[str, Any]) -> list[str]:
    """A note where finished cells were trained by different packages or commits."""
    found: dict[str, list[str]] = {}
    for cell in content["cells"]:
        for name, version in (cell.get("software") or {}).items() if cell["status"] == FINISHED else ():
            if version not in found.setdefault(name, []):
                found[name].append(version)
    several = [f"{name} {' and '.join(map(str, all_of_it))}" for name, all_of_it in found.items() if len(all_of_it) > 1]
    return [f"The runs were not all trained by the same software: {'; '.join(several)}."] if several else []


def _encoders_differ(content: Mapping[str, Any]) -> bool:
    given = {key for setting in content["settings"]["compared"] for key in setting["given"]} - {*HEADS}
    return any(key.startswith(("model.", "data.image_size")) for key in given)
