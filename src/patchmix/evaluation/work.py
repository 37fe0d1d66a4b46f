"""results/<command>/: what an evaluation that takes long has done so far, so that it can be interrupted.

work.json (the options, and what else must stay the same)  metrics.jsonl  checkpoints/  and what the command leaves
there for good. On resume the options must be given again; `Work.stop` says the whole command.
"""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, NoReturn

from rich.console import Console
from torch import Tensor

from patchmix import checkpoint, recipes
from patchmix.config import EvalConfig, TuningConfig, to_dict
from patchmix.config.detection import DetectConfig
from patchmix.config.options import all_options, shown
from patchmix.environment import package_versions, program
from patchmix.errors import RunError, SaidElsewhereError, UserError
from patchmix.files import write_text
from patchmix.interruption import Interruption
from patchmix.metrics_file import METRICS_FILE, Record, append_metrics, open_metrics, read_metrics, truncate_metrics
from patchmix.models.loading import LoadedEncoder
from patchmix.progress import say
from patchmix.run_directory import claim_directory, flatten
from patchmix.skipped import FILE as SKIPPED_FILE

WORK_FILE = "work.json"
MODEL_FILE = "model.safetensors"  # what was trained, where a command keeps it
KEPT_CHECKPOINTS = 2
# What may differ from one start to the next: where things lie and the machine. Weights and images are compared by
# their contents (the identity), not by their paths.
MAY_CHANGE = (
    "checkpoint",  # and checkpoint_every_epochs
    "architecture",
    "output",
    "resume",
    "overwrite",
    "cache",
    "data.root",
    "data.num_workers",
    "data.max_unreadable",
    "run.",
)
NEVER_SAID = ("resume", "overwrite")


@dataclass
class Work:
    """A directory results/<command>/ that this process holds, and the checkpoint that the work goes on from.

    `messages` are for the user, once: what was passed over, what has changed, where the work goes on.
    """

    command: str
    config: TuningConfig | DetectConfig
    path: Path
    resumed: checkpoint.Checkpoint | None = None
    messages: list[str] = field(default_factory=list)
    lock: IO[str] | None = None

    @property
    def steps_done(self) -> int:
        """Steps done before this start."""
        return 0 if self.resumed is None else self.resumed.step

    def log(self, records: Iterable[Record]) -> None:
        """Append to metrics.jsonl; every record has its step. Log before `save`. Raises RunError (disk full)."""
        path = self.path / METRICS_FILE
        try:
            with open_metrics(path) as file:
                append_metrics(file, records)
        except OSError as error:
            raise RunError(
                f"cannot write {path}: {error.strerror or error}; make room, then go on with --resume"
            ) from error

    def save(self, step: int, tensors: dict[str, Tensor], metadata: dict[str, Any]) -> None:
        """Write the checkpoint after `step` steps; the newest two are kept. Raises RunError (disk full)."""
        about = {"versions": package_versions(), **metadata, "step": step, "command": self.command}
        checkpoint.write(checkpoint.checkpoint_path(self.path, step), tensors, about)
        checkpoint.prune(self.path, KEPT_CHECKPOINTS)

    def stop(self, interrupted: Interruption, step: int, console: Console, hint: str | None = None) -> NoReturn:
        """Say that a signal stopped the work after `step` steps, all saved, and how to go on; ends the command.

        hint: the command that goes on (None: the one that this work's options mean). Raises SaidElsewhereError.
        """
        assert interrupted.signal is not None
        hint = hint or f"{command_line(self.command, self.config)} --resume"
        say(console, f"Stopped by {interrupted.signal.name} after step {step:,}, saved. Go on with: {hint}")
        raise SaidElsewhereError(interrupted.exit_code)

    def finish(self) -> None:
        """Keep the last checkpoint only: it lets --resume measure again."""
        checkpoint.prune(self.path, 1)

    def close(self) -> None:
        """Let other processes in. Does nothing the second time."""
        if self.lock is not None:
            self.lock.close()


def open_work(command: str, config: TuningConfig | DetectConfig, result_path: Path, identity: dict[str, Any]) -> Work:
    """Claim results/<command>/ beside `result_path`: new work, or with `config.resume` what is there.

    Args:
        result_path: results/<command>.json, which `results.result_path` gives.
        identity: what must be equal to go on, beside the options: data fingerprints, `encoder_identity`, and what
            null and auto came to. Plain dictionaries, lists and numbers.

    Raises:
        UserError: work that is there already without --resume or --overwrite; with --resume none, or one with other
            options, images or weights; new work that begins from a file in there; another process in it; a directory
            that cannot be read or written.
    """
    path = result_path.with_suffix("")
    marked = (path / WORK_FILE).is_file()
    if config.resume and not marked:
        raise UserError(f"nothing to resume: {path} holds no work of {command}; leave --resume out to begin")
    if path.exists() and not path.is_dir():
        raise UserError(f"{path} is a file where {command} keeps its work: move it, or name another --output")
    if not config.resume:
        _refuse_own_source(command, config, path)
    work = Work(command, config, path, lock=claim_directory(path))
    try:
        if config.resume:
            _refuse_other_work(work, identity)
            _find_position(work)
        elif _has_begun(path) and not config.overwrite:
            raise UserError(
                f"{path} holds work of {command} already: add --resume to go on with it, --overwrite to begin anew, or "
                "name another --output"
                if marked
                else f"{path} holds what was trained, but no {WORK_FILE} that says how: name another --output, or add "
                "--overwrite to delete it and begin anew"
            )
        else:
            _clear(path)
        checkpoint.remove_leftovers(path)
        about = {"command": command, "options": to_dict(config), "identity": identity}
        write_text(path / WORK_FILE, json.dumps(about, indent=2) + "\n")
    except BaseException:
        work.close()
        raise
    return work


def encoder_identity(loaded: LoadedEncoder) -> dict[str, Any]:
    """What an encoder is, for `open_work`: its architecture, and a checksum of its weights."""
    state = dict(loaded.encoder.state_dict())
    return {"spec": loaded.spec.to_dict(), "weights": checkpoint.checksum(state, {})}


def command_line(command: str, config: EvalConfig | DetectConfig) -> str:
    """What to type for this config: the options that neither the defaults nor the checkpoint's run imply."""
    source = {name: getattr(config, name, None) for name in ("checkpoint", "architecture")}
    named = {name: value for name, value in source.items() if value is not None}
    defaults = {each.name: each.default for each in all_options(type(config)).values()}
    plain = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()} | named
    if isinstance(config, EvalConfig):
        with contextlib.suppress(UserError):  # neither says which data
            plain = flatten(to_dict(recipes.resolve_evaluation(type(config), named)))
    words = [program(), command, *(word for name, value in named.items() for word in (f"--{name}", value))]
    for name, value in flatten(to_dict(config)).items():
        if name not in ("resume", "overwrite") and value != plain[name]:
            values = value if isinstance(value, list) else [value]
            words += [f"--{name}", *(str(shown(each)) if not isinstance(each, str) else each for each in values)]
    return " ".join(shlex.quote(word) for word in words)


def _has_begun(path: Path) -> bool:
    """Whether there is anything to lose: a trained network, a checkpoint or a logged step."""
    there = (path / MODEL_FILE).exists() or checkpoint.list_checkpoints(path)
    return bool(there) or any(read_metrics(path / METRICS_FILE))


def _refuse_own_source(command: str, config: TuningConfig | DetectConfig, path: Path) -> None:
    """UserError where new work would begin from a file that it deletes now or replaces when it is done.

    Until then --resume loads that file again.
    """
    lost = {file.resolve() for file in (*_own_files(path), path / MODEL_FILE)}
    for name in ("checkpoint", "architecture"):
        source = getattr(config, name, None)
        if source is None:
            continue
        files = checkpoint.list_checkpoints(Path(source)) if Path(source).is_dir() else [Path(source)]
        if any(file.resolve() in lost for file in files):
            raise UserError(
                f"{name} = {source} lies in {path}, where {command} would begin anew and replace it: name another "
                "--output, or move the file elsewhere first"
            )


def _refuse_other_work(work: Work, identity: dict[str, Any]) -> None:
    """UserError unless options and identity are those of the work that is there; notes what has changed and may."""
    file = work.path / WORK_FILE
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
        old = {"options": flatten(before["options"]), "identity": flatten(before["identity"])}
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise UserError(f"{file} cannot be read ({error}): begin anew with --overwrite") from None
    new = json.loads(json.dumps({"options": to_dict(work.config), "identity": identity}))
    refused: dict[str, list[str]] = {"options": [], "identity": []}
    for part, then in old.items():
        for key, value in flatten(new[part]).items():
            if key in then and then[key] == value:
                continue
            change = f"{key} {shown(then.get(key))} → {shown(value)}"
            if part == "identity" or not key.startswith(MAY_CHANGE):
                refused[part].append(change)
            elif key not in NEVER_SAID:
                work.messages.append(f"Changed since the work began: {change}.")
    # What other options come to differs as well, and says nothing new.
    named = refused["options"] or refused["identity"]
    if named:
        raise UserError(
            f"{work.path} was begun with other settings ({', '.join(named)}): give the same, or begin anew with "
            "--overwrite or another --output"
        )


def _find_position(work: Work) -> None:
    """Where the work goes on; what was logged after that is dropped, since it will be logged again."""
    try:
        work.resumed, damaged = checkpoint.newest_whole(work.path)
    except OSError as error:
        raise UserError(f"a checkpoint in {work.path} cannot be read: {error.strerror or error}") from None
    checkpoint.set_aside(work.path, work.steps_done)
    work.messages += damaged
    work.messages.append(
        f"{work.path} has no whole checkpoint: beginning at step 0."
        if work.resumed is None
        else f"Going on after step {work.steps_done:,}."
    )
    truncate_metrics(work.path / METRICS_FILE, work.steps_done or -1)


def _own_files(path: Path) -> list[Path]:
    """What work of ours keeps for itself. MODEL_FILE is the user's until a new one replaces it."""
    checkpoints = sorted((path / "checkpoints").glob("step-*.safetensors*"))
    return [*(path / name for name in (WORK_FILE, METRICS_FILE, SKIPPED_FILE)), *checkpoints]


def _clear(path: Path) -> None:
    """Delete what work of ours left, and nothing else; a trained network stays until the new one takes its place."""
    for file in _own_files(path):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # other files lie in it
        (path / "checkpoints").rmdir()
