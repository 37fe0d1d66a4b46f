"""What a run writes down, and what a person sees of it."""

from __future__ import annotations

import io
import json
import math
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from patchmix.config import Config, OptimConfig, RunConfig
from patchmix.errors import RunError
from patchmix.progress import duration
from patchmix.tracking import Tracker, read_metrics, truncate_metrics


class Clock:
    """A clock that tests turn by hand."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def config(**run: Any) -> Config:
    return Config(optim=OptimConfig(epochs=4, batch_size=64, warmup_epochs=1), run=RunConfig(tensorboard=False, **run))


def tracker(directory: Path, settings: Config | None = None, resume_step: int = 0, **options: Any) -> Tracker:
    options.setdefault("console", Console(file=io.StringIO(), width=120))
    options = {"total_steps": 400, "steps_per_epoch": 100, "title": "demo", **options}
    return Tracker(directory, settings or config(), resume_step=resume_step, **options)


def record(step: int, loss: Any = 3.0, **more: Any) -> dict[str, Any]:
    return {"step": step, "epoch": (step - 1) // 100, "loss": loss, "images_per_second": 1600.0, **more}


def lines(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def test_tensors_become_numbers_and_none_becomes_null(tmp_path: Path) -> None:
    with tracker(tmp_path) as log:
        log.log_step(record(1, torch.tensor(2.5), lr=0.1, momentum=None, grad_norm=torch.tensor(0.5).double()))
    expected = {"step": 1, "epoch": 0, "loss": 2.5, "images_per_second": 1600.0}
    assert lines(tmp_path) == [{**expected, "lr": 0.1, "momentum": None, "grad_norm": 0.5}]


def test_records_are_kept_back_until_log_every_steps(tmp_path: Path) -> None:
    with tracker(tmp_path, config(log_every_steps=3)) as log:
        for step in (1, 2):
            log.log_step(record(step))
        assert lines(tmp_path) == []
        log.log_step(record(3))
        assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3]
        log.log_step(record(4))
    assert [line["step"] for line in lines(tmp_path)] == [1, 2, 3, 4]


def test_an_evaluation_stands_after_the_steps_before_it(tmp_path: Path) -> None:
    with tracker(tmp_path, config(log_every_steps=50)) as log:
        log.log_step(record(1))
        log.log_epoch({"step": 1, "epoch": 1, "knn_top1": 91.5})
        log.log_step(record(2))
    assert [(line["step"], line.get("kind")) for line in lines(tmp_path)] == [
        (1, None),
        (1, "evaluation"),
        (2, None),
    ]
    training, evaluations = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in training] == [1, 2]
    assert evaluations == [{"step": 1, "epoch": 1, "knn_top1": 91.5, "kind": "evaluation"}]


def test_a_non_finite_loss_is_reported_with_its_first_step_and_the_file_stays_json(tmp_path: Path) -> None:
    with tracker(tmp_path, config(log_every_steps=50)) as log:
        for step, loss in ((1, 2.0), (2, math.nan), (3, math.inf)):
            assert log.log_step(record(step, torch.tensor(loss))) is None
        assert log.flush() == 2
        assert log.log_step(record(4)) == 2
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    training, _ = read_metrics(tmp_path / "metrics.jsonl")
    assert math.isnan(training[1]["loss"])
    assert training[2]["loss"] == math.inf


def test_other_processes_check_losses_but_write_nothing(tmp_path: Path) -> None:
    with tracker(tmp_path, main=False) as log:
        assert log.log_step(record(1, torch.tensor(math.nan))) == 1
        log.log_epoch({"step": 1, "epoch": 0})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("torn", [b"", b'{"step": 7, "lo', b"\x00\x00\x00", b'{"step": 8}', b"[1, 2]\n", b"\n"])
def test_resume_leaves_every_step_once_wherever_the_run_was_killed(tmp_path: Path, torn: bytes) -> None:
    path = tmp_path / "metrics.jsonl"
    whole = b"".join(json.dumps(record(step)).encode() + b"\n" for step in range(1, 7))
    path.write_bytes(whole + torn)
    truncate_metrics(path, 4)
    with tracker(tmp_path, resume_step=4) as log:
        for step in range(5, 9):
            log.log_step(record(step))
    assert [line["step"] for line in lines(tmp_path)] == list(range(1, 9))
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_truncating_keeps_evaluations_of_the_step_and_counts_what_it_drops(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    kept = '{"step": 4, "loss": 1}\n{"step": 4, "kind": "evaluation"}\n'
    path.write_text(kept + '{"step": 5, "loss": 1}\n{"step": 5, "kind": "evaluation"}\n{"st')
    assert truncate_metrics(path, 4) == 3
    assert path.read_text() == kept


def test_truncating_touches_nothing_where_nothing_is_to_be_dropped(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert truncate_metrics(path, 4) == 0
    assert not path.exists()
    path.write_text('{"step": 4}\n')
    before = path.stat().st_ino
    assert truncate_metrics(path, 4) == 0
    assert path.stat().st_ino == before


def test_truncating_ends_a_last_record_that_lacks_only_its_newline(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 3}\n{"step": 4}')
    assert truncate_metrics(path, 4) == 0
    assert path.read_text() == '{"step": 3}\n{"step": 4}\n'


def test_reading_passes_over_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "lo')
    assert read_metrics(path) == ([{"step": 1, "loss": 2.0}], [])
    assert read_metrics(tmp_path / "absent") == ([], [])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_one_line_that_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")
    log = tracker(tmp_path)
    with pytest.raises(RunError, match=r"cannot write .*metrics.jsonl: No space left.*--resume") as caught:
        log.log_step(record(1))
    log.close()
    assert "\n" not in str(caught.value)


def test_what_ended_the_run_is_not_hidden_by_a_full_disk(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs Linux's /dev/full")
    (tmp_path / "metrics.jsonl").symlink_to("/dev/full")

    def interrupted_run() -> None:
        with tracker(tmp_path, config(log_every_steps=9)) as log:
            log.log_step(record(1))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted_run()


def events(directory: Path) -> Iterator[tuple[str, int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(directory / "tensorboard"))
    accumulator.Reload()
    for tag in accumulator.Tags()["scalars"]:
        for event in accumulator.Scalars(tag):
            yield tag, event.step, event.value


@pytest.mark.parametrize("resume_step", [0, 4])
def test_tensorboard_shows_every_step_once_after_a_resume(tmp_path: Path, resume_step: int) -> None:
    settings = replace(config(), run=RunConfig(tensorboard=True))
    with tracker(tmp_path, settings) as log:
        for step in range(1, 7):
            log.log_step(record(step, 1.0, loss_mix_to_mix=0.5, lr=0.1, momentum=None))
        log.log_epoch({"step": 6, "epoch": 1, "knn_top1": 50.0})
    truncate_metrics(tmp_path / "metrics.jsonl", resume_step)
    time.sleep(1)  # TensorBoard reads files in the order of their names: the second, then how many this process made
    with tracker(tmp_path, settings, resume_step=resume_step) as log:
        for step in range(resume_step + 1, 9):
            log.log_step(record(step, 2.0, loss_mix_to_mix=0.5, lr=0.1, momentum=None))
        log.log_epoch({"step": 8, "epoch": 2, "knn_top1": 60.0})
    seen = list(events(tmp_path))
    losses = [(step, value) for tag, step, value in seen if tag == "loss/total"]
    assert losses == [(step, 1.0 if step <= resume_step else 2.0) for step in range(1, 9)]
    assert [(step, value) for tag, step, value in seen if tag == "evaluation/knn_top1"] == [(8, 60.0)]
    assert {tag for tag, _, _ in seen} == {
        "loss/total",
        "loss/mix_to_mix",
        "optim/lr",
        "speed/images_per_second",
        "evaluation/knn_top1",
    }


def test_a_log_file_gets_few_plain_lines_that_read_well(tmp_path: Path) -> None:
    clock, file = Clock(), io.StringIO()
    with tracker(tmp_path, console=Console(file=file, width=80), clock=clock) as log:
        for step in range(1, 401):
            clock.now += 0.5
            log.log_step(record(step, 4.0))
            if step % 100 == 0:
                log.log_epoch({"step": step, "epoch": step // 100, "knn_top1": 90.0 + step / 100, "rankme": 12.0})
    shown = file.getvalue().splitlines()
    assert shown[0] == "  0 %  step 1/400  epoch 1/4  loss 4.000  1,600 images/s"
    assert shown[1] == " 10 %  step 41/400  epoch 1/4  loss 4.000  1,600 images/s  3 min 00 s left"
    assert shown[-1].startswith("100 %  step 400/400  epoch 4/4")
    assert shown[-1].endswith("done in 3 min 20 s  kNN 94.0 %  RankMe 12.0")
    assert 8 < len(shown) < 20
    assert "\x1b" not in file.getvalue()


def test_lines_thin_out_in_long_runs(tmp_path: Path) -> None:
    clock, file = Clock(), io.StringIO()
    with tracker(tmp_path, config(log_every_steps=100), console=Console(file=file), clock=clock) as log:
        for step in range(1, 401):
            clock.now += 600
            log.log_step(record(step))
    assert len(file.getvalue().splitlines()) < 110 * 4


@pytest.mark.parametrize("width", [50, 80, 120])
def test_the_bar_fits_its_terminal_and_says_the_figures(tmp_path: Path, width: int) -> None:
    clock, file = Clock(), io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    with tracker(tmp_path, console=console, clock=clock) as log:
        for step in range(1, 101):
            clock.now += 0.04
            log.log_step(record(step, 4.25))
        log.log_epoch({"step": 100, "epoch": 1, "knn_top1": 91.5})
        log.message("a [bold]message[/bold] with brackets")
    text = file.getvalue()
    assert "a [bold]message[/bold] with brackets" in text
    shown = re.split(r"[\r\n]+", re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", text))
    last = [line for line in shown if line.strip()][-1]
    assert len(last) <= width
    for figure in ("100/400", "12 s left", "loss 4.250", "kNN 91.5 %"):
        assert figure in last
    assert ("epoch 1/4" in last) == (width > 80)


def test_a_loss_that_stays_at_guessing_is_said_once(tmp_path: Path) -> None:
    file = io.StringIO()
    with tracker(tmp_path, console=Console(file=file)) as log:
        for step in range(1, 400):
            log.log_step(record(step, 8.0, loss_origin_to_origin=torch.tensor(math.log(64))))
    warnings = [line for line in file.getvalue().splitlines() if line.startswith("Warning")]
    assert len(warnings) == 1
    assert "ln 64 = 4.16" in warnings[0]


def test_collapsed_features_are_said_once(tmp_path: Path) -> None:
    file = io.StringIO()
    with tracker(tmp_path, console=Console(file=file)) as log:
        for step in (100, 200, 300, 400):
            log.log_epoch({"step": step, "epoch": step // 100, "feature_std": 0.001, "rankme": 1.0})
    assert file.getvalue().count("features collapse") == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7620, "2 h 07 min"), (356400, "4 d 03 h")],
)
def test_durations_read_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
