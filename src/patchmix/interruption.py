"""Ctrl-C and SIGTERM: finish the step, save, say how to go on."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Interruption:
    """Remembers the first signal; a second Ctrl-C stops at once, as people expect."""

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None

    def __bool__(self) -> bool:
        return self.signal is not None

    @property
    def exit_code(self) -> int:
        """130 after Ctrl-C, 143 after SIGTERM, by the shell's convention; 0 otherwise."""
        return 0 if self.signal is None else 128 + self.signal

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)


@contextlib.contextmanager
def interruption() -> Iterator[Interruption]:
    """Catch SIGINT and SIGTERM inside the block; the handlers before it are restored after it.

    Outside the main thread Python allows no handlers, and signals keep their meaning.
    """
    caught = Interruption()
    if threading.current_thread() is not threading.main_thread():
        yield caught
        return
    before = {number: signal.signal(number, caught.receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def stops_at_once() -> Iterator[None]:
    """The first Ctrl-C inside the block ends it (KeyboardInterrupt): a download has no step to finish."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
