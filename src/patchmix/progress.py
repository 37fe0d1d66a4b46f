"""What a person sees while a run goes on: a bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

RECENT = 50
"""Steps over which the shown loss and speed are averaged."""


def say(console: Console, text: str) -> None:
    """Print text as it is; on a terminal lines break between words, elsewhere nowhere."""
    console.print(text, markup=False, highlight=False, soft_wrap=not console.is_terminal)


def duration(seconds: float) -> str:
    """A time as people say it: `42 s`, `3 min 05 s`, `2 h 07 min`, `4 d 03 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def counted(number: int, word: str) -> str:
    """1 step, 2,000 steps."""
    return f"{number:,} {word}{'' if number == 1 else 's'}"


class Pace:
    """Where the run stands: step, loss and speed of the last steps, time left, newest online kNN."""

    def __init__(self, total_steps: int, num_epochs: int, first_step: int, clock: Callable[[], float]) -> None:
        self.total_steps, self.num_epochs = total_steps, num_epochs
        self.step, self.epoch = first_step, 0
        self.knn: float | None = None
        self._clock, self._begun = clock, clock()
        self._losses: deque[float] = deque(maxlen=RECENT)
        self._seconds_per_image: deque[float] = deque(maxlen=RECENT)
        self._first: tuple[int, float] | None = None

    def advance(self, step: int, epoch: int) -> None:
        """Note that `step`, of the epoch counted from 0, is done."""
        self.step, self.epoch = step, epoch
        # The clock starts at the end of the first step, which is slower than all others.
        self._first = self._first or (step, self._clock())

    def add(self, record: Mapping[str, Any]) -> None:
        """Take a training record's loss and images per second."""
        if isinstance(record.get("loss"), int | float):
            self._losses.append(record["loss"])
        if record.get("images_per_second"):
            self._seconds_per_image.append(1 / record["images_per_second"])

    @property
    def loss(self) -> float | None:
        """Mean loss of the last steps."""
        return sum(self._losses) / len(self._losses) if self._losses else None

    @property
    def images_per_second(self) -> float | None:
        """Images over seconds of the last steps, evaluations and checkpoints left out."""
        total = sum(self._seconds_per_image)
        return len(self._seconds_per_image) / total if total else None

    @property
    def seconds_left(self) -> float | None:
        """By all steps since this process started, so that evaluations and checkpoints count."""
        if self._first is None or self.step <= self._first[0]:
            return None
        step, since = self._first
        return (self._clock() - since) / (self.step - step) * (self.total_steps - self.step)

    def parts(self) -> dict[str, Any]:
        """Every figure as text; '–' for what is not known yet."""
        rate, left, loss = self.images_per_second, self.seconds_left, self.loss
        if self.step >= self.total_steps:
            time_text = f"done in {duration(self._clock() - self._begun)}"
        else:
            time_text = "–" if left is None else f"{duration(left)} left"
        return {
            "epoch": f"epoch {min(self.epoch + 1, self.num_epochs)}/{self.num_epochs}",
            "step": f"{self.step}/{self.total_steps}",
            "rate": "–" if rate is None else f"{rate:,.0f} images/s" if rate >= 10 else f"{rate:.1f} images/s",
            "left": time_text,
            "loss": "loss –" if loss is None else f"loss {loss:.3f}",
            "knn": "" if self.knn is None else f"kNN {self.knn:.1f} %",
        }


class Display(Protocol):
    """Where progress goes."""

    def update(self) -> None:
        """Show where the pace stands, if it is time to."""

    def evaluated(self, record: Mapping[str, Any]) -> None:
        """Show an evaluation."""

    def message(self, text: str) -> None:
        """Print text so that the bar stays whole."""

    def close(self) -> None:
        """Leave the terminal as it was."""


class Bar:
    """A line at the bottom of the terminal; messages scroll above it."""

    def __init__(self, console: Console, pace: Pace, title: str) -> None:
        self._pace = pace

        def cell(template: str) -> TextColumn:
            return TextColumn(template, markup=False, table_column=Column(no_wrap=True))

        # The least wanted figures go first where the terminal is narrow.
        wide, middle = console.width >= 110, console.width >= 84
        self._progress = Progress(
            *([TextColumn("[bold]{task.description}", table_column=Column(no_wrap=True))] if wide else []),
            *([cell("{task.fields[epoch]}")] if middle else []),
            BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=4)),
            cell("{task.fields[step]}"),
            *([cell("{task.fields[rate]}")] if console.width >= 70 else []),
            cell("{task.fields[left]}"),
            cell("{task.fields[loss]}"),
            cell("{task.fields[knn]}"),
            console=console,
            expand=True,
            refresh_per_second=4,
        )
        self._task = self._progress.add_task(escape(title), total=pace.total_steps, completed=pace.step, **pace.parts())
        self._progress.start()

    def update(self) -> None:
        self._progress.update(self._task, completed=self._pace.step, **self._pace.parts())

    def evaluated(self, record: Mapping[str, Any]) -> None:
        self.update()

    def message(self, text: str) -> None:
        say(self._progress.console, text)

    def close(self) -> None:
        self.update()
        self._progress.stop()


class Lines:
    """Plain lines for files and pipes: about a hundred a run, never more than one in 20 seconds.

    An evaluation has a line of its own, unless one was printed less than 10 seconds ago.
    """

    def __init__(self, console: Console, pace: Pace, title: str, clock: Callable[[], float]) -> None:
        self._console, self._pace, self._clock = console, pace, clock
        self._begun = self._last = clock()
        self._first = pace.step + 1
        self._said = -1  # step of the last line

    def update(self) -> None:
        now, step = self._clock(), self._pace.step
        expected = now - self._begun + (self._pace.seconds_left or 0)
        interval = min(max(expected / 100, 20), 600)
        if now - self._last >= interval or (step == self._first and step != self._said):
            self._print(now)

    def evaluated(self, record: Mapping[str, Any]) -> None:
        now = self._clock()
        if now - self._last >= 10 or self._pace.step >= self._pace.total_steps:
            self._print(now, _evaluation_text(record))

    def _print(self, now: float, evaluation: str = "") -> None:
        self._last, self._said = now, self._pace.step
        parts, pace = self._pace.parts(), self._pace
        share = f"{100 * pace.step / pace.total_steps:3.0f} %"
        figures = [f"step {parts['step']}", parts["epoch"], parts["loss"], parts["rate"], parts["left"]]
        figures.append(evaluation or parts["knn"])
        self.message(f"{share}  " + "  ".join(figure for figure in figures if figure and figure != "–"))

    def message(self, text: str) -> None:
        say(self._console, text)

    def close(self) -> None:
        if self._pace.step >= self._first and self._pace.step != self._said:
            self._print(self._clock())


class Silence:
    """Nothing at all: the other processes of a distributed run."""

    def update(self) -> None:
        pass

    def evaluated(self, record: Mapping[str, Any]) -> None:
        pass

    def message(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


def _evaluation_text(record: Mapping[str, Any]) -> str:
    names = {"knn_top1": "kNN {:.1f} %", "rankme": "RankMe {:.1f}", "feature_std": "feature std {:.3f}"}
    shown = [text.format(record[name]) for name, text in names.items() if isinstance(record.get(name), int | float)]
    return "  ".join(shown)


def create_display(console: Console, pace: Pace, title: str, clock: Callable[[], float] = time.monotonic) -> Display:
    """The bar on a terminal, plain lines elsewhere."""
    if console.is_terminal and not console.is_dumb_terminal:
        return Bar(console, pace, title)
    return Lines(console, pace, title, clock)
