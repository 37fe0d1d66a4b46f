"""Intervals, the result file and what is printed."""

from __future__ import annotations

import io
import json
import math
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from patchmix.errors import UserError
from patchmix.evaluation.results import (
    asked_for,
    print_table,
    result_path,
    spread,
    verdict,
    wilson_interval,
    with_interval,
    write_result,
)


def entries(**changes: Any) -> dict[str, Any]:
    return {
        "command": "knn",
        "checkpoint": "runs/a",
        "data": {"name": "mnist5k"},
        "metrics": {"top1_k20": 96.4},
        "intervals": {"top1_k20": (95.1, 97.4)},
        "settings": {"seed": 0},
        "seconds": 1.23456,
        **changes,
    }


def test_wilson_interval_equals_the_published_example() -> None:
    # Newcombe, Statistics in Medicine 17 (1998), table I: 81 of 263.
    low, high = wilson_interval(81, 263)
    assert (round(low, 2), round(high, 2)) == (25.53, 36.62)


@given(total=st.integers(1, 5000), share=st.floats(0, 1))
def test_wilson_interval_contains_the_accuracy_and_stays_between_0_and_100(total: int, share: float) -> None:
    correct = round(share * total)
    low, high = wilson_interval(correct, total)
    assert 0 <= low <= 100 * correct / total + 1e-9
    assert 100 * correct / total - 1e-9 <= high <= 100
    assert high > low


def test_all_right_and_none_right_are_the_ends_of_their_intervals() -> None:
    totals = (*range(1, 200), 1000, 9999)
    assert {wilson_interval(total, total)[1] for total in totals} == {100}
    assert {wilson_interval(0, total)[0] for total in totals} == {0}


def test_an_end_that_rounding_moved_has_no_minus_sign() -> None:
    assert with_interval(100.0, (97.3, 99.99999999999999)) == "100.0 +0.0 −2.7"
    assert with_interval(0.0, (1e-15, 2.7)) == "0.0 +2.7 −0.0"


def test_where_the_trained_network_lies_is_no_other_setting(tmp_path: Path) -> None:
    path = result_path("finetune", None, str(tmp_path))
    for network in ("results/finetune/model.safetensors", str(tmp_path / "model.safetensors")):
        write_result(path, **entries(command="finetune", settings={"seed": 0, "network": network}))
    assert os.listdir(path.parent) == ["finetune.json"]


def test_one_draw_has_no_spread() -> None:
    assert spread([80.0]) == 0
    assert spread([79.0, 81.0]) == pytest.approx(math.sqrt(2))


def test_a_result_is_one_json_file_with_every_entry(tmp_path: Path) -> None:
    path = result_path("knn", tmp_path, None)
    returned = write_result(path, **entries(), spread={"x": 1.0})
    written = json.loads(path.read_text(encoding="utf-8"))
    assert path == tmp_path / "results" / "knn.json"
    assert written == json.loads(json.dumps(returned))
    assert set(written) >= {"command", "checkpoint", "data", "metrics", "settings", "environment", "seconds"}
    assert written["intervals"]["top1_k20"] == [95.1, 97.4]
    assert written["spread"] == {"x": 1.0}
    assert os.listdir(path.parent) == ["knn.json"]


def test_a_result_that_cannot_be_serialised_leaves_the_old_one_whole(tmp_path: Path) -> None:
    path = result_path("knn", tmp_path, None)
    write_result(path, **entries())
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        write_result(path, **entries(metrics={"top1_k20": math.nan}))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == ["knn.json"]


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint": "runs/b"},
        {"data": {"name": "mnist5k", "fingerprint": {"train": "1"}}},
        {"settings": {"seed": 1}},
        {"settings": {"seed": 0, "run": {"precision": "bf16-mixed"}}},
    ],
)
def test_an_evaluation_of_other_settings_is_kept_and_that_is_said(tmp_path: Path, change: dict[str, Any]) -> None:
    path = result_path("knn", tmp_path, None)
    write_result(path, **entries())
    first, text = path.read_bytes(), io.StringIO()
    write_result(path, **entries(**change), console=Console(file=text, width=40))
    assert path.with_name("knn-1.json").read_bytes() == first
    assert text.getvalue() == f"{path} held an evaluation of other settings: it is kept as knn-1.json\n"
    assert asked_for(read(path)) != asked_for(read(path.with_name("knn-1.json")))


def test_the_same_settings_on_another_machine_replace_the_result(tmp_path: Path) -> None:
    path = result_path("knn", tmp_path, None)
    here = {"seed": 0, "used": {"device": "cpu"}, "run": {"device": "cpu", "num_threads": 2}, "output": None}
    there = {"seed": 0, "used": {"device": "cuda"}, "run": {"device": "auto", "num_threads": 9}, "output": "x"}
    write_result(path, **entries(settings=here))
    text = io.StringIO()
    write_result(path, **entries(settings=there, seconds=9.0), console=Console(file=text))
    assert names(path.parent) == ["knn.json"]
    assert (text.getvalue(), read(path)["seconds"]) == ("", 9.0)


def test_every_setting_has_one_file_and_the_newest_has_the_plain_name(tmp_path: Path) -> None:
    path = result_path("knn", tmp_path, None)
    for seed in (0, 1, 2, 0, 1, 0):
        write_result(path, **entries(settings={"seed": seed}))
        assert read(path)["settings"]["seed"] == seed
    assert names(path.parent) == ["knn-1.json", "knn-2.json", "knn.json"]
    assert sorted(read(each)["settings"]["seed"] for each in path.parent.iterdir()) == [0, 1, 2]


def test_a_damaged_result_is_replaced(tmp_path: Path) -> None:
    path = result_path("knn", tmp_path, None)
    path.write_text('{"metrics": ')
    write_result(path, **entries())
    assert names(path.parent) == ["knn.json"]


def test_output_wins_over_the_run_and_the_current_directory_is_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert result_path("knn", Path("run"), "other") == Path("other/results/knn.json")
    assert result_path("knn", Path("run"), None) == Path("run/results/knn.json")
    assert result_path("knn", None, None) == Path("results/knn.json")


def test_an_unwritable_place_is_found_before_the_work(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file where the directory should be")
    with pytest.raises(UserError, match=r"results cannot be written to .*--output"):
        result_path("knn", tmp_path, None)


def test_intervals_are_shown_by_their_wider_side_and_by_both_at_the_ends() -> None:
    assert with_interval(75.0, (72.9, 77.0)) == "75.0 ± 2.1"
    assert with_interval(99.9, (99.3, 100.0)) == "99.9 +0.1 −0.6"
    assert with_interval(0.1, (0.0, 0.7)) == "0.1 +0.6 −0.1"


def test_piped_tables_are_plain_and_never_cut() -> None:
    text = io.StringIO()
    print_table(Console(file=text, width=20), "A title [not markup]", ["", "k = 10"], [["encoder", "96.4 ± 1.2"] * 1])
    assert text.getvalue().splitlines() == [
        "A title [not markup]",
        "             k = 10",
        "encoder  96.4 ± 1.2",
    ]


def test_terminal_tables_hold_the_same_figures() -> None:
    text = io.StringIO()
    console = Console(file=text, width=80, force_terminal=True)
    print_table(console, "A title [x]", ["", "k = 10"], [["encoder", "96.4 ± 1.2"]])
    assert "96.4 ± 1.2" in text.getvalue()
    assert "A title [x]" in text.getvalue()


def test_the_verdict_doubts_differences_within_the_intervals() -> None:
    metrics = {"top1_k20": 96.0, "pixels_top1_k20": 95.0, "random_init_top1_k20": 60.0}
    intervals = {
        "top1_k20": (95.0, 97.0),
        "pixels_top1_k20": (94.0, 96.0),
        "random_init_top1_k20": (57.0, 63.0),
    }
    line = verdict(metrics, intervals, "top1_k20")
    assert line == (
        "top1_k20: 96.0 ± 1.0 %: 1.0 points above raw pixels, within the uncertainty; "
        "36.0 points above the untrained encoder."
    )


def test_without_baselines_the_verdict_is_the_figure() -> None:
    assert verdict({"top1_k20": 96.0}, {"top1_k20": (95.0, 97.0)}, "top1_k20") == "top1_k20: 96.0 ± 1.0 %."
