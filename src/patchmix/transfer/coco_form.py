"""COCO's form of annotations: what a file must have, and what becomes of boxes and polygons that do not fit."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from patchmix.errors import UserError
from patchmix.transfer.masks import as_mask

Box = tuple[float, float, float, float]  # x, y, width, height

NO_AREA = "boxes without area"
OUTSIDE = "boxes outside their image"
CLIPPED = "boxes clipped to their image"
FEW_POINTS = "polygons with fewer than 3 points"
NO_POLYGON = "objects without a usable polygon"

SLACK = 1.0  # pixels that a box may reach beyond its image: some of COCO's do, by rounding, and are scored so
_FAR = 10  # image sizes; drawing a polygon takes memory by its length, and 10^12 pixels would end the process
_LISTS = ("images", "annotations", "categories")


class FormError(ValueError):
    """What is not of COCO's form, and what it must be, in the words of one line."""


def load(file: Path) -> dict[str, list[dict[str, Any]]]:
    """The three lists of an annotation file: `images`, `annotations` and `categories`.

    Raises:
        UserError: no such file, it cannot be read, is not JSON, or not of this form.
    """
    try:
        content = json.loads(file.read_bytes())
    except FileNotFoundError:
        raise UserError(f"annotation file {file} does not exist: give a JSON file of COCO's form") from None
    except OSError as error:
        raise UserError(f"annotation file {file} cannot be read: {error.strerror or error}") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{file} is not whole JSON: {error.msg} in line {error.lineno}, column {error.colno}; get the file again"
        ) from None
    except (ValueError, RecursionError):  # no text, a number of thousands of digits, lists in lists without end
        raise UserError(f"{file} is not a JSON file: give annotations of COCO's form") from None
    if isinstance(content, list):
        raise UserError(
            f"{file} is a list, as COCO's results are: give annotations, an object with the lists {', '.join(_LISTS)}"
        )
    for name in _LISTS:
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise UserError(
                f"{file} is not of COCO's form for objects: it has no list {name!r} of objects "
                f"(needed are {', '.join(_LISTS)}, as in instances_val2017.json)"
            )
    return content  # type: ignore[no-any-return]  # as the loop has shown


def whole(entry: dict[str, Any], key: str, *, least: int | None = None) -> int:
    """A whole number of an entry; FormError where it is absent or something else."""
    value = entry.get(key)
    if type(value) is not int or (least is not None and value < least):
        wanted = "a whole number" if least is None else f"a whole number of at least {least}"
        raise FormError(f"{_given(entry, key)}, where {wanted} is needed")
    return value


def text(entry: dict[str, Any], key: str) -> str:
    """A text of an entry that is not empty; FormError where it is absent or something else."""
    value = entry.get(key)
    if not isinstance(value, str) or not value.strip():
        raise FormError(f"{_given(entry, key)}, where a text is needed")
    return value


def box_of(entry: dict[str, Any]) -> Box:
    """Its `bbox`; FormError where that is not four finite numbers."""
    value = entry.get("bbox")
    if not isinstance(value, list) or len(value) != 4 or not _finite(value):
        raise FormError(f"{_given(entry, 'bbox')}, where four finite numbers are needed: x, y, width, height")
    return float(value[0]), float(value[1]), float(value[2]), float(value[3])


def area_of(entry: dict[str, Any]) -> float | None:
    """Its `area`, None where there is none; FormError where that is no finite number."""
    value = entry.get("area")
    if value is None:
        return None
    if not _finite([value]) or value < 0:
        raise FormError(f"{_given(entry, 'area')}, where a number of pixels is needed")
    return float(value)


def crowd_of(entry: dict[str, Any]) -> bool:
    """Its `iscrowd`, which may be absent; FormError where that is not 0 or 1."""
    value = entry.get("iscrowd", 0)
    if value not in (0, 1):
        raise FormError(f"{_given(entry, 'iscrowd')}, where 0 or 1 is needed")
    return bool(value)


def fitted_box(box: Box, width: int, height: int) -> tuple[Box | None, str | None]:
    """A box as it is used in an image of this size, None where it is not, and what is counted.

    One that reaches beyond the image by more than SLACK is clipped.
    """
    x, y, w, h = box
    if w <= 0 or h <= 0:
        return None, NO_AREA
    left, top, right, bottom = max(x, 0.0), max(y, 0.0), min(x + w, float(width)), min(y + h, float(height))
    if right <= left or bottom <= top:
        return None, OUTSIDE
    if max(left - x, top - y, x + w - right, y + h - bottom) <= SLACK:
        return box, None
    return (left, top, right - left, bottom - top), CLIPPED


def fitted_segmentation(entry: dict[str, Any], width: int, height: int) -> tuple[Any, int]:
    """Its `segmentation` without polygons of fewer than 3 points, and how many of these there were.

    None where there is no segmentation; an empty list where no polygon is left.

    Raises:
        FormError: neither polygons nor RLE, or they do not fit an image of this size.
    """
    value = entry.get("segmentation")
    if isinstance(value, dict):
        _check_rle(value, width, height)
        return value, 0
    if value is None:
        return None, 0
    if not isinstance(value, list) or not all(isinstance(polygon, list) for polygon in value):
        raise FormError("has a segmentation that is neither a list of polygons nor an RLE")
    polygons = [polygon for polygon in value if polygon]  # [] and [[]] are how some tools write that there is none
    if not polygons:
        return None, 0
    for polygon in polygons:
        if len(polygon) % 2 or not _finite(polygon):
            raise FormError("has a polygon that is not a list of finite numbers x, y, x, y, …")
        if max(polygon) > (1 + _FAR) * max(width, height) or min(polygon) < -_FAR * max(width, height):
            raise FormError(f"has a polygon that reaches far beyond its image of {width} x {height} pixels")
    usable = [polygon for polygon in polygons if len(polygon) >= 6]
    return usable, len(polygons) - len(usable)


def _check_rle(rle: dict[str, Any], width: int, height: int) -> None:
    size, counts = rle.get("size"), rle.get("counts")
    if size != [height, width]:
        raise FormError(f"has an RLE of size {size!r:.60}, where its image's [height, width] = [{height}, {width}] is")
    ok = all(type(count) is int and count >= 0 for count in counts) if isinstance(counts, list) else None
    if ok is False or (ok is None and not isinstance(counts, str)):
        raise FormError("has an RLE whose counts are neither whole numbers nor a text")
    try:
        as_mask(rle, height, width)
    except (ValueError, RuntimeError, TypeError):
        raise FormError(f"has a damaged RLE: its counts do not make {width} x {height} pixels") from None


def _finite(numbers: Iterable[Any]) -> bool:
    values = list(numbers)
    if not {type(value) for value in values} <= {int, float}:
        return False
    try:
        return math.isfinite(sum(map(float, values)))
    except OverflowError:  # a whole number too large for any image
        return False


def _given(entry: dict[str, Any], key: str) -> str:
    return f"has {key} = {entry[key]!r:.60}" if key in entry else f"has no {key}"
