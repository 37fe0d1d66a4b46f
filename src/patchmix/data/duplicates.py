"""Files with the same content, byte for byte."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence

import numpy as np
import numpy.typing as npt

from patchmix.data.threads import Track, in_threads, untracked

_BEGINNING = 65_536  # bytes that are compared before whole files are


def find_duplicates(paths: Sequence[str], sizes: npt.NDArray[np.int64], track: Track = untracked) -> list[list[int]]:
    """Groups of places in `paths` whose files have the same bytes; groups and places in ascending order.

    Files of the same size are compared by a digest of their beginning and, where that is the same too, of all of it.
    Files that cannot be read have no duplicates.

    Args:
        sizes: bytes of each file.
    """
    _, inverse, counts = np.unique(sizes, return_inverse=True, return_counts=True)
    same_size = np.flatnonzero(counts[inverse] > 1).tolist()

    def alike(places: list[int], what: str, limit: int) -> list[list[int]]:
        digests = in_threads(lambda place: _digest(paths[place], limit), track(what, places))
        return _groups(
            (place, digest and (int(sizes[place]), digest)) for place, digest in zip(places, digests, strict=True)
        )

    begin_alike = alike(same_size, "comparing beginnings", _BEGINNING)
    long = [place for group in begin_alike for place in group if sizes[place] > _BEGINNING]
    short = [group for group in begin_alike if sizes[group[0]] <= _BEGINNING]
    return sorted(short + alike(sorted(long), "comparing files", -1))


def _groups(keyed: Iterable[tuple[int, Hashable]]) -> list[list[int]]:
    by_key: dict[Hashable, list[int]] = defaultdict(list)
    for place, key in keyed:
        if key is not None:
            by_key[key].append(place)
    return [places for places in by_key.values() if len(places) > 1]


def _digest(path: str, limit: int) -> bytes | None:
    """Of the first `limit` bytes, -1 for all; None where they cannot be read."""
    digest = hashlib.blake2b(digest_size=16)
    try:
        with open(path, "rb") as file:
            if limit >= 0:
                digest.update(file.read(limit))
            else:
                while piece := file.read(1 << 20):
                    digest.update(piece)
    except OSError:
        return None
    return digest.digest()
