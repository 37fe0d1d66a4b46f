"""A cell: one setting with one seed, and what its run directory holds of it."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from patchmix import recipes
from patchmix.checkpoint import DamagedCheckpoint, list_checkpoints, read_metadata
from patchmix.comparing.asked import is_asked
from patchmix.comparing.budget import Plan
from patchmix.comparing.settings import BOOKKEEPING, differing, replaced
from patchmix.config import Config, to_dict
from patchmix.environment import resolve_device, resolve_precision
from patchmix.errors import UserError
from patchmix.metrics_file import METRICS_FILE, Record, read_metrics
from patchmix.reporting.measured import figures, measured_step
from patchmix.run_directory import CONFIG_FILE, flatten, lock_directory

PREFIXES = {"knn": "knn_", "probe": "probe_fast_", "fewshot": "fewshot_"}
"""What the metrics of each evaluation begin with here."""
UNSAID = {*BOOKKEEPING} - {"seed"}
ONLINE = {"knn_top1": "online_knn_top1", "rankme": "online_rankme"}


@dataclass(frozen=True)
class Cell:
    """One run. `folder` holds its directory, its config file and its log, all three of its name."""

    plan: Plan
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        """The setting's name and the seed."""
        return f"{self.plan.setting.name}-s{self.seed}"

    @property
    def directory(self) -> Path:
        """The run directory."""
        return self.folder / self.name

    @property
    def log(self) -> Path:
        """What its processes print."""
        return self.folder / f"{self.name}.log"

    @property
    def config_file(self) -> Path:
        """The whole config that it is begun with."""
        return self.folder / f"{self.name}.yaml"

    @property
    def config(self) -> Config:
        """The whole config."""
        return dataclasses.replace(self.plan.config, seed=self.seed, output=str(self.directory))

    @property
    def has_begun(self) -> bool:
        """Whether there is a run to go on with."""
        return (self.directory / CONFIG_FILE).is_file()

    @property
    def steps_done(self) -> int:
        """Steps that are saved."""
        newest = list_checkpoints(self.directory)[:1]
        return int(newest[0].stem.rpartition("-")[2]) if newest else 0

    @property
    def is_trained(self) -> bool:
        """Whether its last step is saved."""
        return self.steps_done >= self.plan.steps

    @property
    def trained(self) -> dict[str, Any]:
        """What its newest checkpoint says of itself; {} where it says nothing."""
        newest = list_checkpoints(self.directory)[:1]
        try:
            return read_metadata(newest[0]) if newest else {}
        except (DamagedCheckpoint, OSError):
            return {}

    @property
    def trained_precision(self) -> str | None:
        """The precision that its checkpoint says it was trained in; None where nothing says so."""
        return self.trained.get("precision")

    @property
    def trained_on(self) -> dict[str, Any] | None:
        """The images that its checkpoint says it was trained on (job.describe_data); None where nothing says so."""
        return self.trained.get("data")

    @property
    def is_running_elsewhere(self) -> bool:
        """Whether another process, which is none of ours, trains it."""
        if not (self.directory / ".lock").is_file():
            return False
        try:
            lock_directory(self.directory).close()
        except UserError:
            return True
        except OSError:  # a folder that can only be read
            return False
        return False

    @property
    def software(self) -> dict[str, str | None]:
        """Versions of packages and the commit that its newest start recorded; {} where it recorded none."""
        try:
            said = json.loads((self.directory / "environment.json").read_text(encoding="utf-8"))
            git = said["git"] or {"commit": None}
            changed = ", modified" if git.get("modified") else ""
            return {**said["packages"], "commit": git["commit"] and git["commit"][:12] + changed}
        except (OSError, ValueError, LookupError, TypeError):
            return {}

    def missing(self, evaluations: Sequence[str]) -> list[str]:
        """The evaluations that its last checkpoint has not had."""
        return [command for command in evaluations if self._result(command) is None]

    def refuse_other(self) -> None:
        """Raise a UserError where its directory holds a run with other settings or another seed."""
        if not self.has_begun:
            return
        file, precision = self.directory / CONFIG_FILE, self.config.run.precision
        trained = self.trained_precision
        here = resolve_precision(precision, resolve_device(self.config.run.device), training=True)
        if _is_literally(file, self.config) and trained in (None, here):  # the usual case; reading the file takes long
            return
        there = recipes.resolve(config_file=file)
        # "auto" is what it was taken for when the run was trained: on another machine it may be something else.
        known = {"run.precision": precision if trained in (None, here) else trained}
        differences = differing(replaced(there, known) if trained else there, self.config)
        if there.seed != self.seed:
            differences.append(f"seed {there.seed} → {self.seed}")
        if differences:
            raise UserError(
                f"{self.directory} holds a run of other settings ({', '.join(differences)}): move it away, or name "
                "another --output"
            )

    def records(self) -> list[Record]:
        """Its online evaluations."""
        return read_metrics(self.directory / METRICS_FILE)[1]

    def metrics(self, records: Sequence[Record]) -> dict[str, float]:
        """What was measured of the finished run, in per cent; and the last online evaluation."""
        found: dict[str, float] = {}
        for command, prefix in PREFIXES.items():
            result = self._result(command)
            for name, subjects in figures(result).items() if result else ():
                if "" in subjects:  # untrained encoder and pixels are in results/ of the run
                    found[prefix + name] = subjects[""].value
        last = records[-1] if records else {}
        found |= {new: last[old] for old, new in ONLINE.items() if isinstance(last.get(old), int | float)}
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def curve(self, records: Sequence[Record]) -> list[list[float]]:
        """[encoder passes, online kNN top-1 in per cent] of each online evaluation."""
        passes = self.plan.cost.forward_units * self.plan.cost.batch_size
        return [[each["step"] * passes, each["knn_top1"]] for each in records if "knn_top1" in each]

    def _result(self, command: str) -> dict[str, Any] | None:
        """results/COMMAND.json as it is asked for; None where it is absent, other, or of an earlier checkpoint."""
        try:
            content = json.loads((self.directory / "results" / f"{command}.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None
        if not isinstance(content, dict) or not isinstance(content.get("metrics"), dict):
            return None
        fingerprint = (self.trained_on or {}).get("fingerprint")
        is_other = not is_asked(content, command, self.plan.config.data, fingerprint)
        return None if is_other or measured_step(content) != self.plan.steps else content


def _is_literally(file: Path, config: Config) -> bool:
    """Whether a config file names every option with the config's value, bookkeeping apart."""
    try:
        there = flatten(yaml.safe_load(file.read_text(encoding="utf-8")))
    except (OSError, AttributeError, yaml.YAMLError):
        return False
    compared = {name: value for name, value in flatten(to_dict(config)).items() if name not in UNSAID}
    return compared == {name: value for name, value in there.items() if name not in UNSAID}
