"""The images that settings train on: the same ones in every cell, and whenever a folder is gone on with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from patchmix.errors import UserError

Images = Mapping[str, Any]
"""What a checkpoint says of its images: name, num_images, fingerprint (job.describe_data)."""


def same_images(setting: str, said: Iterable[tuple[str, Images | None]]) -> Images | None:
    """The images of a setting, as the first says who knows them; `said`: (who says it, what it says or None).

    Raises:
        UserError: two say different things.
    """
    first: tuple[str, Images] | None = None
    for who, images in said:
        if images is None:
            continue
        if first is None:
            first = who, images
        elif any(images[key] != first[1][key] for key in images.keys() & first[1].keys()):
            raise UserError(
                f"{setting}: {who} is about other images than {first[0]} ({in_words(first[1])} → {in_words(images)}): "
                "restore the images, or name another --output"
            )
    return None if first is None else first[1]


def in_words(images: Images) -> str:
    """`cifar10, 10,000 images, fingerprint 9b6f5caf9df365ba`."""
    return f"{images.get('name')}, {images.get('num_images', 0):,} images, fingerprint {images.get('fingerprint')}"
