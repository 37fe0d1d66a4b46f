"""Section: for a few images, the training images that the encoder holds most alike, beside those of raw pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from patchmix.errors import UserError
from patchmix.reporting.pictures import data_uri, is_enlarged, tile
from patchmix.reporting.run_files import RunFiles
from patchmix.reporting.section import Section

if TYPE_CHECKING:
    from patchmix.reporting.retrieval import Retrieval, Shown

TITLE = "What looks alike to it"
NARROW = 0.9
"""Of neighbours with similarities above it two decimals say little."""


def section(run: RunFiles) -> Section:
    """A line for each query; or why there is none."""
    from patchmix.data.images import UnreadableImage
    from patchmix.reporting.retrieval import retrieve

    try:
        return Section("neighbours", TITLE, {"problem": None, **_context(retrieve(run))})
    except (UserError, OSError, UnreadableImage) as error:
        return Section("neighbours", TITLE, {"problem": str(error)})


def _context(found: Retrieval) -> dict[str, Any]:
    by_features = [(near, each.query) for each in found.found for near in each.by_features]
    by_pixels = [(near, each.query) for each in found.found for near in each.by_pixels]
    digits = 3 if all((near.similarity or 0) > NARROW for near, _ in by_features) else 2
    rows = [
        {
            "query": _entry(each.query, each.query, f"query {number}"),
            "features": _entries(each.by_features, each.query, "neighbour", digits),
            "pixels": _entries(each.by_pixels, each.query, "neighbour by pixels", 2),
        }
        for number, each in enumerate(found.found, 1)
    ]
    return {
        "rows": rows,
        "labelled": any(_same(*pair) is not None for pair in by_features),
        "num_shown": len(by_features),
        "hits": [sum(bool(_same(*pair)) for pair in pairs) for pairs in (by_features, by_pixels)],
        "num_looked": found.num_looked,
        "num_images": found.num_images,
        "whole": found.num_looked + found.num_unreadable == found.num_images,
        "num_unreadable": found.num_unreadable,
        "split": found.split,
        "loaded": found.loaded,
        "mean": f"{found.mean_similarity:.{digits}f}",
        "data_changed": found.data_changed,
    }


def _entries(images: list[Shown], query: Shown, title: str, digits: int) -> list[dict[str, Any]]:
    return [_entry(image, query, f"{title} {place}", digits) for place, image in enumerate(images, 1)]


def _entry(image: Shown, query: Shown, title: str, digits: int = 2) -> dict[str, Any]:
    similarity = None if image.similarity is None else f"{image.similarity:.{digits}f}"
    same = None if similarity is None else _same(image, query)
    words = [title]
    if image.label is not None:
        words.append(f"class {image.label}" + {None: "", True: ", that of the query", False: ", another"}[same])
    if similarity is not None:
        words.append(f"similarity {similarity}")
    return {
        "source": data_uri(tile(image.image), lossless=is_enlarged(image.image)),
        "alt": ", ".join(words),
        "path": image.path,
        "label": image.label,
        "similarity": similarity,
        "same": same,
    }


def _same(one: Shown, other: Shown) -> bool | None:
    """Whether both are of one class; None where a class is unknown."""
    return None if one.label is None or other.label is None else one.label == other.label
