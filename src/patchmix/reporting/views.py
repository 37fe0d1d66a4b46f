"""Section: some training images, their views, and the views mixed: what the network was shown."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from patchmix.contrasts import mixers, mixes
from patchmix.errors import UserError
from patchmix.reporting.pictures import TILE, data_uri, is_enlarged, tile
from patchmix.reporting.run_files import RunFiles
from patchmix.reporting.section import Section

if TYPE_CHECKING:
    from torch import Tensor

NUM_IMAGES = 8
NUM_LOCAL_CROPS = 2
"""Local crops of each image that are shown, however many there are."""
SHOWN_MIXES = (2, 3)
"""Images mixed into one that are shown beside the run's own number: the paper trains with 2 and draws 3."""
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

Row = dict[str, Any]


def section(run: RunFiles) -> Section:
    """A strip for each kind of picture; or why there is none."""
    rows: list[Row] = []
    problem = None
    try:
        rows = _rows(run)
    except (UserError, OSError) as error:
        problem = str(error)
    method, machine = run.config.method, run.config.run
    context = {
        "rows": rows,
        "problem": problem,
        "num_mix": method.num_mix,
        "mixes": mixes(method, run.config.views.num_local_crops > 0),
        "method": method.name,
        "num_images": rows[0]["count"] if rows else 0,
        "mixed": any(row["mixed"] for row in rows),
        "among": method.mix_group or run.config.optim.batch_size // (machine.num_devices * machine.num_nodes),
    }
    return Section("views", "What the network saw", context)


def _rows(run: RunFiles) -> list[Row]:
    import torch

    from patchmix.data.datasets import view_size
    from patchmix.data.sources import read_or_next
    from patchmix.data.views import ViewMaker

    config = run.config
    source = run.training_images
    indices = np.linspace(0, len(source) - 1, min(NUM_IMAGES, len(source))).astype(int).tolist()
    read = [read_or_next(source, index) for index in indices]
    images, used = [image for image, *_ in read], [index for _, index, *_ in read]
    size = view_size(source, config.data)
    first, second, *local = ViewMaker(config.views, size, config.seed)(images, [(0, index) for index in used])
    rows = [
        _row("image", "as it is in the data", images, bar=True),
        _row("view 1", "a random view of it", first),
        _row("view 2", "another one", second),
    ]
    try:
        mix_size = run.mix_size
    except UserError as error:
        return [*rows, _text("mixed views", str(error))]
    colours = torch.tensor(OWNERS, dtype=torch.uint8)[: len(images), :, None, None]
    own = config.method.num_mix
    if not mixes(config.method, bool(local)):
        shown: set[int] = set()
    else:  # other numbers than the run's own only beside the paper's mixer
        shown = {own, *(SHOWN_MIXES if mixers(config.method) == ("patches",) else ())} - {1}
    for num_mix in sorted(shown):
        rows += _mixed(run, first, colours, num_mix, mix_size, view=0, title=f"view 1, M = {num_mix}")
    for number, crops in enumerate(local[:NUM_LOCAL_CROPS]):
        side = max(24, TILE * crops.shape[-1] // max(size))
        rows.append(_row(f"local crop {number + 1}", f"{crops.shape[-1]} px, {len(local)} of each image", crops, side))
        if number == 0 and own in shown:
            rows += _mixed(run, crops, colours, own, mix_size, view=2, title="local crop 1, mixed", side=side)
    return rows


def _mixed(
    run: RunFiles,
    views: Tensor,
    colours: Tensor,
    num_mix: int,
    mix_size: int,
    *,
    view: int,
    title: str,
    side: int = TILE,
) -> list[Row]:
    """The views mixed by the plan of the run's first step, and the owner of every patch."""
    from patchmix.mixing import BlendPlan
    from patchmix.randomness import draw_any_plan

    height, width = views.shape[-2:]
    num_patches = (height // mix_size) * (width // mix_size)
    if num_mix > num_patches:
        return [_text(title, f"{num_mix} images do not go into a view of {num_patches} mixing patches")]
    method = dataclasses.replace(run.config.method, num_mix=num_mix)
    plan = draw_any_plan(
        (height, width), method, mix_size, seed=run.config.seed, step=1, view=view, images=(0, len(views))
    )
    mixed, owners = (  # mixup computes means
        plan.mix(each.float()).round().to(each.dtype) for each in (views, colours.expand(-1, -1, height, width))
    )
    own = num_mix == run.config.method.num_mix
    blended = isinstance(plan, BlendPlan)
    note = f"a weighted mean of {num_mix} images" if blended else f"patches of {num_mix} images, each in its place"
    return [
        _row(title, note, mixed, side, own=own, mixed=True),
        _row("whose patch", "the colour under the image above", owners, side, mixed=True, flat=True),
    ]


def _row(
    title: str,
    note: str,
    images: Sequence[Tensor] | Tensor,
    side: int = TILE,
    *,
    bar: bool = False,
    own: bool = False,
    mixed: bool = False,
    flat: bool = False,
) -> Row:
    strip = Image.new("RGBA", (len(images) * (TILE + GAP) - GAP, side + (10 if bar else 0)))
    for position, image in enumerate(images):
        picture = tile(image, side, flat=flat)
        left = position * (TILE + GAP)
        strip.paste(picture, (left + (TILE - picture.width) // 2, (side - picture.height) // 2))
        if bar:
            strip.paste((*OWNERS[position], 255), (left, side + 4, left + TILE, side + 10))
    return {
        "title": title,
        "note": note,
        "own": own,
        "mixed": mixed,
        "count": len(images),
        "alt": f"{title} of {len(images)} training images: {note}",
        "source": data_uri(strip, lossless=flat or is_enlarged(images[0], side)),
        "width": strip.width,
    }


def _text(title: str, problem: str) -> Row:
    """A row that says why there is no picture."""
    return {"title": title, "note": problem, "own": False, "mixed": False, "count": 0, "source": None}
