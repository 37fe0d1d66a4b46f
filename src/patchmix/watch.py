"""Names what is going wrong while a run goes on: a loss that stays at guessing, features that collapse.

Pure functions of the recent history; each gives a message for the user, or None. The tracker says each
message once, the report repeats the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

WINDOW = 50
"""Steps over which the loss must have stayed at guessing."""

CHANCE_TOLERANCE = 0.02
"""Within this share of ln(number of keys), a loss says no more than guessing."""

COLLAPSED_STD = 0.05
"""`feature_std` (about 1 for features that fill the sphere) below which they count as one point."""

COLLAPSED_RANK = 1.05
"""RankMe below which all features lie on one line: with 1.0 they are multiples of a single vector."""


def chance_loss(num_keys: int) -> float:
    """Cross-entropy of guessing among `num_keys` keys evenly: ln(num_keys), whatever the target."""
    return math.log(num_keys)


def patience(warmup_steps: int) -> int:
    """The step from which a loss at guessing is worth a word.

    The end of the warm-up, but not before step 200 (any run starts at guessing) and not after 2,000 (the
    published warm-ups of 100 epochs are longer than anybody should wait for this).
    """
    return min(max(warmup_steps, 200), 2000)


def loss_at_chance(losses: Sequence[float], num_keys: int, step: int, warmup_steps: int) -> str | None:
    """Say so if the bare origin-to-origin losses of the last steps all stay at ln(number of keys).

    `losses`: the newest last, one a step; `num_keys`: R·N; `step`: that of the newest.
    """
    if step < patience(warmup_steps) or len(losses) < WINDOW or num_keys < 2:
        return None
    chance = chance_loss(num_keys)
    recent = losses[-WINDOW:]
    mean = sum(recent) / WINDOW
    # Written so that NaN, which is another kind of trouble, is not called guessing.
    if not abs(mean - chance) <= CHANCE_TOLERANCE * chance:
        return None
    return (
        f"step {step}: the loss between the two views has stayed at {mean:.2f} for {WINDOW} steps; guessing "
        f"among {num_keys} keys gives ln {num_keys} = {chance:.2f}. The encoder does not tell images apart. "
        "Try another optim.lr (a third, three times), weaker views (views.*), or a longer warm-up "
        "(optim.warmup_epochs)."
    )


def collapse(evaluations: Sequence[Mapping[str, Any]]) -> str | None:
    """Say so if the last two evaluations find (nearly) the same features for every image.

    Two, because an untrained encoder's features are close together as well. What is judged: `feature_std` and
    `rankme` of `evaluation/diagnostics.py`.
    """
    if len(evaluations) < 2:
        return None
    reasons = [_collapsed(record) for record in evaluations[-2:]]
    if not all(reasons):
        return None
    return (
        f"step {evaluations[-1].get('step', '?')}: the features collapse: {reasons[-1]}. All images look "
        "(nearly) the same to the encoder, and more steps seldom mend it. Try a lower optim.lr, a momentum "
        "encoder (method.momentum), or a larger optim.batch_size."
    )


def _collapsed(record: Mapping[str, Any]) -> str | None:
    std, rank = record.get("feature_std"), record.get("rankme")
    if isinstance(std, int | float) and std < COLLAPSED_STD:
        return f"their standard deviation is {std:.3f} (healthy: near 1, collapsed: 0)"
    if isinstance(rank, int | float) and rank < COLLAPSED_RANK:
        return f"their effective rank (RankMe) is {rank:.2f}; 1 means one direction for all images"
    return None
