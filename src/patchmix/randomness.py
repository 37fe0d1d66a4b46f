"""Seeds as functions of a position in the run, so that there is no random state to save (design.md).

What is drawn here: mix plans by (seed, step, view number), and the trained encoder's drop path by
(seed, step, rank). Views and the order of an epoch are drawn in `data/`, from the same kind of stream.
"""

from __future__ import annotations

import torch

from patchmix.config import MethodConfig
from patchmix.contrasts import METHODS, mixers
from patchmix.data.streams import Purpose, keyed_generator
from patchmix.mixing import BlendPlan, MixPlan, PastePlan, Plan

FIRST_CROP = 2  # number of the first local crop among the views


def seed_step(seed: int, step: int, rank: int) -> None:
    """Seed torch's global generators for one step: drop path and whatever else a model draws."""
    torch.manual_seed(int(keyed_generator(Purpose.STEP, seed, step, rank).integers(2**63)))


def draw_plan(image_size: tuple[int, int], num_mix: int, mix_size: int, *, seed: int, step: int, view: int) -> MixPlan:
    """The published mix plan of a view, the same on every process and after every resume."""
    return MixPlan.draw(_count(image_size, mix_size), num_mix, mix_size, generator=plan_generator(seed, step, view))


def draw_any_plan(
    image_size: tuple[int, int],
    method: MethodConfig,
    mix_size: int,
    *,
    seed: int,
    step: int,
    view: int,
    images: tuple[int, int],
) -> Plan:
    """The plan of a view as the options say: `draw_plan`'s where they say nothing.

    images: first image of this process in the global batch, and its number of images; a plan for each image is drawn
        for the whole batch, so that it does not depend on the number of processes.
    """
    kinds = mixers(method)
    mixer = kinds[0]
    if len(kinds) > 1:  # one for all views of a step
        mixer = kinds[int(keyed_generator(Purpose.MIXER, seed, step).integers(len(kinds)))]
    # Local crops are one view of C·N rows with one target, so they are mixed in the same shares.
    view = 0 if METHODS[method.name].one_plan else view if mixer == "patches" else min(view, FIRST_CROP)
    generator = plan_generator(seed, step, view)
    if mixer == "mixup":
        return BlendPlan.draw(method.num_mix, generator)
    if mixer == "cutmix" and method.num_mix > 1:
        return PastePlan.draw(image_size, generator)
    count = _count(image_size, mix_size)
    if method.permutations == "image":
        first, number = images
        plan = MixPlan.draw_each(first + number, count, method.num_mix, mix_size, generator)
        return MixPlan.of_groups(plan.groups[first:], plan.group_sizes, mix_size)
    return MixPlan.draw(count, method.num_mix, mix_size, generator=generator)


def plan_generator(seed: int, step: int, view: int) -> torch.Generator:
    """The generator that a view's plan is drawn with."""
    number = int(keyed_generator(Purpose.MIX_PLAN, seed, step, view).integers(2**63))
    return torch.Generator().manual_seed(number)


def _count(image_size: tuple[int, int], mix_size: int) -> int:
    return (image_size[0] // mix_size) * (image_size[1] // mix_size)
