"""What a person sees, and metrics.jsonl gets, while an evaluation trains: as in pre-training."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from patchmix.progress import Pace, create_display


class TrainingProgress:
    """Follows the steps of training: a bar on a terminal, plain lines elsewhere, and one record a step for the file."""

    def __init__(
        self, console: Console, title: str, *, total_steps: int, steps_per_epoch: int, epochs: int, steps_done: int
    ) -> None:
        self._steps_per_epoch, self._records = steps_per_epoch, list[dict[str, Any]]()
        self._pace = Pace(total_steps, epochs, steps_done, time.monotonic)
        self._display = create_display(console, self._pace, title)
        self._last = time.monotonic()

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.close()

    def advance(self, step: int, loss: Tensor, num_images: int, **more: Any) -> None:
        """A step is done; its loss, and tensors of `more`, stay on the device until the records are asked for."""
        now = time.monotonic()
        epoch = (step - 1) // self._steps_per_epoch
        self._records.append({"step": step, "epoch": epoch, "loss": loss.detach(), **more})
        self._pace.advance(step, epoch)
        shown = {"images_per_second": num_images / (now - self._last)}
        self._last = now
        self._pace.add(shown | ({"loss": float(loss)} if loss.device.type == "cpu" else {}))
        self._display.update()

    def records(self) -> list[dict[str, Any]]:
        """The records since the last call, as plain numbers; on a GPU this waits for the steps."""
        records, self._records = self._records, []
        if records:
            names = [name for name, value in records[0].items() if isinstance(value, Tensor)]
            rows = torch.stack([torch.stack([each[name].float() for name in names]) for each in records]).tolist()
            records = [each | dict(zip(names, row, strict=True)) for each, row in zip(records, rows, strict=True)]
            self._pace.add({"loss": records[-1]["loss"]})
        return records
