"""What a person sees, and metrics.jsonl gets, while an evaluation trains: as in pre-training."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from patchmix.data.labelled import LabelledLoader
from patchmix.progress import Pace, create_display


class TrainingProgress:
    """Follows a loader's steps: a bar on a terminal, plain lines elsewhere, and one record a step for the file."""

    def __init__(self, console: Console, title: str, loader: LabelledLoader, epochs: int, steps_done: int) -> None:
        self._loader, self._records = loader, list[dict[str, Any]]()
        self._pace = Pace(loader.total_steps, epochs, steps_done, time.monotonic)
        self._display = create_display(console, self._pace, title)
        self._last = time.monotonic()

    def __enter__(self) -> TrainingProgress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._display.close()

    def advance(self, step: int, loss: Tensor, num_images: int, **more: Any) -> None:
        """A step is done; its loss stays on the device until the records are asked for."""
        now = time.monotonic()
        epoch = (step - 1) // self._loader.steps_per_epoch
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
            losses = torch.stack([each["loss"] for each in records]).tolist()
            records = [{**each, "loss": loss} for each, loss in zip(records, losses, strict=True)]
            self._pace.add({"loss": losses[-1]})
        return records
