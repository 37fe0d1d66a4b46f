"""Section: some training images, their two views, and the views mixed: what the network was shown."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from patchmix.errors import UserError
from patchmix.reporting.run_files import RunFiles
from patchmix.reporting.section import Section

if TYPE_CHECKING:
    from torch import Tensor

NUM_IMAGES = 8
TILE = 112
"""Pixels a side of an image in the picture; small images are enlarged by a whole number."""
GAP = 8
OWNERS = (
    (51, 119, 204),
    (238, 136, 34),
    (34, 153, 102),
    (204, 68, 102),
    (136, 102, 204),
    (170, 136, 34),
    (34, 153, 187),
    (136, 136, 136),
)
"""A colour for each image; told apart on light and dark, and in order also by brightness."""


def section(run: RunFiles) -> Section:
    """A strip for each kind of picture; or why there is none."""
    try:
        rows = _rows(run)
        return Section("views", "What the network saw", {"rows": rows, "problem": None, **_words(run)})
    except (UserError, OSError) as error:
        problem = str(error)
    return Section("views", "What the network saw", {"rows": [], "problem": problem, **_words(run)})


def _words(run: RunFiles) -> dict[str, Any]:
    return {
        "num_mix": run.config.method.num_mix,
        "batch": run.config.optim.batch_size,
        "num_images": NUM_IMAGES,
    }


def _rows(run: RunFiles) -> list[dict[str, str]]:
    import torch

    from patchmix.data.datasets import open_dataset, read_or_next, view_size
    from patchmix.data.views import ViewMaker
    from patchmix.models.vit import resolve_spec
    from patchmix.randomness import draw_plan

    config = run.config
    source = open_dataset(config.data, "train")
    indices = np.linspace(0, len(source) - 1, min(NUM_IMAGES, len(source))).astype(int).tolist()
    read = [read_or_next(source, index) for index in indices]
    images, used = [image for image, *_ in read], [index for _, index, *_ in read]
    size = view_size(source, config.data)
    first, second, *_ = ViewMaker(config.views, size, config.seed)(images, [(0, index) for index in used])

    spec = resolve_spec(config.model, size, source.channels, source.mean, source.std)
    mix_size = config.method.mix_size or spec.patch_size
    # The plans of the run's first step.
    plans = [draw_plan(size, config.method.num_mix, mix_size, seed=config.seed, step=1, view=view) for view in (0, 1)]
    colours = torch.tensor(OWNERS, dtype=torch.uint8)[: len(images), :, None, None].expand(-1, -1, *size)
    return [
        _row("image", "as it is in the data", [_tile(image) for image in images], bar=True),
        _row("view 1", "a random view of it", [_tile(view) for view in first]),
        _row("view 2", "another one", [_tile(view) for view in second]),
        _row(
            "view 1, mixed",
            "patches of several images, each in its place",
            [_tile(v) for v in plans[0].mix(first)],
        ),
        _row("whose patch", "the colour under the image above", [_tile(v) for v in plans[0].mix(colours)]),
        _row("view 2, mixed", "with other patches", [_tile(view) for view in plans[1].mix(second)]),
    ]


def _row(title: str, note: str, tiles: list[Image.Image], *, bar: bool = False) -> dict[str, str]:
    height = TILE + (10 if bar else 0)
    strip = Image.new("RGBA", (len(tiles) * (TILE + GAP) - GAP, height))
    for position, tile in enumerate(tiles):
        left = position * (TILE + GAP)
        strip.paste(tile, (left + (TILE - tile.width) // 2, (TILE - tile.height) // 2))
        if bar:
            strip.paste((*OWNERS[position], 255), (left, TILE + 4, left + TILE, TILE + 10))
    return {
        "title": title,
        "note": note,
        "alt": f"{title} of {len(tiles)} training images: {note}",
        "source": _data_uri(strip),
    }


def _picture(image: Tensor) -> Image.Image:
    pixels = image.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).convert("RGB")


def _tile(image: Tensor) -> Image.Image:
    picture = _picture(image)
    factor = TILE // max(picture.size)
    if factor >= 1:
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    scale = TILE / max(picture.size)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.LANCZOS)


def _data_uri(picture: Image.Image) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")
