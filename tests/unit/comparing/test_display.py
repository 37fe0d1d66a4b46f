"""What is shown of running processes: bars on a terminal, plain lines in a pipe."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from patchmix.comparing.display import Bars, Lines, create_display
from patchmix.comparing.processes import Task


def task(name: str = "patchmix-s0", total: int = 900) -> Task:
    made = Task(name, [], Path("study/a.log"), Path("absent"), total)
    made.what = "pretrain"
    return made


def test_a_pipe_gets_a_line_a_minute_and_one_for_each_beginning_and_end() -> None:
    text, now = io.StringIO(), [0.0]
    lines = Lines(Console(file=text, width=40), 2, lambda: now[0])
    one = task()
    lines.began(one)
    for seconds in range(0, 150, 10):
        now[0] = float(seconds)
        one.record = {"step": seconds, "knn_top1": 50.0 + seconds / 10}
        lines.looked([one])
    one.seconds = {"pretrain": 100.0, "knn": 45.0}
    lines.ended(one)
    lines.close()
    assert text.getvalue().splitlines() == [
        "patchmix-s0 begins (1 of 2); log: study/a.log",
        "patchmix-s0: step 60/900, kNN 56.0 %",
        "patchmix-s0: step 120/900, kNN 62.0 %",
        "patchmix-s0 finished after 2 min 25 s",
    ]


def test_how_it_ended_is_said() -> None:
    text = io.StringIO()
    lines = Lines(Console(file=text, width=200), 2)
    failed, stopped = task(), task("moco-v3-s1")
    failed.error, failed.what = "data.root = x does not exist", "knn"
    stopped.stopped = True
    lines.ended(failed)
    lines.ended(stopped)
    assert text.getvalue().splitlines() == [
        "patchmix-s0 failed at knn after 0 s: data.root = x does not exist (log: study/a.log)",
        "moco-v3-s1 stopped, saved after 0 s",
    ]


def test_a_terminal_gets_a_bar_for_each_running_process() -> None:
    text = io.StringIO()
    bars = create_display(Console(file=text, width=100, force_terminal=True), 2)
    assert isinstance(bars, Bars)
    one, trial = task(), task("trial small", total=0)
    for each in (one, trial):
        bars.began(each)
    one.record, trial.record = {"step": 450, "knn_top1": 77.7}, {"step": 12}
    bars.looked([one, trial])
    bars._progress.refresh()
    bars.ended(one)
    bars.close()
    shown = text.getvalue()
    assert "step 450/900, kNN 77.7 %" in shown
    assert "step 12" in shown
    assert "1 of 2" in shown
    assert "patchmix-s0 finished after" in shown
