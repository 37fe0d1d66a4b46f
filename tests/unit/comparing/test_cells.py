"""A cell's run directory: what is finished, what is measured, and what is never mixed in."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.unit.comparing.studies import ask, cells, write_cell, write_result

from patchmix import checkpoint
from patchmix.comparing.cells import Cell
from patchmix.errors import UserError
from patchmix.recipes import dump

ALL = ("knn", "probe", "fewshot")


@pytest.fixture
def cell(tmp_path: Path) -> Cell:
    return cells(ask(tmp_path / "study", seeds=1))[0]


def test_a_cell_is_finished_when_its_last_step_is_saved_and_measured(cell: Cell) -> None:
    assert not cell.has_begun
    assert cell.steps_done == 0
    assert cell.missing(ALL) == list(ALL)
    write_cell(cell, 90.0, evaluations=("knn",))
    assert cell.is_trained
    assert cell.steps_done == cell.plan.steps == 18
    assert cell.missing(ALL) == ["probe", "fewshot"]
    newest = cell.directory / "checkpoints" / "step-00000018.safetensors"
    newest.rename(newest.with_name("step-00000012.safetensors"))
    assert not cell.is_trained
    assert cell.steps_done == 12


def test_results_of_an_earlier_checkpoint_or_another_protocol_do_not_count(cell: Cell) -> None:
    write_cell(cell, 90.0)
    assert cell.missing(ALL) == []
    write_result(cell, "knn", {"top1_k20": 1.0}, loaded="encoder of a file, step 9: 9 of 9 tensors")
    write_result(cell, "probe", {"top1": 1.0}, fast=False)
    (cell.directory / "results" / "fewshot.json").write_text("{")
    assert cell.missing(ALL) == list(ALL)
    assert set(cell.metrics([])) == set()


def test_a_result_of_other_options_made_by_hand_does_not_count(cell: Cell) -> None:
    write_cell(cell, 90.0)
    write_result(cell, "knn", {"top1_k20": 1.0}, data={"limit": 50})
    write_result(cell, "fewshot", {"top1_10_per_class": 1.0}, draws=1)
    assert cell.missing(ALL) == ["knn", "fewshot"]
    assert set(cell.metrics([])) == {"probe_fast_top1"}


def test_a_cell_that_another_process_trains_is_left_to_it(cell: Cell) -> None:
    assert not cell.is_running_elsewhere
    write_cell(cell, 90.0)
    code = "import sys, pathlib, patchmix.run_directory as r; lock = r.lock_directory(pathlib.Path(sys.argv[1]))"
    code += "; print(flush=True); sys.stdin.read()"
    line = [sys.executable, "-c", code, str(cell.directory)]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert cell.is_running_elsewhere
        process.communicate()
    assert not cell.is_running_elsewhere


def test_metrics_are_named_by_evaluation_and_leave_baselines_out(cell: Cell) -> None:
    write_cell(cell, 90.0)
    records = cell.records()
    assert cell.metrics(records) == {
        "knn_top1_k20": 90.0,
        "probe_fast_top1": 90.0,
        "fewshot_top1_10_per_class": 90.0,
        "online_knn_top1": 90.0,
    }


def test_the_curve_is_online_knn_against_images_through_the_encoder(cell: Cell) -> None:
    write_cell(cell, 90.0)
    curve = cell.curve(cell.records())
    assert len(curve) == 7
    assert curve[0] == [0.0, 80.0]
    assert curve[-1] == [cell.plan.encoder_passes, 90.0]
    assert curve[-1][0] == 18 * 8 * 32  # steps, forward units without a momentum encoder, batch


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optim.lr": 0.5}, r"optim.lr 0.02 → 0.5"),
        ({"optim.epochs": 7}, r"optim.epochs 6 → 7"),
        ({"run.eval_images": 500}, r"run.eval_images \d+ → 500"),
        ({"method.momentum": 0.9}, r"method.momentum null → 0.9"),
        ({"run.precision": "16-mixed"}, r"run.precision 'auto' → '16-mixed'"),
    ],
)
def test_planning_refuses_a_cell_of_other_settings(options: dict[str, object], words: str, tmp_path: Path) -> None:
    write_cell(cells(ask(tmp_path / "study", seeds=1))[0], 90.0)
    with pytest.raises(UserError, match=rf"patchmix-s0 holds a run of other settings .*{words}.*: move it away"):
        cells(ask(tmp_path / "study", seeds=1, **options))


def test_planning_takes_a_cell_that_differs_in_bookkeeping_only(tmp_path: Path) -> None:
    before = cells(ask(tmp_path / "study", seeds=1))[0]
    write_cell(before, 90.0)
    again = cells(ask(tmp_path / "study", seeds=1, **{"run.num_threads": 2, "run.tensorboard": False}))[0]
    assert again.is_trained


def test_another_seed_in_a_cells_directory_is_refused(tmp_path: Path) -> None:
    first, second = cells(ask(tmp_path / "study", seeds=2, methods="patchmix"))
    write_cell(first, 90.0)
    first.directory.rename(second.directory)
    with pytest.raises(UserError, match="seed 0 → 1"):
        second.refuse_other()
    (second.directory / "config.yaml").write_text(dump(second.config), encoding="utf-8")
    second.refuse_other()


@pytest.mark.parametrize(
    ("configured", "trained", "refused"),
    [("auto", "32-true", False), ("32-true", "32-true", False), ("auto", "16-mixed", True)],
)
def test_precision_is_what_a_run_was_trained_in_and_not_the_word_auto(
    configured: str, trained: str, refused: bool, tmp_path: Path
) -> None:
    before = cells(ask(tmp_path / "study", seeds=1, **{"run.precision": configured}))[0]
    write_cell(before, 90.0)
    (newest,) = (before.directory / "checkpoints").iterdir()
    newest.unlink()
    checkpoint.write(newest, {"weights": torch.zeros(1)}, {"step": before.plan.steps, "precision": trained})
    if refused:
        with pytest.raises(UserError, match=r"run\.precision '16-mixed' → '32-true'"):
            cells(ask(tmp_path / "study", seeds=1, **{"run.precision": "32-true"}))
    else:
        assert cells(ask(tmp_path / "study", seeds=1, **{"run.precision": "32-true"}))[0].is_trained
