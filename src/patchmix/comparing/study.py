"""A comparison's folder: its cells, what is left to run of them, and what is written after every run."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
import shlex
import shutil
import sys
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from patchmix.comparing import summary
from patchmix.comparing.asked import option_words
from patchmix.comparing.budget import Cost, plan
from patchmix.comparing.cells import Cell
from patchmix.comparing.costs import look
from patchmix.comparing.display import create_display
from patchmix.comparing.images import Images, same_images
from patchmix.comparing.page import render
from patchmix.comparing.processes import Task, run_tasks
from patchmix.comparing.request import Request
from patchmix.comparing.sharing import at_once_here, places, threads_each
from patchmix.comparing.trials import make_trials
from patchmix.config import to_dict
from patchmix.environment import environment
from patchmix.files import write_text
from patchmix.interruption import Interruption
from patchmix.recipes import dump
from patchmix.starting import CHOOSING_RECIPE


class Study:
    """A comparison's folder, and what this command does to it. Watches its tasks, to write what they came to."""

    def __init__(self, request: Request, console: Console) -> None:
        self.request, self.console = request, console
        known = request.before.known if request.before else {}
        self.costs: dict[str, Cost] = {name: each.cost for name, each in known.items() if each.cost is not None}
        self.seconds_per_step = {name: each.seconds_per_step for name, each in known.items()}
        before = request.before.content if request.before else {}
        new = [each for each in request.settings if each.name not in self.costs]
        self.measurable: bool = before.get("measurable", True)
        self.images: dict[str, Images | None] = {name: each.images for name, each in known.items()}
        self.opened: dict[str, Images] = {}  # what lies there now, of the settings that were looked up
        if new:
            outlook = look(new)
            self.costs |= outlook.costs
            self.opened |= outlook.images
            self.measurable = self.measurable and outlook.is_measurable
        self.then = {(cell["name"], cell["seed"]): cell for cell in before.get("cells", [])}
        self.commands = list(dict.fromkeys([*before.get("commands", []), _command()]))
        self.running: set[str] = set()
        self.errors: dict[str, str | None] = {}
        self.spent: dict[str, float] = {}
        self.entries: dict[str, summary.Entry] = {}  # of finished cells, which do not change
        self.cells: list[Cell] = []
        self.latest: dict[str, Any] = {}  # what was written last
        self.at_once = at_once_here(request.base.run, request.options.at_once)
        self.threads = threads_each(request.base.run, self.at_once)

    @property
    def evaluations(self) -> tuple[str, ...]:
        """What finished runs are measured by."""
        return self.request.options.evaluations if self.measurable else ()

    def plan(self) -> None:
        """The cells with their epochs. UserError where a cell's directory or the data hold something else."""
        request, options = self.request, self.request.options
        plans = plan(
            request.settings,
            self.costs,
            options.budget,
            seconds_per_run=options.seconds_per_run,
            seconds_per_step={name: each for name, each in self.seconds_per_step.items() if each is not None},
        )
        folder = request.output / "cells"
        pairs = sorted({*request.wanted, *self.then})
        self.cells = [Cell(each, seed, folder) for each in plans for name, seed in pairs if name == each.setting.name]
        for cell in self.cells:
            cell.refuse_other()
        self._refuse_other_images()

    def _refuse_other_images(self) -> None:
        """Note each setting's images. UserError where its folder, its runs and what lies there now do not agree.

        The data is opened for what is left to run alone: what is finished needs none.
        """
        todo = {cell.plan.setting.name for cell in self.own_cells() if not self.is_finished(cell)}
        closed = [each for each in self.request.settings if each.name in todo - self.opened.keys()]
        self.opened |= look(closed).images if closed else {}
        for setting in self.request.settings:
            own = [cell for cell in self.cells if cell.plan.setting.name == setting.name]
            said = [
                (str(self.request.file), self.images.get(setting.name)),
                *((str(cell.directory), cell.trained_on) for cell in own),
                ("what its data options open now", self.opened.get(setting.name)),
            ]
            self.images[setting.name] = same_images(setting.name, said)

    def time_steps(self, interrupted: Interruption) -> None:
        """Short runs of the settings whose steps have not been timed yet."""
        seconds = self.request.options.seconds_per_run
        if self.request.options.budget != "seconds" or seconds is None:
            return
        folder = self.request.output / "trials"
        trials = make_trials(self.request.settings, self.seconds_per_step, folder, seconds)
        self._run([each.task() for each in trials], interrupted, [])
        if not interrupted:
            self.seconds_per_step |= {each.setting.name: each.seconds_per_step() for each in trials}
            shutil.rmtree(folder, ignore_errors=True)

    def run_cells(self, interrupted: Interruption) -> dict[str, Any]:
        """Every cell of this command that is not finished, in the order of seeds, so that all settings grow alike.

        Returns what comparison.json holds then; it is written before the first one, and after each.
        """
        todo = [cell for cell in self.own_cells() if not self.is_finished(cell) and not cell.is_running_elsewhere]
        todo.sort(key=lambda cell: cell.seed)
        self.latest = self.write()
        self._run([self._task(cell) for cell in todo], interrupted, [self])
        return self.latest

    def own_cells(self) -> list[Cell]:
        """The cells that this command is about; the folder may have others."""
        return [cell for cell in self.cells if (cell.plan.setting.name, cell.seed) in self.request.wanted]

    def _run(self, tasks: Sequence[Task], interrupted: Interruption, watchers: Sequence[Any]) -> None:
        if not tasks:
            return
        display = create_display(self.console, len(tasks))
        with contextlib.closing(display):
            run_tasks(tasks, places(self.request.base.run, self.at_once), interrupted, [display, *watchers])

    def _task(self, cell: Cell) -> Task:
        run, commands = str(cell.directory), []
        if not cell.is_trained:
            config = dataclasses.replace(cell.config.run, num_threads=self.threads)
            write_text(cell.config_file, dump(dataclasses.replace(cell.config, run=config)))
            recipe = self.request.recipe
            named = ["--recipe", recipe] if recipe not in (None, CHOOSING_RECIPE) else []
            resume = ["--resume"] if cell.has_begun else []
            words = ["pretrain", *named, "--config", str(cell.config_file), "--output", run, *resume]
            commands.append(("pretrain", words))
        machine = ("--run.num_threads", str(self.threads), "--run.device", cell.config.run.device)
        commands += [
            (command, [command, "--checkpoint", run, *option_words(command), *machine])
            for command in cell.missing(self.evaluations)
        ]
        metrics = cell.directory / "metrics.jsonl"
        return Task(
            cell.name, commands, cell.log, metrics, cell.plan.steps, lacking=functools.partial(self.lacking, cell)
        )

    def lacking(self, cell: Cell) -> str | None:
        """What a cell lacks whose commands all ended well; None where it is finished."""
        if not cell.is_trained:
            return f"the commands ended well, but {cell.steps_done:,} of {cell.plan.steps:,} steps are saved"
        missing = cell.missing(self.evaluations)
        files = ", ".join(f"results/{command}.json" for command in missing)
        return f"the commands ended well, but {files} does not hold what was asked for" if missing else None

    def began(self, task: Task) -> None:
        """A cell has been started."""
        self.running.add(task.name)

    def looked(self, tasks: Sequence[Task]) -> None:
        """Cells are running."""

    def ended(self, task: Task) -> None:
        """Note how a cell went, and write the summaries anew."""
        self.running.discard(task.name)
        self.errors[task.name] = task.error
        self.spent[task.name] = task.seconds.get("pretrain", 0.0)
        self.latest = self.write()

    def is_finished(self, cell: Cell) -> bool:
        """Whether there is nothing to run of it."""
        return cell.is_trained and not cell.missing(self.evaluations)

    def entry(self, cell: Cell) -> summary.Entry:
        """What comparison.json says of a cell."""
        if cell.name in self.entries:
            return self.entries[cell.name]
        then = self.then.get((cell.plan.setting.name, cell.seed), {})
        seconds = (then.get("seconds") or 0.0) + self.spent.get(cell.name, 0.0)
        error = self.errors.get(cell.name, then.get("error"))
        # What runs is not finished before its process has ended, and how long that took is known.
        finished = cell.name not in self.running and self.is_finished(cell)
        status = summary.FINISHED if finished else self._status(cell, error)
        records = cell.records()
        found = {
            "name": cell.plan.setting.name,
            "varied": dict(cell.plan.setting.varied),
            "seed": cell.seed,
            "status": status,
            "error": None if status in (summary.FINISHED, summary.ELSEWHERE) else error,
            "epochs": cell.plan.epochs,
            "steps": cell.plan.steps,
            "steps_done": cell.steps_done,
            "encoder_passes": cell.plan.encoder_passes,
            "seconds": round(seconds, 3) or None,
            "directory": str(cell.directory.relative_to(self.request.output)),
            "metrics": cell.metrics(records),
            "curve": cell.curve(records),
            "software": cell.software,
        }
        if finished:
            self.entries[cell.name] = found
        return found

    def _status(self, cell: Cell, error: str | None) -> str:
        """Of a cell that is not finished."""
        if cell.name in self.running:
            return "running"
        if cell.is_running_elsewhere:
            return summary.ELSEWHERE
        return "failed" if error else "unfinished" if cell.has_begun else "waiting"

    def content(self) -> dict[str, Any]:
        """comparison.json."""
        options, cells = self.request.options, [self.entry(cell) for cell in self.cells]
        reference = self.request.settings[0].name
        plans = {cell.plan.setting.name: cell.plan for cell in self.cells}
        compared = [
            {
                "name": each.name,
                "given": dict(each.given),
                "varied": list(each.varied),
                "epochs": plans[each.name].epochs if each.name in plans else None,
                "encoder_passes": plans[each.name].encoder_passes if each.name in plans else None,
                "cost": dataclasses.asdict(self.costs[each.name]) if each.name in self.costs else None,
                "seconds_per_step": self.seconds_per_step.get(each.name),
                "data": self.images.get(each.name),
            }
            for each in self.request.settings
        ]
        settings = {
            "config": to_dict(self.request.base),
            "compared": compared,
            "seeds": sorted({seed for _, seed in (*self.request.wanted, *self.then)}),
            **{name: getattr(options, name) for name in ("budget", "seconds_per_run", "evaluations")},
            "at_once": self.at_once,
            "num_threads": self.threads,
        }
        return {
            "command": "compare",
            "recipe": self.request.recipe,
            "budget": options.budget,
            "reference": reference,
            "measurable": self.measurable,
            "settings": settings,
            "cells": cells,
            **summary.statistics(cells, reference),
            "commands": self.commands,
            "environment": environment(),
        }

    def write(self) -> dict[str, Any]:
        """comparison.json, table.md and index.html, each whole or as it was; returns the first."""
        content: dict[str, Any] = self.content()
        text = json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        write_text(self.request.file, text)
        content = json.loads(text)
        write_text(self.request.output / "table.md", summary.markdown(content))
        write_text(self.request.output / "index.html", render(content, self.request.output))
        return content


def _command() -> str:
    """This command line, to copy; of Python, which function was called."""
    if sys.argv[1:2] == ["compare"]:
        return f"patchmix {shlex.join(sys.argv[1:])}"
    return "patchmix.compare(…) in Python"
