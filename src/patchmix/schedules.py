"""What changes from step to step: learning rate, weight decay, momentum, temperature. Pure functions.

Steps count from 0 here: step 0 takes the starting value, step total_steps - 1 the final one.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from patchmix.config import Config
from patchmix.contrasts import has_momentum


class StepSettings(NamedTuple):
    """The values of one step; momentum is None where there is no momentum encoder."""

    lr: float
    weight_decay: float
    momentum: float | None
    temperature: float


def cosine(start: float, end: float, step: int, num_steps: int) -> float:
    """From start at step 0 to end at step num_steps - 1, along half a cosine; end from there on."""
    if step >= num_steps - 1:
        return end
    return end + (start - end) * (1 + math.cos(math.pi * step / (num_steps - 1))) / 2


def num_warmup_steps(config: Config, steps_per_epoch: int) -> int:
    """Steps of linear warm-up: optim.warmup_epochs, but at most half the run.

    So a recipe that is shortened by --optim.epochs still reaches its peak learning rate (decision 0004).
    """
    wanted = round(config.optim.warmup_epochs * steps_per_epoch)
    return min(wanted, config.optim.epochs * steps_per_epoch // 2)


def settings_at(step: int, config: Config, steps_per_epoch: int) -> StepSettings:
    """The schedules of method.md, "Pre-training recipes", at a step counted from 0.

    Learning rate: linear from 0 to lr * batch_size / 256 over the warm-up, then cosine to final_lr.
    Weight decay and momentum: cosine over the whole run. Temperature: constant, or a cosine to temperature_final
    (DIFFERS: the reference's warm-up of it makes short runs fail). DIFFERS: momentum changes every step; the
    reference's only once an epoch, by mistake. (Both: decision 0004.)
    """
    optim, method = config.optim, config.method
    total = optim.epochs * steps_per_epoch
    warmup = num_warmup_steps(config, steps_per_epoch)
    peak = optim.lr * optim.batch_size / 256
    warm = step < warmup
    lr = peak * step / warmup if warm else cosine(peak, optim.final_lr, step - warmup, total - warmup)
    momentum = None
    if method.momentum is not None and has_momentum(method):
        momentum = cosine(method.momentum, method.momentum_final, step, total)
    return StepSettings(
        lr=lr,
        weight_decay=cosine(optim.weight_decay, optim.final_weight_decay, step, total),
        momentum=momentum,
        temperature=method.temperature
        if method.temperature_final is None
        else cosine(method.temperature, method.temperature_final, step, total),
    )
