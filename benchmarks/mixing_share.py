"""What mixing costs beside the rest of a step (goal: at most 1 %), and what targets and losses cost.

Prints a table. Each row times whole training steps of a recipe's model (forward, backward, AdamW) and, in
the same process and on the same tensors, (1) drawing two plans and mixing both views, (2) the three targets
and losses with their backward. Medians over the steps. Command: python benchmarks/mixing_share.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import torch

from patchmix import recipes
from patchmix.config import Config
from patchmix.contrasts import PATCHMIX
from patchmix.losses import soft_info_nce
from patchmix.method import build_model
from patchmix.mixing import MixPlan
from patchmix.models.encoders import resolve_spec
from patchmix.optim import create_optimizer
from patchmix.targets import soft_targets

# Recipe, image size, channels, batch, timed steps: what two cores can do in a minute or so.
CASES = (("demo", 28, 1, 64, 20), ("cifar10-cpu", 32, 3, 128, 8), ("cifar10-vit-tiny", 32, 3, 16, 4))


def seconds(function: Callable[[], object], repeats: int) -> list[float]:
    """Seconds of each call, after one that is not counted."""
    function()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        function()
        times.append(time.perf_counter() - start)
    return times


def measure(recipe: str, size: int, channels: int, batch: int, steps: int) -> str:
    """One row of the table."""
    config: Config = recipes.resolve(recipe, None, {"optim.batch_size": batch})
    statistics_ = (0.5,) * channels
    spec = resolve_spec(config.model, (size, size), channels, statistics_, statistics_)
    model = build_model(config, spec)
    optimizer = create_optimizer(model, config.optim)
    views = torch.randn(batch, channels, size, size), torch.randn(batch, channels, size, size)
    projection = config.model.projection_size
    queries = torch.randn(batch, projection, requires_grad=True)
    keys = torch.randn(batch, projection)

    def plans() -> tuple[MixPlan, MixPlan]:
        count, num_mix = (size // spec.patch_size) ** 2, config.method.num_mix
        return MixPlan.draw(count, num_mix, spec.patch_size), MixPlan.draw(count, num_mix, spec.patch_size)

    def step() -> None:
        if config.method.momentum is not None:
            model.update_momentum_encoder(config.method.momentum)
        model(views, plans(), config.method.temperature).total.backward()
        optimizer.step()
        optimizer.zero_grad()

    def mix() -> None:
        for plan, view in zip(plans(), views, strict=True):
            plan.mix(view)

    def targets_and_losses() -> None:
        total = torch.zeros(())
        for row in PATCHMIX:
            groups = (1,) * config.method.num_mix
            target = soft_targets(row.target(groups, groups), batch)
            total = total + row.weight * soft_info_nce(queries, keys, target, config.method.temperature)
        total.backward()

    whole = seconds(step, steps)
    parts = [seconds(part, 5 * steps) for part in (mix, targets_and_losses)]
    median = statistics.median(whole)
    medians = [statistics.median(part) for part in parts]
    return (
        f"| `{recipe}` | {spec.width} × {spec.depth}, {size} px / {spec.patch_size} | {batch} | "
        f"{1000 * median:.1f} ({1000 * min(whole):.1f}–{1000 * max(whole):.1f}) | "
        f"{1000 * medians[0]:.2f} ({100 * medians[0] / median:.2f} %) | "
        f"{1000 * medians[1]:.2f} ({100 * medians[1] / median:.2f} %) |"
    )


def lines() -> Iterator[str]:
    """This benchmark's section of results.md, as it is measured."""
    torch.manual_seed(0)
    yield "## Mixing, targets and losses beside a whole training step"
    yield ""
    yield "`python benchmarks/mixing_share.py`; float32. Medians in ms (lowest–highest)."
    yield ""
    yield "| recipe | width × depth, image / patch | batch | whole step | plans, mixing | targets, losses, backward |"
    yield "|---|---|---|---|---|---|"
    for case in CASES:
        yield measure(*case)


if __name__ == "__main__":
    for line in lines():
        print(line, flush=True)
