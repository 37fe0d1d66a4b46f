"""A run's directory: who may write into it, and where a run goes on.

config.yaml  environment.json  metrics.jsonl  skipped.tsv  checkpoints/  tensorboard/  report/  results/
"""

from __future__ import annotations

import contextlib
import fcntl
import json
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import yaml

from patchmix import checkpoint
from patchmix.config import Config, to_dict
from patchmix.config.options import shown
from patchmix.environment import environment
from patchmix.errors import UserError
from patchmix.files import write_text
from patchmix.metrics_file import METRICS_FILE, read_metrics, truncate_metrics
from patchmix.recipes import dump

CONFIG_FILE = "config.yaml"
# What may differ from one start of a run to the next: how long it goes on, where things lie, and the machine.
MAY_CHANGE = (
    "output",
    "max_steps",
    "optim.epochs",
    "data.root",
    "data.num_workers",
    "data.max_unreadable",
    "run.",
)


@dataclass
class RunDirectory:
    """A directory that this process holds (`lock`), and the checkpoint that the run goes on from."""

    path: Path
    resumed: checkpoint.Checkpoint | None
    messages: list[str]
    lock: IO[str] | None
    recipe: str | None  # that the run was begun with
    reasons: dict[str, str]  # why that recipe chose what it did, by option

    @property
    def steps_done(self) -> int:
        """Steps done before this start."""
        return 0 if self.resumed is None else self.resumed.step

    def close(self) -> None:
        """Let other processes in."""
        if self.lock is not None:
            self.lock.close()


def open_run_directory(
    config: Config,
    resume: bool,
    recipe: str | None,
    reasons: dict[str, str],
    encoder: dict[str, Any],
    data: dict[str, Any],
) -> RunDirectory:
    """Claim `config.output`: empty or absent for a new run, an existing run with --resume.

    `encoder` and `data` describe the run, as its checkpoints do. Nothing is written before all is checked.

    Raises:
        UserError: a run that is there already without --resume, or none with it; foreign files; another
            process in it; a config, architecture or data that differ; a directory or checkpoint that cannot be
            read or written.
    """
    path = Path(config.output or "runs/pretrain")
    try:
        entries = sorted(entry.name for entry in path.iterdir()) if path.exists() else []
    except NotADirectoryError:
        raise UserError(f"output = {str(path)!r} is a file: name a directory") from None
    except OSError as error:
        raise UserError(f"output = {str(path)!r} cannot be read: {error.strerror}") from None
    is_run = CONFIG_FILE in entries
    foreign = [name for name in entries if name != ".lock" and not _is_leftover(name)]
    if resume and not is_run:
        raise UserError(f"nothing to resume: {path} holds no run; leave --resume out to begin one")
    if foreign and not is_run:
        names = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
        raise UserError(f"output = {str(path)!r} holds other files ({names}): name a new or empty directory")
    if is_run and not resume and _has_begun(path):
        with contextlib.suppress(OSError):
            lock_directory(path).close()  # raises where a process is at work in it
        raise UserError(f"{path} holds a run already: add --resume to go on with it, or name another --output")
    lock = claim_directory(path)
    directory = RunDirectory(path, None, [], lock, recipe, reasons)
    try:
        if resume:
            _find_position(directory, config, encoder, data)
        else:
            (path / METRICS_FILE).unlink(missing_ok=True)  # of a start that failed before its first step
        checkpoint.remove_leftovers(path)
        for entry in entries:
            if _is_leftover(entry):
                (path / entry).unlink(missing_ok=True)
        write_text(path / CONFIG_FILE, dump(config))
        _write_environment(directory, resume)
    except BaseException:
        directory.close()
        raise
    return directory


def _write_environment(directory: RunDirectory, resume: bool) -> None:
    """The machine of the newest start, the recipe that the run was begun with, and why it chose what it did."""
    file = directory.path / "environment.json"
    if resume and file.exists():
        with contextlib.suppress(ValueError, OSError, AttributeError):
            before = json.loads(file.read_text(encoding="utf-8"))
            directory.recipe = directory.recipe or before.get("recipe")
            directory.reasons = before.get("choices") or {}
    content = {"recipe": directory.recipe, "choices": directory.reasons, **environment()}
    write_text(file, json.dumps(content, indent=2) + "\n")


def _has_begun(path: Path) -> bool:
    """Whether there is anything of a run to lose: a checkpoint or a logged step."""
    metrics = path / METRICS_FILE
    logged = metrics.exists() and bool(read_metrics(metrics)[0])
    return logged or bool(checkpoint.list_checkpoints(path))


def _is_leftover(name: str) -> bool:
    """Whether an interrupted write of ours left this file (files.replacing)."""
    return name.startswith(".") and name.endswith(".tmp")


def _find_position(directory: RunDirectory, config: Config, encoder: dict[str, Any], data: dict[str, Any]) -> None:
    """Where the run goes on; what was logged after that is dropped, since it will be logged again."""
    path = directory.path
    changes = refuse_other_config(path, config)
    try:
        directory.resumed, damaged = checkpoint.newest_whole(path)
    except OSError as error:
        raise UserError(
            f"a checkpoint in {path} cannot be read: {error.strerror or error}; nothing was changed"
        ) from None
    if directory.resumed is not None:
        refuse_other_data(directory.resumed, encoder, data)
    checkpoint.set_aside(path, directory.steps_done)
    where = (
        f"{path} has no whole checkpoint: beginning at step 0."
        if directory.resumed is None
        else f"Going on from {directory.resumed.path.name} (step {directory.resumed.step})."
    )
    directory.messages += [*damaged, *changes, where]
    truncate_metrics(path / METRICS_FILE, -1 if directory.resumed is None else directory.steps_done)


def refuse_other_config(path: Path, config: Config) -> list[str]:
    """One line for each option that differs from the run's own config.yaml and may.

    Raises:
        UserError: names every option that differs and may not.
    """
    try:
        before = yaml.safe_load((path / CONFIG_FILE).read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path / CONFIG_FILE} cannot be read: {error}") from None
    old, new = flatten(before or {}), flatten(to_dict(config))
    changed = [key for key in new if key in old and old[key] != new[key]]
    refused = [key for key in changed if not key.startswith(MAY_CHANGE)]
    if refused:
        differences = ", ".join(f"{key} {shown(old[key])} → {shown(new[key])}" for key in refused)
        raise UserError(f"{path} was begun with other options ({differences}): give the same, or another --output")
    return [f"Changed since the run began: {key} {shown(old[key])} → {shown(new[key])}." for key in changed]


def refuse_other_data(resumed: checkpoint.Checkpoint, encoder: dict[str, Any], data: dict[str, Any]) -> None:
    """Raise a UserError unless checkpoint and run mean the same architecture and the same images."""
    for what, now in (("encoder", encoder), ("data", data)):
        then = resumed.metadata.get(what, {})
        keys = [key for key in now if then.get(key) != now[key]]
        if keys:
            differences = ", ".join(f"{what}.{key} {then.get(key)!r} → {now[key]!r}" for key in keys)
            other = "another encoder" if what == "encoder" else "other images"
            raise UserError(
                f"{resumed.path} belongs to {other} ({differences}): restore what the run was begun with, or begin a "
                "new one with another --output"
            )


def flatten(section: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"data": {"name": …}} as {"data.name": …}."""
    flat: dict[str, Any] = {}
    for key, value in section.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def claim_directory(path: Path) -> IO[str]:
    """Make a directory and lock it; UserError where it cannot be written, or another process is in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        return lock_directory(path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; give another --output") from None


def lock_directory(path: Path) -> IO[str]:
    """Keep other processes out of a directory until the file is closed; UserError where one is in it."""
    lock = (path / ".lock").open("a")
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # lockf: worker processes do not inherit it
    except OSError:
        lock.close()
        raise UserError(f"another process is at work in {path}: wait for it, or name another --output") from None
    return lock
