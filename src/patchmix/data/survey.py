"""What a folder of images holds: number, kinds, sizes, statistics, unreadable and duplicate files."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from patchmix.config import DataConfig
from patchmix.config.options import require
from patchmix.data.datasets import Split, split_folders
from patchmix.data.duplicates import find_duplicates
from patchmix.data.folder import no_images
from patchmix.data.images import ImageHeader, UnreadableImage
from patchmix.data.listing import Listing, list_images
from patchmix.data.sample import evenly_spaced, try_header, try_moments
from patchmix.data.statistics import PixelMoments, PixelStatistics, pixel_statistics
from patchmix.data.threads import Track, decoding_threads, in_threads, untracked
from patchmix.errors import UserError

_DARK = 64  # of 255: the upper 8 bits of values that need 14

TINY = 32  # pixels; a shorter side below that shows little


class Sides(NamedTuple):
    """Smallest, median and largest, in pixels as shown upright."""

    least: int
    median: int
    most: int


@dataclass(frozen=True)
class SplitSurvey:
    """`classes` counts the images of each top-level folder, if every image lies in one
    and at least two have some."""

    folder: str
    num_images: int
    num_bytes: int
    classes: dict[str, int]
    left_out: str


@dataclass(frozen=True)
class Survey:
    """What a folder of images holds.

    Of `num_looked_at` evenly spaced files the headers were read and the contents compared; `num_decoded` of them were
    decoded, for `statistics` (None if none could be) and to find damaged ones. `num_dark` of these have values of
    `dark_bits` bits or fewer in 16, of which the upper 8 are taken. `kinds` and `modes` count the readable
    files by format and by Pillow's mode (L is grey, RGB colour). `num_tiny` have a shorter side below 32 px.
    `unreadable`: (path, why). `duplicates`: groups of paths with the same content; of each all but one are superfluous,
    and `num_across_splits` groups lie in both splits, which spoils an evaluation.
    """

    root: str
    splits: dict[str, SplitSurvey]
    num_images: int
    num_bytes: int
    num_looked_at: int
    num_decoded: int
    num_dark: int
    dark_bits: int
    kinds: dict[str, int]
    modes: dict[str, int]
    widths: Sides | None
    heights: Sides | None
    shorter_sides: Sides | None
    num_tiny: int
    largest: str | None
    statistics: PixelStatistics | None
    unreadable: tuple[tuple[str, str], ...]
    duplicates: tuple[tuple[str, ...], ...]
    num_superfluous: int
    num_across_splits: int

    def to_dict(self) -> dict[str, Any]:
        """As plain types, for JSON; of unreadable and duplicate files the numbers."""
        plain = asdict(self)
        plain |= {"unreadable": len(self.unreadable), "duplicates": len(self.duplicates)}
        for name in ("widths", "heights", "shorter_sides", "statistics"):
            if (value := getattr(self, name)) is not None:
                plain[name] = value._asdict()
        return plain


def survey_folder(
    root: str | os.PathLike[str], *, images: int = 20_000, decode: int = 2000, track: Track = untracked
) -> Survey:
    """Look at the images of a folder.

    Args:
        images: files to look at, evenly spaced if there are more; memory grows with it, by about 1 kB each.
        decode: of these, the images to decode.
        track: shows progress.

    Raises:
        UserError: no such folder, a folder below it cannot be read, or no images.
    """
    require(images > 0, "images", images, "a whole number above 0")
    require(decode >= 0, "decode", decode, "a whole number of 0 or more")
    folders = split_folders(DataConfig(name="folder", root=os.fspath(root)))
    listings = {split: list_images(folders[split]) for split in track("listing files", list(folders))}
    if not len(listings["train"].paths):
        raise UserError(no_images(folders["train"], listings["train"].left_out))
    files = _Files(folders, listings, images)
    headers = list(in_threads(try_header, track("reading headers", files.paths)))
    decoded = _decode(files, headers, decode, track)
    moments = list(decoded.values())
    dark = [each.highest for place, each in decoded.items() if _is_dark(headers[place], each)]
    readable = [place for place, header in enumerate(headers) if isinstance(header, ImageHeader)]
    groups = find_duplicates([files.paths[place] for place in readable], files.sizes[readable], track)
    duplicates = [[readable[place] for place in group] for group in groups]
    seen = [header for header in headers if isinstance(header, ImageHeader)]
    sides = np.array([(header.width, header.height) for header in seen], dtype=np.int64).reshape(-1, 2)
    return Survey(
        root=os.fspath(root),
        splits={split: _split_survey(folders[split], listing) for split, listing in listings.items()},
        num_images=sum(len(listing.paths) for listing in listings.values()),
        num_bytes=sum(int(listing.sizes.sum()) for listing in listings.values()),
        num_looked_at=len(files.paths),
        num_decoded=len(moments),
        num_dark=len(dark),
        dark_bits=8 + max(dark, default=0).bit_length() if dark else 0,
        kinds=dict(Counter(header.kind for header in seen).most_common()),
        modes=dict(Counter(header.mode for header in seen).most_common()),
        widths=_sides(sides[:, 0]),
        heights=_sides(sides[:, 1]),
        shorter_sides=_sides(sides.min(axis=1)) if seen else None,
        num_tiny=int((sides.min(axis=1) < TINY).sum()) if seen else 0,
        largest=files.paths[readable[int(sides.prod(axis=1).argmax())]] if seen else None,
        statistics=pixel_statistics(moments) if moments else None,
        unreadable=tuple((each.path, each.why) for each in headers if isinstance(each, UnreadableImage)),
        duplicates=tuple(tuple(files.paths[place] for place in group) for group in duplicates),
        num_superfluous=sum(len(group) - 1 for group in duplicates),
        num_across_splits=sum(len({files.splits[place] for place in group}) > 1 for group in duplicates),
    )


class _Files:
    """The files to look at: paths, bytes, and the split that each is in."""

    def __init__(self, folders: dict[Split, Path], listings: dict[Split, Listing], images: int) -> None:
        self.paths: list[str] = []
        self.splits: list[Split] = []
        sizes: list[int] = []
        chosen = np.array(evenly_spaced(sum(len(listing.paths) for listing in listings.values()), images))
        for split, listing in listings.items():
            here = chosen[(chosen >= 0) & (chosen < len(listing.paths))].tolist()
            chosen = chosen - len(listing.paths)
            self.paths += [os.path.join(folders[split], listing.paths[index]) for index in here]
            self.splits += [split] * len(here)
            sizes += listing.sizes[here].tolist()
        self.sizes = np.array(sizes, dtype=np.int64)


def _decode(
    files: _Files, headers: list[ImageHeader | UnreadableImage], count: int, track: Track
) -> dict[int, PixelMoments]:
    """Decode evenly spaced ones, by place; those that cannot be take the place of their headers."""
    readable = [place for place, header in enumerate(headers) if isinstance(header, ImageHeader)]
    chosen = [readable[place] for place in evenly_spaced(len(readable), count)]
    results = in_threads(lambda place: try_moments(files.paths[place]), track("decoding", chosen), decoding_threads())
    moments = {}
    for place, result in zip(chosen, results, strict=True):
        if isinstance(result, UnreadableImage):
            headers[place] = result
        else:
            moments[place] = result
    return moments


def _is_dark(header: ImageHeader | UnreadableImage, moments: PixelMoments) -> bool:
    """Whether 16 bits a pixel hold values of 14 or fewer, as microscopes and detectors write them."""
    return isinstance(header, ImageHeader) and header.mode.startswith("I") and moments.highest < _DARK


def _split_survey(folder: Path, listing: Listing) -> SplitSurvey:
    counts = np.bincount(listing.tops[listing.tops >= 0], minlength=len(listing.top_names)).tolist()
    filled = {name: count for name, count in zip(listing.top_names, counts, strict=True) if count}
    labelled = len(filled) > 1 and bool((listing.tops >= 0).all())
    return SplitSurvey(
        folder=os.fspath(folder),
        num_images=len(listing.paths),
        num_bytes=int(listing.sizes.sum()),
        classes=filled if labelled else {},
        left_out=str(listing.left_out),
    )


def _sides(pixels: npt.NDArray[np.int64]) -> Sides | None:
    return Sides(int(pixels.min()), int(np.median(pixels)), int(pixels.max())) if len(pixels) else None
