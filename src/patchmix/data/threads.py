"""Many files in several threads: reading them and decoding them release Python's lock."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol, TypeVar

from patchmix.environment import usable_cores

Item = TypeVar("Item")
Result = TypeVar("Result")

READING = 32  # threads that wait for a disk most of the time

_CHUNK = 256  # items begun beyond the one whose result is asked for


def decoding_threads() -> int:
    """Threads that decode: each may hold a large image."""
    return min(8, usable_cores())


def in_threads(function: Callable[[Item], Result], items: Iterable[Item], threads: int = READING) -> Iterator[Result]:
    """The function's results in the items' order; when no more are asked for, those not begun are dropped."""
    pool = ThreadPoolExecutor(threads)
    try:
        with warnings.catch_warnings():  # around all: each thread's own would undo another's
            warnings.simplefilter("ignore")
            remaining = iter(items)
            while chunk := list(itertools.islice(remaining, _CHUNK)):
                yield from pool.map(function, chunk)
    finally:
        pool.shutdown(cancel_futures=True)


class Track(Protocol):
    """Passes items on, and shows that they are being worked at."""

    def __call__(self, what: str, items: Sequence[Item], /) -> Iterable[Item]: ...


def untracked(what: str, items: Sequence[Item], /) -> Iterable[Item]:
    """A Track that shows nothing."""
    return items
