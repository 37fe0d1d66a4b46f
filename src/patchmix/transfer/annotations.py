"""Annotated images of one split, read from a file of COCO's form; keypoints and other fields are ignored."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from patchmix.data.images import UnreadableImage, read_header
from patchmix.errors import UserError
from patchmix.transfer import coco_form
from patchmix.transfer.coco_form import FormError
from patchmix.transfer.masks import mask_area

ABSENT = "images that are absent"
OF_ABSENT = "objects of absent images"
OF_UNLISTED = "objects of images that the file does not list"

_NAMED = 3  # so many examples stand in a message

Parsed = TypeVar("Parsed")


@dataclass(frozen=True, slots=True)
class Category:
    """What objects can be; `id` is COCO's, which may leave gaps."""

    id: int
    name: str


@dataclass(frozen=True, slots=True)
class Object:
    """One annotation of an image.

    `category` is COCO's id; `box` is x, y, width, height in pixels of the image; `area` in pixels, of the mask where
    there is one; `segmentation` is COCO's polygons (a list of lists) or RLE (a dict, compressed or not), or None.
    """

    id: int
    category: int
    box: tuple[float, float, float, float]
    area: float
    is_crowd: bool
    segmentation: Any


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image (`path` is None where it is no file), its size in pixels, and its objects; there may be none."""

    id: int
    path: Path | None
    width: int
    height: int
    objects: tuple[Object, ...]


@dataclass(frozen=True)
class Annotations:
    """The annotated images of a split, in the order of the file.

    `categories` are in the order of their ids; `dropped` says what was left out or changed: {reason: how many}.
    """

    name: str
    categories: tuple[Category, ...]
    images: tuple[AnnotatedImage, ...]
    dropped: Mapping[str, int]

    @functools.cached_property
    def ids(self) -> tuple[int, ...]:
        """COCO's category ids, by label - 1."""
        return tuple(category.id for category in self.categories)

    @functools.cached_property
    def _labels(self) -> dict[int, int]:
        return {category: label for label, category in enumerate(self.ids, start=1)}

    def label_of(self, category_id: int) -> int:
        """The label that a detector learns: 1 … number of categories; 0 is the background."""
        return self._labels[category_id]

    @property
    def num_objects(self) -> int:
        return sum(len(image.objects) for image in self.images)

    @property
    def num_without_segmentation(self) -> int:
        return sum(each.segmentation is None for image in self.images for each in image.objects)

    def describe(self) -> str:
        """One line: how much there is, and what was left out or changed."""
        line = f"{len(self.images):,} images, {self.num_objects:,} objects of {len(self.categories):,} categories"
        empty = sum(not image.objects for image in self.images)
        if empty:
            line += f", {empty:,} images without objects"
        counted = ", ".join(f"{count:,} {reason}" for reason, count in self.dropped.items())
        return f"{line}; left out or changed: {counted}" if counted else line


def read_annotations(file: Path, images: Path, *, name: str, max_missing: float = 0.1) -> Annotations:
    """Read a file of COCO's form, of which the images lie in the folder `images`.

    Counted in `dropped`: absent images and their objects, objects of images that the file does not list, boxes without
    area, boxes outside their image (clipped where they reach more than a pixel beyond it), polygons with fewer than 3
    points, and objects that have no other polygon. Images without objects are kept. Sizes that the file does not have
    are those of the image files, areas that it does not have those of the masks, else of the boxes.

    Args:
        name: what the split is called in messages.
        max_missing: the share of listed images that may be absent.

    Raises:
        UserError: no such file or folder, no JSON, not of COCO's form, ids that stand twice, a category without a
            name or an object of an unlisted category, more absent images than allowed, no annotated image at all.
    """
    content = coco_form.load(file)
    if not images.is_dir():
        raise UserError(f"the images of {file} are looked for in {images}, which is no folder: give the right one")
    categories = _each(file, "category", content["categories"], _category)
    _refuse_twice(file, "category", [category.id for category in categories])
    listed = _each(file, "image", content["images"], lambda entry: _image(entry, images))
    _refuse_twice(file, "image", [image.id for image in listed])
    dropped: Counter[str] = Counter()
    present = _present(file, images, listed, max_missing, dropped)
    reader = _ObjectReader(present, {image.id for image in listed}, {category.id for category in categories}, dropped)
    entries = content["annotations"]
    _refuse_twice(file, "annotation", _each(file, "annotation", entries, lambda entry: coco_form.whole(entry, "id")))
    _each(file, "annotation", entries, reader.add)
    if not any(reader.objects.values()):
        counted = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
        raise UserError(
            f"{file} has no annotated image at all: {len(present):,} images, {len(entries):,} annotations"
            f"{f' ({counted})' if counted else ''}; give annotations of the images in {images}"
        )
    return Annotations(
        name,
        tuple(sorted(categories, key=lambda category: category.id)),
        tuple(dataclasses.replace(image, objects=tuple(reader.objects[image.id])) for image in present),
        dict(dropped),
    )


def with_categories_of(val: Annotations, train: Annotations) -> Annotations:
    """`val` with the categories of `train`, so that a label means the same in both; `val` may lack some of them.

    Raises:
        UserError: `val` has a category that `train` does not have, or calls by another name.
    """
    known = {category.id: category.name for category in train.categories}
    unknown = [category for category in val.categories if category.id not in known]
    if unknown:
        raise UserError(
            f"the annotations of {val.name} have {_some([f'category {each.id} ({each.name})' for each in unknown])}, "
            f"unknown to those of {train.name}, so not learned: list it there, or take it out of {val.name}"
        )
    for category in val.categories:
        if category.name != known[category.id]:
            raise UserError(
                f"category {category.id} is {category.name!r} in the annotations of {val.name}, but "
                f"{known[category.id]!r} in those of {train.name}: give both the same ids and names"
            )
    return dataclasses.replace(val, categories=train.categories)


def check_segmentations(annotations: Annotations) -> None:
    """Raise a UserError if some objects have no segmentation: masks cannot be learned from them, or scored."""
    missing = annotations.num_without_segmentation
    if missing:
        first = next(each.id for image in annotations.images for each in image.objects if each.segmentation is None)
        raise UserError(
            f"{missing:,} of {annotations.num_objects:,} objects of {annotations.name} have no segmentation (the "
            f"first is annotation {first}): masks need one for each; add them, or detect boxes alone"
        )


class _ObjectReader:
    """Collects the objects of the images that are there; counts what cannot be used."""

    def __init__(
        self, present: Sequence[AnnotatedImage], listed: set[int], categories: set[int], dropped: Counter[str]
    ) -> None:
        self.images = {image.id: image for image in present}
        self.objects: dict[int, list[Object]] = {image.id: [] for image in present}
        self.listed, self.categories, self.dropped = listed, categories, dropped

    def add(self, entry: dict[str, Any]) -> None:
        image_id, category = coco_form.whole(entry, "image_id"), coco_form.whole(entry, "category_id")
        given = coco_form.box_of(entry)
        if category not in self.categories:
            raise FormError(f"is of category {category}, which the file does not list: add it to 'categories'")
        image = self.images.get(image_id)
        if image is None:
            self.dropped[OF_ABSENT if image_id in self.listed else OF_UNLISTED] += 1
            return
        width, height = image.width, image.height
        box, counted = coco_form.fitted_box(given, width, height)
        if counted is not None:
            self.dropped[counted] += 1
        if box is None:
            return
        segmentation, num_dropped = coco_form.fitted_segmentation(entry, width, height)
        if num_dropped:
            self.dropped[coco_form.FEW_POINTS] += num_dropped
        if segmentation == []:
            self.dropped[coco_form.NO_POLYGON] += 1
            return
        area = coco_form.area_of(entry)
        if area is None:
            area = box[2] * box[3] if segmentation is None else mask_area(segmentation, height, width)
        crowd = coco_form.crowd_of(entry)
        self.objects[image_id].append(Object(entry["id"], category, box, area, crowd, segmentation))


def _each(
    file: Path, kind: str, entries: Sequence[dict[str, Any]], parse: Callable[[dict[str, Any]], Parsed]
) -> list[Parsed]:
    """`parse` of every entry; a FormError becomes a UserError that says where."""
    parsed = []
    for place, entry in enumerate(entries):
        try:
            parsed.append(parse(entry))
        except FormError as error:
            identity = entry.get("id")
            which = f"{kind} {identity!r:.40}" if "id" in entry else f"{kind} number {place + 1} of the list"
            raise UserError(f"{file} is not of COCO's form: {which} {error}") from None
    return parsed


def _category(entry: dict[str, Any]) -> Category:
    return Category(coco_form.whole(entry, "id"), coco_form.text(entry, "name"))


def _image(entry: dict[str, Any], folder: Path) -> AnnotatedImage:
    identity, path = coco_form.whole(entry, "id"), folder / coco_form.text(entry, "file_name")
    if "width" not in entry and "height" not in entry:
        try:
            header = read_header(path)
        except (UnreadableImage, ValueError) as error:
            if not path.is_file():
                return AnnotatedImage(identity, path, 1, 1, ())  # is counted with the absent ones
            raise FormError(f"has no width and height, and its file cannot be read: {error}") from None
        return AnnotatedImage(identity, path, header.width, header.height, ())
    width, height = coco_form.whole(entry, "width", least=1), coco_form.whole(entry, "height", least=1)
    return AnnotatedImage(identity, path, width, height, ())


def _present(
    file: Path, folder: Path, listed: Sequence[AnnotatedImage], max_missing: float, dropped: Counter[str]
) -> list[AnnotatedImage]:
    """Those images whose files are there.

    Raises:
        UserError: more are absent than `max_missing` allows.
    """
    names = functools.cache(_names_in)  # one listing of a folder, where asking for each file takes minutes on a network
    there = [image.path.name in names(image.path.parent) or image.path.is_file() for image in listed if image.path]
    absent = [image for image, found in zip(listed, there, strict=True) if not found]
    if len(absent) > max_missing * len(listed):
        examples = _some([ascii(os.path.relpath(image.path, folder))[1:-1] for image in absent if image.path])
        raise UserError(
            f"{len(absent):,} of the {len(listed):,} images that {file} names are absent from {folder} ({examples}), "
            f"more than the share of {max_missing:g} that may be: give the folder that holds them"
        )
    if absent:
        dropped[ABSENT] = len(absent)
    return [image for image, found in zip(listed, there, strict=True) if found]


def _names_in(folder: Path) -> frozenset[str]:
    try:
        return frozenset(os.listdir(folder))
    except (OSError, ValueError):
        return frozenset()


def _refuse_twice(file: Path, kind: str, ids: Sequence[int]) -> None:
    if len(set(ids)) < len(ids):
        twice = [str(identity) for identity, count in Counter(ids).items() if count > 1]
        raise UserError(
            f"{file} is not of COCO's form: {kind} id {_some(twice)} stands more than once; number them anew"
        )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more:,} more" if more > 0 else "")
