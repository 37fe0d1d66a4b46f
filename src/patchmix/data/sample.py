"""A quick look at some images of a data set, to choose settings by before a run."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from patchmix.data.images import ImageHeader, UnreadableImage, read_header, read_image
from patchmix.data.sources import ImageSource
from patchmix.data.statistics import PixelMoments, pixel_moments, pixel_statistics
from patchmix.data.threads import decoding_threads, in_threads
from patchmix.errors import UserError

MOST_DECODED = 64
MOST_PIXELS = 200_000_000  # decoded in a few seconds


class Spread(NamedTuple):
    """5 % of the values are below `low`, 5 % above `high`."""

    low: float
    median: float
    high: float


@dataclass(frozen=True)
class ImageSample:
    """What evenly spaced images of a data set are like; sizes are in pixels, as shown upright.

    `formats` counts the readable ones by kind (`array` for data in memory, `packed` for files inside others). `mean`
    and `std` are in [0, 1], of one channel where `grey`, else of three; every image counts alike. They come from
    `num_decoded` images, of the others the header was read. `grey` says that none of those decoded has colour.
    """

    num_images: int
    num_tried: int
    num_unreadable: int
    num_decoded: int
    shorter_sides: Spread
    widths: tuple[int, int]
    heights: tuple[int, int]
    formats: dict[str, int]
    grey: bool
    mean: tuple[float, ...]
    std: tuple[float, ...]


def sample_images(source: ImageSource, count: int = 256) -> ImageSample:
    """Look at `count` evenly spaced images: the headers of all, the pixels of about 64.

    They are the same ones for the same source. It takes a few seconds at most on a local disk.

    Raises:
        UserError: none of them can be read.
    """
    indices = evenly_spaced(len(source), count)
    found = dict(zip(indices, in_threads(lambda index: _header(source, index), indices), strict=True))
    headers = {index: header for index, header in found.items() if isinstance(header, ImageHeader)}
    moments: dict[int, PixelMoments] = {}

    def decode(among: list[int]) -> None:
        chosen = [among[place] for place in evenly_spaced(len(among), _num_decoded([headers[each] for each in among]))]
        results = in_threads(lambda index: _moments(source, index), chosen, decoding_threads())
        for index, result in zip(chosen, results, strict=True):
            if isinstance(result, PixelMoments):
                moments[index] = result
            else:
                found[index] = result
                del headers[index]

    decode(list(headers))
    if all(each.grey for each in moments.values()):  # colour may be in the others, if their kind can have it
        decode([index for index, header in headers.items() if header.channels > 1 and index not in moments])
    failures = [each for each in found.values() if isinstance(each, UnreadableImage)]
    if not moments:
        if not failures:
            raise UserError(f"{source.name} has no images")
        raise UserError(
            f"none of the {len(failures):,} images of {source.name} tried can be read; one is {failures[0]}"
        )
    widths = np.array([header.width for header in headers.values()])
    heights = np.array([header.height for header in headers.values()])
    grey, mean, std = pixel_statistics(list(moments.values()))
    return ImageSample(
        num_images=len(source),
        num_tried=len(indices),
        num_unreadable=len(failures),
        num_decoded=len(moments),
        shorter_sides=Spread(*np.quantile(np.minimum(widths, heights), (0.05, 0.5, 0.95)).tolist()),
        widths=(int(widths.min()), int(widths.max())),
        heights=(int(heights.min()), int(heights.max())),
        formats=dict(Counter(header.kind for header in headers.values()).most_common()),
        grey=grey,
        mean=mean,
        std=std,
    )


def evenly_spaced(length: int, count: int) -> list[int]:
    """`count` indices below `length`, evenly spaced; all of them if there are no more."""
    if count >= length:
        return list(range(length))
    return [(2 * place + 1) * length // (2 * count) for place in range(count)]


def _num_decoded(headers: list[ImageHeader]) -> int:
    pixels = sum(header.width * header.height for header in headers)
    return min(MOST_DECODED, max(1, MOST_PIXELS * len(headers) // max(1, pixels)))


def try_header(path: str) -> ImageHeader | UnreadableImage:
    """A file's header, or why it cannot be read."""
    try:
        return read_header(path)
    except UnreadableImage as failure:
        return failure


def try_moments(path: str) -> PixelMoments | UnreadableImage:
    """The moments of an image file's pixels, as RGB, or why it cannot be read."""
    try:
        return pixel_moments(read_image(path, 3))
    except UnreadableImage as failure:
        return failure


def _header(source: ImageSource, index: int) -> ImageHeader | UnreadableImage:
    if _is_file(source, index):
        return try_header(source.path(index))
    try:
        channels, height, width = source.read(index).shape
    except UnreadableImage as failure:
        return failure
    return ImageHeader(width, height, "array" if source.in_memory else "packed", "L" if channels == 1 else "RGB")


def _moments(source: ImageSource, index: int) -> PixelMoments | UnreadableImage:
    if _is_file(source, index):
        return try_moments(source.path(index))
    try:
        return pixel_moments(source.read(index))
    except UnreadableImage as failure:
        return failure


def _is_file(source: ImageSource, index: int) -> bool:
    return not source.in_memory and os.path.isfile(source.path(index))
