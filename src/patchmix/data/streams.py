"""Counter-based random streams (design.md, Randomness): a draw is a function of its key and nothing else."""

from __future__ import annotations

import contextlib
import enum
import random
from collections.abc import Iterator
from typing import Any

import numpy as np


class Purpose(enum.IntEnum):
    """What a stream is for; half of its key, so that no two purposes ever share numbers."""

    VIEW = 1
    ORDER = 2
    SUBSET = 3
    MIX_PLAN = 4
    STEP = 5
    AUGMENT = 6
    MIXUP = 7
    MIXER = 8


def keyed_generator(
    purpose: Purpose, seed: int, first: int = 0, second: int = 0, third: int = 0
) -> np.random.Generator:
    """A new Philox generator with key (seed, purpose) that starts at counter (0, first, second, third).

    The counter's lowest word is what advances, so streams of different positions never meet.
    """
    bits = np.random.Philox(
        key=np.array([seed, purpose], dtype=np.uint64),
        counter=np.array([0, first, second, third], dtype=np.uint64),
    )
    return np.random.Generator(bits)


@contextlib.contextmanager
def libraries_seeded(seed: int) -> Iterator[None]:
    """Python's and NumPy's global generators, which timm's augmentations draw from, seeded inside and put back after.

    seed: below 2**32.
    """
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - timm uses the global one
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - timm draws from the global one
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002 - the global one is put back


class KeyedStream:
    """One generator that is moved from key to key: `keyed_generator`'s numbers, without building a new one.

    Building a Philox generator takes 25 to 45 µs, moving one 3 µs, and views need one per image and view.
    The generator that `at` returns is valid until the next call of `at`.
    """

    def __init__(self, purpose: Purpose) -> None:
        self._bits = np.random.Philox(key=0)
        self._generator = np.random.Generator(self._bits)
        self._key = [0, int(purpose)]
        self._counter = [0, 0, 0, 0]
        self._state: dict[str, Any] = {
            "bit_generator": "Philox",
            "state": {"counter": self._counter, "key": self._key},
            "buffer": [0, 0, 0, 0],
            "buffer_pos": 4,  # the buffer is used up: the next number comes from the counter
            "has_uint32": 0,
            "uinteger": 0,
        }

    def at(self, seed: int, first: int = 0, second: int = 0, third: int = 0) -> np.random.Generator:
        """The generator, moved to the beginning of this key's stream."""
        self._key[0] = seed
        self._counter[1:] = (first, second, third)
        self._bits.state = self._state  # type: ignore[assignment]  # lists do, and are quicker
        return self._generator
