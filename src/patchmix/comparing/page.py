"""index.html of a comparison: one page that needs no other file and no network."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

import patchmix
from patchmix.comparing import summary
from patchmix.comparing.plots import Difference, band_plot, bands, difference_plot
from patchmix.config.options import shown

CURVE_TITLE = "kNN while training, against encoder passes"


def render(content: Mapping[str, Any], output: Path) -> str:
    """The page of what comparison.json holds."""
    failed = [cell for cell in content["cells"] if cell["status"] == "failed"]
    return (
        _templates()
        .get_template("comparison.html")
        .render(
            title=output.resolve().name,
            recipe=content["recipe"],
            names=summary.names(content),
            results=summary.result_table(content),
            differences=summary.difference_table(content),
            plots=[_differences(content, metric) for metric in summary.main_metrics(content) if _has(content, metric)],
            curves=_curves(content),
            notes=summary.notes(content),
            failed=failed,
            open=[cell for cell in content["cells"] if cell["status"] not in ("failed", summary.FINISHED)],
            settings=[_setting(each) for each in content["settings"]["compared"]],
            seeds=content["settings"]["seeds"],
            machine=_machine(content),
            config=yaml.safe_dump(content["settings"]["config"], sort_keys=False, allow_unicode=True),
            commands=content["commands"],
            written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            version=patchmix.__version__,
        )
    )


@functools.cache
def _templates() -> Environment:
    """Templates of ours, then those of reports, whose style and macros they use."""
    loaders = [PackageLoader("patchmix.comparing"), PackageLoader("patchmix.reporting")]
    return Environment(
        loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )


def _has(content: Mapping[str, Any], metric: str) -> bool:
    return any(row["metric"] == metric for row in content["differences"])


def _differences(content: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """A plot with its title and the words for those who do not see it."""
    found = [row for row in content["differences"] if row["metric"] == metric]
    rows = [
        Difference(row["name"], row["mean"], tuple(row["interval95"]) if row["interval95"] else None) for row in found
    ]
    words = "; ".join(
        f"{row['name']} {summary.signed(row['mean'])}, 95 % interval {summary.interval(row)}" for row in found
    )
    plot = difference_plot(rows, xlabel=f"points above {content['reference']}")
    return {"title": summary.title(metric), "note": "", "plot": plot, "alt": f"Differences: {words}."}


def _curves(content: Mapping[str, Any]) -> dict[str, Any] | None:
    found = bands(summary.curves(content))
    if not found:
        return None
    words = "; ".join(f"{band.label} ends at {band.mean[-1]:.1f} %" for band in found)
    note = "mean over seeds, with a band from the lowest to the highest; on training images, k = 20"
    plot = band_plot(found, ylabel="kNN top-1, %")
    return {"title": CURVE_TITLE, "note": note, "plot": plot, "alt": f"{CURVE_TITLE}: {words}."}


def _setting(entry: Mapping[str, Any]) -> dict[str, Any]:
    cost = entry["cost"] or {}
    return {
        "name": entry["name"],
        "options": ", ".join(
            f"{name} {value if isinstance(value, str) else shown(value)}" for name, value in entry["given"].items()
        ),
        "units": "–" if not cost else f"{cost['forward_units']:.4g}",
        "epochs": "–" if entry["epochs"] is None else f"{entry['epochs']:,}",
    }


def _machine(content: Mapping[str, Any]) -> str:
    hardware, settings = content["environment"]["hardware"], content["settings"]
    gpus = ", ".join(gpu["name"] for gpu in hardware["gpus"])
    threads = f"{settings['num_threads']} thread{'' if settings['num_threads'] == 1 else 's'} each"
    return f"{gpus or hardware['cpu']}; {settings['at_once']} at once, {threads}"
