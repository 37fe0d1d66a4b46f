"""How long a step of each setting takes here: short runs that are watched from outside, and thrown away."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patchmix.comparing.processes import Task
from patchmix.comparing.settings import Setting, replaced
from patchmix.errors import RunError
from patchmix.files import write_text
from patchmix.recipes import dump

MOST_SECONDS = 20.0  # of steps, for each setting
LEAST_SECONDS = 2.0
MANY = 10**8
FOR_TRIAL: dict[str, Any] = {
    "optim.epochs": MANY,  # ends when it is told to; schedules do not change what a step costs
    "run.eval_every_epochs": 0,
    "run.checkpoint_every_steps": MANY,
    "run.tensorboard": False,
}


@dataclass
class Trial:
    """A setting's short run. Its steps are timed by our clock, since on a GPU those of the run do not wait for it."""

    setting: Setting
    folder: Path
    wanted: float  # seconds
    seen: list[tuple[float, int]] = field(default_factory=list)  # when a newer step was seen first

    @property
    def directory(self) -> Path:
        """The run, thrown away afterwards."""
        return self.folder / self.setting.name

    def task(self) -> Task:
        """What runs it."""
        shutil.rmtree(self.directory, ignore_errors=True)
        config = self.folder / f"{self.setting.name}.yaml"
        write_text(config, dump(replaced(self.setting.config, FOR_TRIAL)))
        words = ("pretrain", "--config", str(config), "--output", str(self.directory))
        log = self.folder / f"{self.setting.name}.log"
        metrics = self.directory / "metrics.jsonl"
        return Task(f"trial {self.setting.name}", [("pretrain", words)], log, metrics, 0, self.is_enough)

    def is_enough(self, task: Task) -> bool:
        """Whether the steps seen so far say how long one takes; called whenever the process is looked at."""
        step = int(task.record.get("step", 0))
        if step and (not self.seen or step > self.seen[-1][1]):
            self.seen.append((time.monotonic(), step))
        # The first step seen is slower than all others.
        return len(self.seen) > 2 and self.seen[-1][0] - self.seen[1][0] >= self.wanted

    def seconds_per_step(self) -> float:
        """Seconds a step, evaluations left out. RunError where too few steps were seen."""
        if len(self.seen) < 3:
            raise RunError(
                f"the trial of {self.setting.name} ended too soon: see {self.folder}/{self.setting.name}.log"
            )
        (began, first), (ended, last) = self.seen[1], self.seen[-1]
        return (ended - began) / (last - first)


def make_trials(
    settings: Sequence[Setting], known: Mapping[str, float | None], folder: Path, seconds_per_run: float
) -> list[Trial]:
    """A trial for each setting that none is known of."""
    wanted = min(MOST_SECONDS, max(LEAST_SECONDS, seconds_per_run / 10))
    return [Trial(each, folder, wanted) for each in settings if known.get(each.name) is None]
