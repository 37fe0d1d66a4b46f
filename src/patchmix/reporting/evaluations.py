"""The evaluations of some runs, found in their results/*.json and told apart by what was asked for."""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import patchmix.config
from patchmix.config.options import all_options
from patchmix.environment import program
from patchmix.errors import UserError
from patchmix.recipes import find_run
from patchmix.reporting.measured import Measured, figures, measured_step
from patchmix.reporting.run_files import NO_MEASUREMENTS, Result

SCRATCH = "scratch"
"""What `finetune --checkpoint none` is called here: trained from scratch."""

NO_PROTOCOL = frozenset(
    (
        *("checkpoint", "architecture", "output", "num_heads", "seed", "cache", "resume", "overwrite", "baselines"),
        *("checkpoint_every_epochs", "chunk_size", "recall_at", "labels_per_class", "percent", "classifiers"),
        *("beside", "num_queries"),
        *("data.root", "data.num_workers", "data.max_unreadable", "run.device", "run.num_threads", "run.batch_size"),
        "run.precision",
    )
)
"""Options that say where, how fast and how often; or that the metrics' names say."""


@dataclass(frozen=True)
class Measurement:
    """What was measured: a run, or weights that belong to none (directory and recipe None)."""

    name: str
    directory: Path | None = None
    recipe: str | None = None


@dataclass(frozen=True)
class Evaluation:
    """One file of results/."""

    run: Measurement
    path: Path
    result: Result

    @property
    def command(self) -> str:
        """The command that wrote it, or `scratch`."""
        scratch = self.result["command"] == "finetune" and self.result.get("checkpoint") == "none"
        return SCRATCH if scratch else str(self.result["command"])

    @property
    def data(self) -> dict[str, Any]:
        """Name, numbers of images and fingerprints of its images."""
        data = self.result.get("data")
        return data if isinstance(data, dict) else {}

    @property
    def num_images(self) -> int | None:
        """Images that its accuracies are shares of, where the file says it."""
        details = self.result.get("classification")
        number = details.get("num_images") if isinstance(details, dict) else None
        number = self.data.get("num_test") if number is None else number
        return number if isinstance(number, int) else None

    @property
    def step(self) -> int | None:
        """The step of the checkpoint that was measured, where there is one."""
        return measured_step(self.result)

    @property
    def seed(self) -> Any:
        """Seed of the evaluation, not of the run."""
        return self.options.get("seed")

    @functools.cached_property
    def options(self) -> dict[str, Any]:
        """{'section.key': value} of the options it was given; its settings say more than that."""
        settings = self.result.get("settings")
        settings = settings if isinstance(settings, dict) else {}
        nested = {f"{name}.{key}": each for name in ("data", "run") for key, each in (settings.get(name) or {}).items()}
        found = {**settings, **nested}
        return {name: found[name] for name in found if name in self.defaults} if self.defaults else found

    @property
    def defaults(self) -> dict[str, Any]:
        """The command's options at their defaults; empty for a command of another version."""
        config = getattr(patchmix.config, f"{str(self.result['command']).title()}Config", None)
        return {} if config is None else {name: each.default for name, each in all_options(config).items()}

    @property
    def protocol(self) -> dict[str, Any]:
        """The options that two evaluations must share to be comparable, and the precision that was used.

        What a file of an earlier version lacks has its default.
        """
        left_out = NO_PROTOCOL | ({"k"} if self.result["command"] == "knn" else set())
        found = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in {**self.defaults, **self.options}.items()
            if name not in left_out
        }
        used = (self.result.get("settings") or {}).get("used")
        return found | ({"precision": used.get("precision")} if isinstance(used, dict) else {})

    def figures(self) -> Iterator[tuple[str, str, Measured]]:
        """(metric, prefix of SUBJECTS, figure)."""
        for metric, by_prefix in figures(self.result).items():
            for prefix, figure in by_prefix.items():
                if math.isfinite(figure.value):
                    yield metric, prefix, figure


def read_evaluations(runs: Sequence[str]) -> tuple[list[Evaluation], list[str]]:
    """All evaluations below some paths, and a line for each thing that had to be left out.

    A path is a run directory, a folder that an evaluation's --output named, a folder `results`, or one JSON file.
    A file that is reached twice is taken once. Raises UserError where a path is absent, or nothing was found.
    """
    found: list[Evaluation] = []
    notes: list[str] = []
    seen: set[Path] = set()
    for text in runs:
        path = Path(text)
        if not path.exists():
            raise UserError(f"{path} does not exist: give run directories, or folders with results/*.json")
        files = _files(path)
        for file in files:
            if file.resolve() in seen:
                continue
            seen.add(file.resolve())
            result = _read(file, notes)
            if result is not None and result["command"] not in NO_MEASUREMENTS:
                found.append(Evaluation(_measured(path, file, result), file, result))
        if not files:
            notes.append(_nothing(path))
    if not found:
        raise UserError("; ".join(notes) or f"nothing is measured in {', '.join(runs)}: {_how(Path(runs[0]))}")
    return found, notes


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    inside = path / "results"
    # A run's own environment.json is no result.
    folder = inside if inside.is_dir() or (path / "config.yaml").exists() else path
    return sorted(folder.glob("*.json"), key=lambda file: (file.stem != "knn", file.stem))


def _read(file: Path, notes: list[str]) -> Result | None:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        notes.append(f"{file} is left out: {error.strerror}")
        return None
    except ValueError as error:
        notes.append(f"{file} is left out, it is damaged: {' '.join(str(error).split())}")
        return None
    is_result = isinstance(content, dict) and isinstance(content.get("command"), str)
    if not is_result or not isinstance(content.get("metrics"), dict):
        notes.append(f"{file} is left out: it is no result of an evaluation")
        return None
    result: Result = content
    return result


def _measured(given: Path, file: Path, result: Result) -> Measurement:
    """The run that a file is about: the one it lies in, else the one that its checkpoint names."""
    own = file.absolute().parent.parent
    if (own / "config.yaml").is_file():
        if given.is_file() or given.absolute() == own / "results":
            return _run(file.parent.parent)
        return _run(given)
    settings = result.get("settings")
    architecture = settings.get("architecture") if isinstance(settings, dict) else None
    checkpoint = str(result.get("checkpoint"))
    source = str(architecture) if checkpoint == "none" and architecture else checkpoint
    run = find_run(source)
    return Measurement(source) if run is None else _run(run)


def _run(directory: Path) -> Measurement:
    try:
        environment = json.loads((directory / "environment.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        environment = None
    recipe = environment.get("recipe") if isinstance(environment, dict) else None
    return Measurement(str(directory), directory, recipe if isinstance(recipe, str) else None)


def _nothing(path: Path) -> str:
    below = sorted({each.parent.parent for each in path.glob("*/results/*.json")}) if path.is_dir() else []
    if below:
        shown = " ".join(map(str, below[:3])) + (" …" if len(below) > 3 else "")
        return f"{path} holds no evaluations, but folders in it do: patchmix results {shown}"
    return f"{path} holds no evaluations yet: {_how(path)}"


def _how(path: Path) -> str:
    checkpoint = path if (path / "config.yaml").is_file() else "RUN"
    return f"`{program()} knn --checkpoint {checkpoint}` makes one, and so do fewshot, probe and finetune"
