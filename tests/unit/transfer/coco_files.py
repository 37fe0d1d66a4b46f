"""Small files of COCO's form for tests: three images of 40 x 30 pixels, categories 3 and 7."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 40, 30
SQUARE = [[4.0, 6.0, 14.0, 6.0, 14.0, 16.0, 4.0, 16.0]]  # the polygon of box [4, 6, 10, 10]


def annotation(identity: int, image: int = 1, **fields: Any) -> dict[str, Any]:
    """A square of 10 pixels at (4, 6), of category 3; fields that are None are left out."""
    entry = {
        "id": identity,
        "image_id": image,
        "category_id": 3,
        "bbox": [4, 6, 10, 10],
        "area": 100.0,
        "iscrowd": 0,
        "segmentation": SQUARE,
        **fields,
    }
    return {key: value for key, value in entry.items() if value is not None}


def content(*annotations: dict[str, Any], **lists: Any) -> dict[str, Any]:
    """A whole file's content, of images 1, 2 and 3."""
    images = [{"id": k, "file_name": f"{k}.png", "width": WIDTH, "height": HEIGHT} for k in (1, 2, 3)]
    categories = [{"id": 7, "name": "dog"}, {"id": 3, "name": "cat"}]
    return {"images": images, "annotations": list(annotations), "categories": categories, **lists}


def put(folder: Path, written: Any, name: str = "objects.json") -> tuple[Path, Path]:
    """Write the annotation file, and the images 1.png to 3.png in a folder beside it: (file, folder of images)."""
    images = folder / "images"
    images.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for k in (1, 2, 3):
        Image.fromarray(generator.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)).save(images / f"{k}.png")
    file = folder / name
    file.write_text(written if isinstance(written, str) else json.dumps(written))
    return file, images
