"""Section: curves of the loss and its parts with their floors, of the schedules and of the diagnostics."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from patchmix import contrasts
from patchmix.config import Config
from patchmix.errors import UserError
from patchmix.metrics_file import Record
from patchmix.reporting.plots import Level, Line, line_plot
from patchmix.reporting.run_files import RunFiles
from patchmix.reporting.section import Section
from patchmix.watch import chance_loss

PARTS = {
    "loss_origin_to_origin": ("View to view", "each image finds its other view among all keys"),
    "loss_mix_to_origin": ("Mixed to whole", "a mixed image finds the images it was mixed from"),
    "loss_mix_to_mix": ("Mixed to mixed", "mixed images find those that share patches with them"),
    "loss_origin_to_mix": ("Whole to mixed", "an image finds the mixed images that hold it"),
    "loss_local": ("Local crops to whole", "small crops find both views; a sum of two losses"),
    "loss_local_mix": ("Mixed local crops to whole", "mixed crops find what they hold; a sum of two losses"),
}
WATCHED = {
    "knn_top1": ("kNN while training", "%, leave-one-out on training images: higher is better"),
    "rankme": ("RankMe", "directions that the features use: 1 is collapse"),
    "feature_std": ("Feature spread", "1 fills the sphere, 0 is collapse"),
    "alignment": ("Alignment", "distance between two views of an image: lower is closer"),
    "uniformity": ("Uniformity", "lower is more evenly spread, 0 is collapse"),
}


def section(run: RunFiles) -> Section:
    """Every curve that the run has records of."""
    scale, xlabel = (run.steps_per_epoch, "epoch") if run.steps_per_epoch else (1, "step")
    losses = _losses(run, scale or 1, xlabel)
    watched = [
        figure
        for name, (title, note) in WATCHED.items()
        if (figure := _figure(title, note, run.evaluations, [name], scale or 1, xlabel, marker=True))
    ]
    machine = [
        _figure("Learning rate", "", run.training, ["lr"], scale or 1, xlabel),
        _figure("Momentum", "of the momentum encoder", run.training, ["momentum"], scale or 1, xlabel),
        _figure("Gradient norm", "before clipping", run.training, ["grad_norm"], scale or 1, xlabel),
        _figure("Speed", "images a second", run.training, ["images_per_second"], scale or 1, xlabel),
    ]
    context = {
        "losses": losses,
        "watched": watched,
        "machine": [figure for figure in machine if figure],
        "has_records": bool(run.training or run.evaluations),
        "evaluated": bool(run.evaluations),
        "every": run.config.run.eval_every_epochs,
    }
    return Section("curves", "Curves", context)


def floors(config: Config, num_patches: tuple[int, int] | None = None) -> dict[str, float]:
    """The least value each loss can have: the entropy of its targets (method.md, "Targets").

    A cross-entropy is its target's entropy plus what the prediction adds; a graded target has one above zero.
    `num_patches`: mixing patches of a view and of a local crop, where the targets are weighed by them (None: alike).
    """
    from patchmix import mixing

    method = config.method
    local_batch = config.optim.batch_size // (config.run.num_devices * config.run.num_nodes)
    view, crop = (
        (1,) * method.num_mix if count is None else mixing.group_sizes(count, method.num_mix)
        for count in num_patches or (None, None)
    )
    shares = {"mixed1": view, "mixed2": view, "mixed_locals": crop}
    of_rows = {
        row: row.target(shares.get(row.query, (1,)), shares.get(row.keys[0], (1,)))
        for crops in (False, True)
        for row in contrasts.table(method, crops)
    }
    return {
        # The losses of local crops are sums over two keys.
        f"loss_{row.name}": len(row.keys)
        * _entropy(weights, method.mix_group or local_batch, config.optim.batch_size, method.smoothing)
        for row, weights in of_rows.items()
    }


def _num_patches(run: RunFiles) -> tuple[int, int] | None:
    """Mixing patches of a view and of a local crop; None where the targets weigh groups alike."""
    if run.config.method.target_weights == "groups":
        return None
    from patchmix.data.datasets import view_size

    config, mix_size = run.config, run.mix_size
    size = view_size(run.training_images, config.data)
    crop = (config.views.local_size,) * 2 if config.views.num_local_crops else size
    view_patches, crop_patches = ((height // mix_size) * (width // mix_size) for height, width in (size, crop))
    return view_patches, crop_patches


def _entropy(offsets: dict[int, float], group: int, num_keys: int, smoothing: float) -> float:
    wrapped: dict[int, float] = {}
    for offset, weight in offsets.items():
        wrapped[offset % group] = wrapped.get(offset % group, 0.0) + weight
    shares = [(1 - smoothing) * weight + smoothing / num_keys for weight in wrapped.values()]
    rest = smoothing / num_keys
    entropy = -sum(share * math.log(share) for share in shares if share > 0)
    # max: -0.0 where all weight is on one key.
    return max(0.0, entropy - ((num_keys - len(wrapped)) * rest * math.log(rest) if rest > 0 else 0.0))


def _losses(run: RunFiles, scale: int, xlabel: str) -> list[dict[str, Any]]:
    chance = chance_loss(contrasts.num_candidates(run.config.method, run.config.optim.batch_size))
    try:
        floor = floors(run.config, _num_patches(run))
    except (UserError, OSError):  # exact weights, and the images are not there any more
        floor = {}
    if contrasts.mixers(run.config.method) != ("patches",):  # the targets differ from step to step
        floor = {}
    figures = []
    for name, (title, note) in PARTS.items():
        guess = 2 * chance if name.startswith("loss_local") else chance
        levels = [Level(guess, f"guessing {guess:.2f}")]
        if floor.get(name, 0) > 0:
            levels.append(Level(floor[name], f"floor {floor[name]:.2f}"))
        figures.append(_figure(title, note, run.training, [name], scale, xlabel, levels=levels))
    total = _figure("Total", "what is minimised: the weighted sum of the parts", run.training, ["loss"], scale, xlabel)
    return [figure for figure in (total, *figures) if figure]


def _figure(
    title: str,
    note: str,
    records: Sequence[Record],
    names: Sequence[str],
    scale: int,
    xlabel: str,
    *,
    levels: Sequence[Level] = (),
    marker: bool = False,
) -> dict[str, Any] | None:
    """A plot with its title and the words for those who do not see it; None where there is no such record."""
    lines = []
    for name in names:
        points = [(r["step"] / scale, r[name]) for r in records if _finite(r.get(name))]
        if points:
            x, y = zip(*points, strict=True)
            lines.append(Line(x, y, name))
    if not lines:
        return None
    values = lines[0].y
    words = f"{title} over {lines[0].x[-1]:.4g} {xlabel}s: from {values[0]:.4g} to {values[-1]:.4g}"
    words += f", lowest {min(values):.4g}, highest {max(values):.4g}."
    words += "".join(f" Line: {level.label}." for level in levels)
    plot: Markup = line_plot(lines, xlabel=xlabel, levels=levels, marker=marker)
    return {"title": title, "note": note, "plot": plot, "alt": words}


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
