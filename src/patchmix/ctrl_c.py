"""Whether Ctrl-C is behind an error: code that it cuts short may fail later, in a way of its own.

An import, for instance, that swallows KeyboardInterrupt leaves half a module, and what uses it fails without saying so.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType


class Noticed:
    """True when Ctrl-C has come."""

    def __init__(self) -> None:
        self.came = False

    def __bool__(self) -> bool:
        return self.came

    def receive(self, number: int, frame: FrameType | None) -> None:
        """The signal handler: Python's own, which remembers."""
        self.came = True
        signal.default_int_handler(number, frame)


@contextlib.contextmanager
def noticing_ctrl_c() -> Iterator[Noticed]:
    """Remember whether Ctrl-C came inside the block, where it would raise KeyboardInterrupt anyway."""
    noticed = Noticed()
    is_usual = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # not so for a background job of a shell
    if not is_usual or threading.current_thread() is not threading.main_thread():
        yield noticed
        return
    signal.signal(signal.SIGINT, noticed.receive)
    try:
        yield noticed
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def comes_of_ctrl_c(error: BaseException) -> bool:
    """Whether this is a KeyboardInterrupt, or one led to it: as its cause, or while it was handled."""
    waiting, seen = [error], set[int]()
    while waiting:
        each = waiting.pop()
        if isinstance(each, KeyboardInterrupt):
            return True
        seen.add(id(each))
        before = (each.__cause__, each.__context__)
        waiting += [other for other in before if other is not None and id(other) not in seen]
    return False
