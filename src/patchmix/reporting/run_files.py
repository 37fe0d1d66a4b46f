"""What a run directory holds, read once for all sections. What is missing is empty, not an error."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchmix.config import Config
from patchmix.errors import UserError
from patchmix.metrics_file import METRICS_FILE, Record, read_metrics
from patchmix.recipes import resolve

if TYPE_CHECKING:
    from patchmix.data.sources import ImageSource

Result = dict[str, Any]

NO_MEASUREMENTS = ("embed", "bench")  # their results say what was written or how fast, not what it is worth


@dataclass(frozen=True)
class RunFiles:
    """A run as its files tell it.

    directory: as the user gave it. config_text: config.yaml, verbatim. results: results/*.json by command.
    skipped: (path, why) of skipped.tsv. unreadable: names of files that are there but cannot be read.
    """

    directory: Path
    config: Config
    config_text: str
    environment: dict[str, Any]
    training: list[Record]
    evaluations: list[Record]
    results: dict[str, Result]
    skipped: list[tuple[str, str]]
    num_checkpoints: int
    unreadable: tuple[str, ...]

    @property
    def last_step(self) -> int:
        """The newest step that metrics.jsonl tells of, 0 where there is none."""
        return max((record["step"] for record in (*self.training[-1:], *self.evaluations[-1:])), default=0)

    @property
    def steps_per_epoch(self) -> int | None:
        """Steps of a whole epoch, None before the first one is done."""
        for record in reversed(self.evaluations):
            if record.get("epoch"):
                return int(record["step"]) // int(record["epoch"])
        first = [record["step"] for record in self.training if record.get("epoch") == 0]
        later = any(record.get("epoch") for record in self.training[-1:])
        return int(max(first)) if first and later else None

    @property
    def total_steps(self) -> int | None:
        """Steps at which the run is done, None before its first epoch is; max_steps only stopped one start."""
        per_epoch = self.steps_per_epoch
        return None if per_epoch is None else per_epoch * self.config.optim.epochs

    @property
    def finished(self) -> bool:
        """Whether the last step is done, as far as the files tell."""
        return self.total_steps is not None and self.last_step >= self.total_steps

    @functools.cached_property
    def training_images(self) -> ImageSource:
        """The images that it was trained on, opened once. UserError or OSError where they cannot be opened now."""
        from patchmix.data.datasets import open_dataset, would_download

        data = self.config.data
        if would_download(data):  # a page is no reason to fetch gigabytes
            raise UserError(f"{data.name} is not in {data.root or 'data'} any more")
        return open_dataset(self.config.data, "train")

    @functools.cached_property
    def mix_size(self) -> int:
        """Pixels a side of the patches that were mixed. UserError or OSError where the images cannot be opened now."""
        from patchmix.data.datasets import view_size
        from patchmix.mix_size import check_mix_size
        from patchmix.models.encoders import resolve_spec

        config, source = self.config, self.training_images
        size = view_size(source, config.data)
        return check_mix_size(config, resolve_spec(config.model, size, source.channels, source.mean, source.std))

    @functools.cached_property
    def has_test_labels(self) -> bool | None:
        """Whether its data has classes and test images, which measuring needs; None where it cannot be opened now."""
        from patchmix.data.datasets import has_split

        try:
            return self.training_images.labels is not None and has_split(self.config.data, "test")
        except (UserError, OSError):
            return None


def read_run(directory: Path) -> RunFiles:
    """Read a run directory. Raises UserError where it is none, or its config.yaml is no config of ours."""
    if not directory.is_dir():
        kind = "is a file, not a run directory" if directory.exists() else "does not exist"
        raise UserError(f"no report of {directory}: it {kind}; give the --output of a `patchmix pretrain`")
    config = directory / "config.yaml"
    if not config.is_file():
        raise UserError(
            f"no report of {directory}: it has no config.yaml, so it is no run directory; give the "
            "--output of a `patchmix pretrain`"
        )
    training, evaluations = read_metrics(directory / METRICS_FILE)
    unreadable: list[str] = []
    environment = _read_json(directory / "environment.json", unreadable)
    results = {}
    # kNN first: it is what the others are read against.
    for path in sorted((directory / "results").glob("*.json"), key=lambda path: (path.stem != "knn", path.stem)):
        result = _read_json(path, unreadable)
        # knn-1.json and so on are earlier evaluations, of other settings.
        if isinstance(result.get("metrics"), dict) and result.get("command", path.stem) == path.stem:
            results[path.stem] = result
    return RunFiles(
        directory=directory,
        config=resolve(config_file=config),
        config_text=config.read_text(encoding="utf-8"),
        environment=environment,
        training=training,
        evaluations=evaluations,
        results=results,
        skipped=_read_skipped(directory / "skipped.tsv"),
        num_checkpoints=len(list((directory / "checkpoints").glob("step-*.safetensors"))),
        unreadable=tuple(unreadable),
    )


def _read_json(path: Path, unreadable: list[str]) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict):
        unreadable.append(path.name)
        return {}
    return content


def _read_skipped(path: Path) -> list[tuple[str, str]]:
    if not path.is_file():
        return []
    # Split at line feeds alone: a file name may hold any other character.
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        lines = file.read().split("\n")
    pairs = (line.partition("\t") for line in lines if line)
    return [(name, why) for name, _, why in pairs]
