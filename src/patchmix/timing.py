"""Where a step's time goes: named parts of the code, timed only while somebody measures (`patchmix bench`)."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from types import TracebackType

import torch


class Timings:
    """Seconds by part, in the order in which the parts first ended; a part inside another one counts for itself only.

    Before and after each part the device is waited for, so that its work is counted where it was asked for. That makes
    steps on a GPU longer than they are when nobody measures.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self._device = torch.device(device)
        self._inner: list[float] = []  # of each open part: the seconds of the parts inside it

    def now(self) -> float:
        """The clock, when the device has done what it was asked for."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        return time.perf_counter()

    def open(self) -> float:
        """A part begins."""
        self._inner.append(0.0)
        return self.now()

    def close(self, name: str, began: float) -> None:
        """The part that began last ends."""
        whole = self.now() - began
        self.seconds[name] += whole - self._inner.pop()
        if self._inner:
            self._inner[-1] += whole


_timings: Timings | None = None


@contextlib.contextmanager
def measured(device: torch.device | str = "cpu") -> Iterator[Timings]:
    """Inside, every `part` of this process is timed; one measurement at a time."""
    global _timings
    before, _timings = _timings, Timings(device)
    try:
        yield _timings
    finally:
        _timings = before


class part:
    """A named part of the code: `with part("mixing"): …`. It costs half a microsecond while nobody measures."""

    __slots__ = ("_began", "_timings", "name")

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> None:
        self._timings = _timings
        if self._timings is not None:
            self._began = self._timings.open()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timings is not None:
            self._timings.close(self.name, self._began)
