"""What a person sees while a comparison runs: a bar for each process on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from rich.table import Column

from patchmix.comparing.processes import Task
from patchmix.progress import duration, say

LEAST_SECONDS = 60
"""Between two plain lines about one run."""


class Bars:
    """One line for each running process; what has ended scrolls above them."""

    def __init__(self, console: Console, total: int) -> None:
        self._total, self._ended = total, 0
        self._lines: dict[str, TaskID] = {}
        column = Column(no_wrap=True)
        self._progress = Progress(
            TextColumn("{task.description}", markup=False, table_column=column),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[text]}", markup=False, table_column=column),
            console=console,
            expand=True,
            refresh_per_second=4,
        )
        self._all = self._progress.add_task("all runs", total=total, text=f"0 of {total}")
        self._progress.start()

    def began(self, task: Task) -> None:
        self._lines[task.name] = self._progress.add_task(task.name, total=task.total or None, text="starting")

    def looked(self, tasks: Sequence[Task]) -> None:
        for task in tasks:
            done = int(task.record.get("step", 0))
            self._progress.update(self._lines[task.name], completed=done, text=state(task))

    def ended(self, task: Task) -> None:
        self._ended += 1
        self._progress.remove_task(self._lines.pop(task.name))
        self._progress.update(self._all, completed=self._ended, text=f"{self._ended} of {self._total}")
        say(self._progress.console, outcome(task))

    def close(self) -> None:
        self._progress.stop()


class Lines:
    """Plain lines for files and pipes: what begins, what ends, and at most one a minute for each run."""

    def __init__(self, console: Console, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._total, self._clock = console, total, clock
        self._begun, self._said = 0, dict[str, float]()

    def began(self, task: Task) -> None:
        self._begun += 1
        self._said[task.name] = self._clock()
        say(self._console, f"{task.name} begins ({self._begun} of {self._total}); log: {task.log}")

    def looked(self, tasks: Sequence[Task]) -> None:
        now = self._clock()
        for task in tasks:
            if now - self._said[task.name] >= LEAST_SECONDS:
                self._said[task.name] = now
                say(self._console, f"{task.name}: {state(task)}")

    def ended(self, task: Task) -> None:
        say(self._console, outcome(task))

    def close(self) -> None:
        pass


def create_display(console: Console, total: int) -> Bars | Lines:
    """Bars on a terminal, plain lines elsewhere."""
    return Bars(console, total) if console.is_terminal and not console.is_dumb_terminal else Lines(console, total)


def state(task: Task) -> str:
    """`pretrain step 120/900, kNN 88.1 %`, or the command that measures."""
    if task.what != "pretrain":
        return task.what
    knn = task.record.get("knn_top1")
    shown = f", kNN {knn:.1f} %" if isinstance(knn, int | float) else ""
    return f"step {task.record.get('step', 0)}{f'/{task.total}' if task.total else ''}{shown}"


def outcome(task: Task) -> str:
    """How a task ended, in one line."""
    after = duration(sum(task.seconds.values()))
    if task.error is not None:
        return f"{task.name} failed at {task.what} after {after}: {task.error} (log: {task.log})"
    return f"{task.name} {'stopped, saved' if task.stopped else 'finished'} after {after}"
