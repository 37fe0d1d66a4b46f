"""Folders of comparisons for tests: real file formats, made-up figures, no process started."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from tests.runs import SMALL

from patchmix.comparing.cells import Cell
from patchmix.comparing.command import compare
from patchmix.comparing.request import Request, request
from patchmix.comparing.study import Study
from patchmix.recipes import dump

METRICS = {"knn": "top1_k20", "probe": "top1", "fewshot": "top1_10_per_class"}


def ask(output: Path, **given: Any) -> Request:
    """A request for small runs on the demo's digits."""
    return request("demo", None, {**SMALL, "output": str(output), "optim.epochs": 6, **given})


def cells(asked: Request) -> list[Cell]:
    """The cells that it plans."""
    study = Study(asked, Console(quiet=True))
    study.plan()
    return study.cells


def write_cell(cell: Cell, value: float, evaluations: tuple[str, ...] = ("knn", "probe", "fewshot")) -> None:
    """The run directory of a finished cell; online kNN rises to `value`, and every evaluation gives it."""
    directory, plan = cell.directory, cell.plan
    (directory / "checkpoints").mkdir(parents=True, exist_ok=True)
    (directory / "config.yaml").write_text(dump(cell.config), encoding="utf-8")
    with (directory / "metrics.jsonl").open("w", encoding="utf-8") as file:
        for epoch in range(plan.epochs + 1):
            step = epoch * plan.cost.steps_per_epoch
            knn = value - 10 * (1 - epoch / plan.epochs)
            file.write(json.dumps({"step": step, "epoch": epoch, "kind": "evaluation", "knn_top1": knn}) + "\n")
    (directory / "checkpoints" / f"step-{plan.steps:08d}.safetensors").touch()
    for command in evaluations:
        write_result(cell, command, {METRICS[command]: value, f"pixels_{METRICS[command]}": 1.0})


def write_result(cell: Cell, command: str, metrics: Mapping[str, float], **settings: Any) -> None:
    """results/COMMAND.json of the cell's last checkpoint."""
    result = {
        "command": command,
        "metrics": dict(metrics),
        "intervals": {},
        "settings": {"loaded": f"encoder of a file, step {cell.plan.steps}: 9 of 9 tensors", "fast": True, **settings},
    }
    path = cell.directory / "results" / f"{command}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result), encoding="utf-8")


def summarise(asked: Request) -> tuple[dict[str, Any], str]:
    """comparison.json and what was printed; every cell must be finished, or it would be run."""
    text = io.StringIO()
    return compare(asked, Console(file=text, width=200)), text.getvalue()
