"""Pixels a side of the squares that are mixed: as given, the model's patch, or chosen by the size of the views."""

from __future__ import annotations

from typing import TYPE_CHECKING

from patchmix.config import Config
from patchmix.contrasts import mixers
from patchmix.errors import UserError

if TYPE_CHECKING:
    from patchmix.models.spec import EncoderSpec

MIX_SIZES, FEWEST_MIXED = (16, 8, 4, 2, 1), 14  # px; squares a side of a view: the paper's 224 / 16


def check_mix_size(config: Config, spec: EncoderSpec) -> int:
    """The mixing patch in pixels; a UserError where it does not fit model, views or num_mix."""
    if "cutmix" in mixers(config.method) and config.method.num_mix > 2:
        raise UserError(
            f"method.num_mix = {config.method.num_mix} is not accepted: cutmix, of method.name {config.method.name}, "
            "mixes two images; give --method.num_mix 2, or --method.mixers without it"
        )
    views = {"data.image_size": spec.image_size}
    if config.views.num_local_crops:
        views["views.local_size"] = (config.views.local_size,) * 2
    size = config.method.mix_size or spec.patch_size or _default_mix_size(views)
    if spec.patch_size and size % spec.patch_size:
        raise UserError(f"method.mix_size = {size} is not a multiple of the model's patch, {spec.patch_size} px")
    for name, (height, width) in views.items():
        if height % size or width % size:
            raise UserError(f"{name} = {height} × {width} does not divide into mixing patches of {size} px")
        count = (height // size) * (width // size)
        if config.method.num_mix > count:
            raise UserError(
                f"method.num_mix = {config.method.num_mix} is more than the {count} patches of {name} = {height}"
            )
    return size


def _default_mix_size(views: dict[str, tuple[int, int]]) -> int:
    """For networks without patches: 16 px at 224 and 2 px at 32, the published ones (decision 0017)."""
    sides = [side for view in views.values() for side in view]
    few = min(views["data.image_size"]) // FEWEST_MIXED
    return next((size for size in MIX_SIZES if size <= few and not any(side % size for side in sides)), 1)
