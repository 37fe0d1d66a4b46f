"""`patchmix compare`: runs what is unfinished, shows what it came to."""

from __future__ import annotations

import contextlib
import shlex
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

from rich.console import Console

from patchmix.comparing import summary
from patchmix.comparing.request import Request
from patchmix.comparing.study import Study
from patchmix.environment import program
from patchmix.errors import SaidElsewhereError
from patchmix.evaluation.results import print_table
from patchmix.interruption import Interruption, interruption
from patchmix.progress import counted, duration, say
from patchmix.run_directory import claim_directory


def compare(request: Request, console: Console | None = None) -> dict[str, Any]:
    """Run the cells that are not finished and write the summaries; returns what comparison.json holds.

    Cells that failed have status `failed` there. With `dry_run` nothing is written, and the runs are shown.

    Raises:
        UserError: before anything runs, what `pretrain` would refuse; a directory of other settings.
        RunError: a file cannot be written, a trial run came to nothing.
        SaidElsewhereError: a signal stopped it; how to go on has been said.
    """
    console = console or Console()
    began = time.perf_counter()
    study = Study(request, console)
    if request.options.dry_run:
        return _show_plan(study)
    with contextlib.closing(claim_directory(request.output)), interruption() as interrupted, _hangup(interrupted):
        study.time_steps(interrupted)
        if not interrupted:
            study.plan()
            content = study.run_cells(interrupted)
        if interrupted.signal is not None:
            say(console, f"Stopped by {interrupted.signal.name}{_how_to_go_on(study)}")
            raise SaidElsewhereError(interrupted.exit_code)
    show(console, content)
    say(
        console,
        f"Written to {request.output}/index.html, table.md and comparison.json after "
        f"{duration(time.perf_counter() - began)}.",
    )
    return content


def _how_to_go_on(study: Study) -> str:
    """What follows the news of a stop: whether anything is saved, and the command."""
    if not study.cells:
        return " among the trials, before any run began: give the same command again."
    saved = any(cell.steps_done for cell in study.own_cells())
    how = f"Go on with: {program()} compare --output {shlex.quote(str(study.request.output))}"
    return f"; the runs have saved. {how}" if saved else f" before any run saved a step. {how}"


@contextlib.contextmanager
def _hangup(interrupted: Interruption) -> Iterator[None]:
    """Take a closed terminal for a signal to stop, unless it is ignored (nohup): our processes would outlive us."""
    ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    if ignored or threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGHUP, interrupted.receive)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def show(console: Console, content: dict[str, Any]) -> None:
    """The tables, failed cells and notes."""
    headings, rows = summary.result_table(content)
    print_table(console, "Mean ± standard deviation (number of seeds)", headings, rows)
    headings, rows = summary.difference_table(content)
    if rows:
        title = "Differences paired by seed; what could be seen: with 80 % power, at 5 %"
        print_table(console, title, headings, rows)
    for cell in content["cells"]:
        if cell["status"] == "failed":
            say(console, f"{cell['name']}-s{cell['seed']} failed: {cell['error']}")
    for note in summary.notes(content):
        say(console, note)


def _show_plan(study: Study) -> dict[str, Any]:
    timed = all(study.seconds_per_step.get(each.name) for each in study.request.settings)
    if study.request.options.budget == "seconds" and not timed:
        say(study.console, "Epochs come from a short trial of each setting, which has not been made.")
        study.cells = []
    else:
        study.plan()
    own = study.own_cells()
    rows = [
        [
            cell.name,
            f"{cell.plan.epochs:,}",
            f"{cell.plan.steps:,}",
            f"{cell.plan.cost.forward_units:g}",
            summary.millions(cell.plan.encoder_passes),
            "finished" if study.is_finished(cell) else f"{cell.steps_done:,} steps done",
        ]
        for cell in own
    ]
    headings = ["run", "epochs", "steps", "forward units a step", "encoder passes", "state"]
    print_table(
        study.console, f"{counted(len(own), 'run')} in {study.request.output}; nothing was started", headings, rows
    )
    content = study.content()
    for note in summary.notes(content) if own else ():  # how far from equal the cost is can still be mended here
        say(study.console, note)
    return content
