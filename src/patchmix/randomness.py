"""Seeds as functions of a position in the run, so that there is no random state to save (design.md).

What is drawn here: mix plans by (seed, step, view number), and the trained encoder's drop path by
(seed, step, rank). Views and the order of an epoch are drawn in `data/`, from the same kind of stream.
"""

from __future__ import annotations

import torch

from patchmix.data.streams import Purpose, keyed_generator
from patchmix.mixing import MixPlan


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's global generators for one step: drop path and whatever else a model draws."""
    torch.manual_seed(int(keyed_generator(Purpose.STEP, seed, step, rank).integers(2**63)))


def draw_plan(image_size: tuple[int, int], num_mix: int, mix_size: int, *, seed: int, step: int, view: int) -> MixPlan:
    """The mix plan of a view, the same on every process and after every resume."""
    number = int(keyed_generator(Purpose.MIX_PLAN, seed, step, view).integers(2**63))
    num_patches = (image_size[0] // mix_size) * (image_size[1] // mix_size)
    return MixPlan.draw(num_patches, num_mix, mix_size, generator=torch.Generator().manual_seed(number))
