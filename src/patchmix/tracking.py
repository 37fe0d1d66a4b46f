"""What a run writes down while it goes on: metrics.jsonl, TensorBoard, progress, and a watch over its health.

The training loop calls, in this order:

    with Tracker(directory, config, console, resume_step, total_steps=..., steps_per_epoch=...) as tracker:
        for batch in loader:
            ...                                         # one step
            bad = tracker.log_step({"step": step, "epoch": epoch, "loss": losses.total, ...})
            if step is evaluated or saved:
                bad = bad or tracker.flush()            # never save what a non-finite loss has spoilt
            if bad: raise RunError(...)
            if evaluated: tracker.log_epoch({"step": step, "epoch": epochs_done, "knn_top1": ...})
            if saved: save(...)        # after log_epoch, so that a resume finds both or neither
"""

from __future__ import annotations

import contextlib
import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from rich.console import Console
from torch import Tensor

from patchmix import watch
from patchmix.config import Config
from patchmix.contrasts import num_candidates
from patchmix.errors import RunError
from patchmix.metrics_file import METRICS_FILE, Record, append_metrics, open_metrics
from patchmix.metrics_file import read_metrics as read_metrics
from patchmix.metrics_file import truncate_metrics as truncate_metrics
from patchmix.progress import Pace, Silence, create_display
from patchmix.schedules import num_warmup_steps

_GROUPS = {
    "lr": "optim",
    "weight_decay": "optim",
    "momentum": "optim",
    "temperature": "optim",
    "grad_norm": "optim",
}


class Tracker:
    """Logs a pre-training run. Every process checks its losses; the one with `main` writes and shows.

    `log_step` keeps records (tensors as they are, so that no step waits for a GPU) and flushes every
    `run.log_every_steps`; a flush converts all tensors at once and hands the lines to the operating system.

    Args:
        run_directory: where metrics.jsonl and tensorboard/ lie; exists already.
        resume_step: steps done before (`truncate_metrics` has been called for it), 0 for a new run.
        total_steps: the step at which this run stops.
        steps_per_epoch: for the warm-up's end in steps.
        title: what the bar is labelled with (the recipe).
        main: whether this is the process that writes.
        clock: seconds, monotonic.

    Raises:
        RunError: something could not be written (disk full), here and in every method.
    """

    def __init__(
        self,
        run_directory: Path,
        config: Config,
        console: Console | None = None,
        resume_step: int = 0,
        *,
        total_steps: int,
        steps_per_epoch: int,
        title: str = "pretrain",
        main: bool = True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.path = Path(run_directory) / METRICS_FILE
        self._num_keys = num_candidates(config.method, config.optim.batch_size)
        self._warmup_steps = num_warmup_steps(config, steps_per_epoch)
        self._flush_every = config.run.log_every_steps
        self._buffer: list[Record] = []
        self._losses: deque[float] = deque(maxlen=watch.WINDOW)
        self._evaluations: deque[Record] = deque(maxlen=2)
        self._said: set[str] = set()
        self._bad_step: int | None = None
        self._scaled = config.run.precision == "16-mixed"
        self._closed = False
        self._writer: Any = None  # SummaryWriter: its types are wrong about file_writer
        self._file: FileIO | None = None
        self._pace = Pace(total_steps, config.optim.epochs, resume_step, clock)
        if not main:
            self._display: Any = Silence()
            return
        with self._writing():
            self._file = open_metrics(self.path)
        if config.run.tensorboard:
            from torch.utils.tensorboard import SummaryWriter

            with self._writing():
                self._writer = SummaryWriter(
                    str(self.path.parent / "tensorboard"),
                    # Also without a checkpoint: a run that was killed before its first left events behind.
                    purge_step=resume_step + 1 if resume_step else 0,
                )
        self._display = create_display(console or Console(), self._pace, title, clock)

    def log_step(self, record: Mapping[str, Any]) -> int | None:
        """Take a step's record ("step", "epoch", "loss", ...; floats or 0-dim tensors).

        Returns the first step whose loss or gradient is not finite, as far as flushed, or None.
        """
        kept = {name: value.detach() if isinstance(value, Tensor) else value for name, value in record.items()}
        self._buffer.append(kept)
        self._pace.advance(int(record["step"]), int(record["epoch"]))
        if self._flush_every is None:
            on_gpu = any(isinstance(value, Tensor) and value.device.type != "cpu" for value in kept.values())
            self._flush_every = 20 if on_gpu else 1
        if len(self._buffer) >= self._flush_every:
            return self.flush()
        self._display.update()
        return self._bad_step

    def flush(self) -> int | None:
        """Write what is buffered (waits for the GPU); the first step whose loss is not finite, or None."""
        records, self._buffer = _as_numbers(self._buffer), []
        for record in records:
            if self._bad_step is None and not self._is_finite(record):
                self._bad_step = int(record["step"])
            self._losses.append(
                record["loss_origin_to_origin"] if "loss_origin_to_origin" in record else record["loss"]
            )
            self._pace.add(record)
        self._write(records)
        self._display.update()
        if records and self._bad_step is None:
            step = int(records[-1]["step"])
            self._say("chance", watch.loss_at_chance(list(self._losses), self._num_keys, step, self._warmup_steps))
        return self._bad_step

    def _is_finite(self, record: Record) -> bool:
        """Whether loss and gradient are finite; with 16-mixed, the scaler skips steps whose gradient is not."""
        gradient = 0.0 if self._scaled else record.get("grad_norm", 0.0)
        return math.isfinite(record["loss"]) and math.isfinite(gradient)

    def log_epoch(self, record: Mapping[str, Any]) -> None:
        """Write an evaluation ("step", "epoch" = epochs done, "knn_top1", "rankme", ...)."""
        self.flush()
        (evaluation,) = _as_numbers([{**record, "kind": "evaluation"}])
        self._evaluations.append(evaluation)
        self._pace.knn = evaluation.get("knn_top1", self._pace.knn)
        self._write([evaluation])
        self._display.evaluated(evaluation)
        self._say("collapse", watch.collapse(list(self._evaluations)))

    def message(self, text: str) -> None:
        """Print text above the bar."""
        self._display.message(text)

    def close(self) -> None:
        """Flush, close the files, leave the terminal as it was. Does nothing the second time."""
        if self._closed:
            return
        self._closed = True
        try:
            self.flush()
        finally:
            self._display.close()
            with self._writing():
                if self._file is not None:
                    self._file.close()
                if self._writer is not None:
                    self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What ended the run is the news; that the last lines could not be written either is not.
        with contextlib.suppress(RunError) if error is not None else contextlib.nullcontext():
            self.close()

    def _say(self, kind: str, text: str | None) -> None:
        if text is not None and kind not in self._said:
            self._said.add(kind)
            self._display.message(f"Warning: {text}")

    def _write(self, records: list[Record]) -> None:
        if self._file is None or not records:
            return
        with self._writing():
            append_metrics(self._file, records)
            if self._writer is not None:
                for record in records:
                    self._write_events(record)

    def _write_events(self, record: Record) -> None:
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        # One event a step with all its values: ten times faster than add_scalar for each (0.08 ms a step).
        values = [
            Summary.Value(tag=_tag(name, record), simple_value=value)
            for name, value in record.items()
            if name not in ("step", "epoch") and isinstance(value, int | float)
        ]
        self._writer.file_writer.add_summary(Summary(value=values), record["step"])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = error.filename or self.path
            raise RunError(
                f"cannot write {where}: {error.strerror or error}; the checkpoints written so far are whole: "
                "make room, then go on with --resume"
            ) from error


def _as_numbers(records: list[Record]) -> list[Record]:
    """Tensors as Python numbers: one copy, and so one wait, for each device and type among them."""
    places: dict[tuple[torch.device, torch.dtype], list[tuple[Record, str]]] = {}
    records = [dict(record) for record in records]
    for record in records:
        for name, value in record.items():
            if isinstance(value, Tensor):
                places.setdefault((value.device, value.dtype), []).append((record, name))
    for held in places.values():
        for (record, name), number in zip(held, torch.stack([r[n] for r, n in held]).tolist(), strict=True):
            record[name] = number
    return records


def _tag(name: str, record: Record) -> str:
    if record.get("kind") == "evaluation":
        return f"evaluation/{name}"
    if name.startswith("loss"):
        return f"loss/{name.removeprefix('loss_')}" if name != "loss" else "loss/total"
    return f"{_GROUPS.get(name, 'speed')}/{name}"
