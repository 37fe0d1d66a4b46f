"""`patchmix compare` with real processes: runs, goes on, takes more, survives what fails and what stops it."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from tests.runs import SMALL, command, stop, wait_for_step

import patchmix
from patchmix import cli
from patchmix.checkpoint import list_checkpoints
from patchmix.metrics_file import read_metrics

TINY: dict[str, Any] = {**SMALL, "optim.epochs": 1, "run.checkpoint_every_steps": 100, "evaluations": ()}


def compare(output: Path, **given: Any) -> dict[str, Any]:
    return patchmix.compare("demo", output=output, **{**TINY, **given})


def states(content: dict[str, Any]) -> dict[str, str]:
    return {f"{cell['name']}-s{cell['seed']}": cell["status"] for cell in content["cells"]}


def commands_in(log: Path) -> list[str]:
    return [line.split()[2] for line in log.read_text().splitlines() if line.startswith("$ patchmix ")]


def processes_of(folder: Path) -> list[str]:
    """Command lines of running processes that name the folder."""
    found = []
    for each in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            text = each.read_text(errors="replace")
        except OSError:  # it has ended
            continue
        if str(folder / "cells") in text:
            found.append(text)
    return found


def test_methods_run_for_equal_cost_each_in_its_process(tmp_path: Path) -> None:
    output = tmp_path / "study"
    content = compare(output, seeds="3,", at_once=2, evaluations=("knn",), **{"optim.epochs": 3})
    assert states(content) == {"patchmix-s3": "finished", "moco-v3-s3": "finished"}
    cells = {cell["name"]: cell for cell in content["cells"]}
    assert (cells["patchmix"]["epochs"], cells["moco-v3"]["epochs"]) == (3, 4)
    for name, cell in cells.items():
        directory = output / cell["directory"]
        assert commands_in(output / "cells" / f"{name}-s3.log") == ["pretrain", "knn"]
        training, evaluations = read_metrics(directory / "metrics.jsonl")
        assert [record["step"] for record in training] == list(range(1, cell["steps"] + 1))
        assert [y for _, y in cell["curve"]] == [record["knn_top1"] for record in evaluations]
        result = json.loads((directory / "results" / "knn.json").read_text())
        assert cell["metrics"]["knn_top1_k20"] == result["metrics"]["top1_k20"]
        assert cell["seconds"] > 0
        assert json.loads((directory / "environment.json").read_text())["recipe"] == "demo"
    lines = [cell["name"] for cell in content["table"] if cell["metric"] == "knn_top1_k20"]
    assert lines == ["patchmix", "moco-v3"]
    assert {path.name for path in output.iterdir()} == {
        *("cells", "comparison.json", "index.html", "table.md", ".lock"),
    }


@pytest.mark.slow
def test_a_seed_joins_and_what_is_finished_is_not_run_again(tmp_path: Path) -> None:
    output = tmp_path / "study"
    first = compare(output, methods="patchmix", seeds=1)
    before = {path: path.stat().st_mtime_ns for path in (output / "cells").rglob("*") if path.is_file()}
    content = patchmix.compare(output=output, seeds=2)
    assert states(content) == {"patchmix-s0": "finished", "patchmix-s1": "finished"}
    assert content["cells"][0] == first["cells"][0]
    assert before == {path: path.stat().st_mtime_ns for path in before}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)],
    ids=["ctrl-c", "sigterm", "hangup"],
)
def test_a_signal_saves_all_runs_leaves_no_process_and_the_rest_is_done_later(
    number: signal.Signals, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "study"
    options = {**TINY, "optim.epochs": 100, "run.eval_every_epochs": 50}
    del options["evaluations"]
    words = ("--evaluations", "[]", "--methods", "patchmix", "--variant", "weak", "method.smoothing=0.1")
    line = command("compare", "--recipe", "demo", "--output", output, "--seeds", "1", "--at_once", "2", *words)
    line += command("", **options)[4:]
    before = signal.signal(number, signal.SIG_DFL)  # what is ignored here (nohup) would be ignored there
    try:
        process = subprocess.Popen(
            line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
    finally:
        signal.signal(number, before)
    cell = output / "cells" / "weak-s0"
    try:
        wait_for_step(process, cell, 2, seconds=600)
        assert cli.main(["compare", "--output", str(output)]) == 2
        assert "another process is at work in" in capsys.readouterr().err
    finally:
        found, out, err = stop(process, number)
    assert (found, err) == (code, "")
    assert f"Go on with: patchmix compare --output {output}" in out
    deadline = time.monotonic() + 10
    while processes_of(output) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert processes_of(output) == []
    content = json.loads((output / "comparison.json").read_text())
    assert states(content)["weak-s0"] == "unfinished"
    assert 2 <= int(list_checkpoints(cell)[0].stem[-8:]) < 300
    content = patchmix.compare(output=output)
    assert states(content) == {"patchmix-s0": "finished", "weak-s0": "finished"}
    assert [record["step"] for record in read_metrics(cell / "metrics.jsonl")[0]] == list(range(1, 301))
    assert content["settings"]["at_once"] == 2


@pytest.mark.slow
def test_a_run_that_fails_is_shown_and_tried_again_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "study"
    broken = {"broken": {"optim.lr": 1e30}}
    content = compare(output, methods="patchmix", variants=broken, seeds=1, **{"optim.epochs": 4})
    assert states(content) == {"patchmix-s0": "finished", "broken-s0": "failed"}
    (failed,) = (cell for cell in content["cells"] if cell["status"] == "failed")
    assert "is not finite" in failed["error"]
    assert {row["name"] for row in content["table"]} == {"patchmix"}
    assert "is not finite" in (output / "index.html").read_text()
    capsys.readouterr()
    assert cli.main(["compare", "--output", str(output)]) == 1
    assert "broken-s0 failed" in capsys.readouterr().out
    assert commands_in(output / "cells" / "broken-s0.log") == ["pretrain", "pretrain"]
    assert commands_in(output / "cells" / "patchmix-s0.log") == ["pretrain"]


@pytest.mark.slow
def test_budget_seconds_times_each_setting_once(tmp_path: Path) -> None:
    output = tmp_path / "study"
    given: dict[str, Any] = {"budget": "seconds", "seconds_per_run": 2.0, "seeds": 1, "methods": "patchmix"}
    content = compare(output, variants={"small": {"model.depth": 1}}, **given)
    compared = content["settings"]["compared"]
    for each in compared:
        assert each["seconds_per_step"] > 0
        assert each["epochs"] == max(1, int(2.0 / (each["seconds_per_step"] * 3) + 0.5))
    assert not (output / "trials").exists()
    assert set(states(content).values()) == {"finished"}
    assert patchmix.compare(output=output)["settings"]["compared"] == compared
