"""What `patchmix bench` was asked for. Imports no torch."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchmix import recipes
from patchmix.config.bench import BenchConfig
from patchmix.config.options import all_options, build, coerce
from patchmix.errors import UserError
from patchmix.files import is_stream
from patchmix.starting import Start, start

DEFAULT_RECIPE = "cifar10-cpu"  # a step takes a fraction of a second on any machine
FILE_IN_FOLDER = Path("results", "bench.json")


@dataclass(frozen=True)
class Request:
    """The run that is measured (its `output` means nothing), where the figures go, and how many steps are timed."""

    start: Start
    output: Path
    steps: int


def request(recipe: str | None, config_file: str | Path | None, given: Mapping[str, Any]) -> Request:
    """Put it together; `given` has options of `pretrain`, and `output` and `steps`. Makes the folder of `output`.

    Where neither data.root nor data.name says what to train on, it is recipe cifar10-cpu with these options.

    Raises:
        UserError: what `starting.start` refuses; a folder that is not named; too few steps; an output that cannot be
            written.
    """
    options = all_options(BenchConfig)
    own = {name: coerce(options[name], given[name]) for name in BenchConfig.own if name in given}
    settings = build(BenchConfig, own)
    rest = {name: value for name, value in given.items() if name not in BenchConfig.own}
    if "max_steps" in rest:
        raise UserError("max_steps means nothing to bench: give steps, the number of steps to time")
    said = recipes.given_options(config_file, rest)
    if recipe is None and not any(said.get(name) for name in ("data.root", "data.name")):
        recipe = DEFAULT_RECIPE
    started = start(recipe, config_file, {**rest, "output": "bench"})
    if started.config.data.name == "folder" and started.config.data.root is None:
        raise UserError("data.name folder needs data.root: give the folder that holds your images")
    processes = started.config.run.num_devices * started.config.run.num_nodes
    if processes > 1:
        raise UserError(
            f"bench measures one process, not {processes}: give run.num_devices 1 and the batch of one process as "
            "optim.batch_size"
        )
    return Request(started, result_file(settings.output), settings.steps)


def result_file(output: str) -> Path:
    """The file to write: `output`, or results/bench.json in it if it is a folder.

    Raises:
        UserError: it cannot be written, which is found out before the work and not after it.
    """
    path = Path(output).expanduser()
    if path.is_dir():
        path = path / FILE_IN_FOLDER
    if path.is_dir():
        raise UserError(f"{path} is a folder: give another --output FILE")
    try:
        if is_stream(path):
            _check_stream(path)
        else:
            folder = Path(os.path.realpath(path)).parent  # of the file that a link leads to
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}; give another --output FILE") from None
    return path


def _check_stream(path: Path) -> None:
    """PermissionError where it may not be written. It is not opened: a pipe would wait for its reader."""
    if not os.access(path, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
