"""Did a run learn? Judged by test results where there are any, else by what was watched while it trained."""

from __future__ import annotations

import math
from typing import Any

from patchmix import watch
from patchmix.contrasts import num_candidates
from patchmix.reporting.measured import Measured, figures, main_metric
from patchmix.reporting.run_files import RunFiles
from patchmix.schedules import num_warmup_steps

OTHERS = {"pixels_": "raw pixels", "random_init_": "the untrained encoder"}
"""Prefixes of the metrics that a run is held against, as they stand in a sentence."""

LEARNED, PARTLY, NOT_LEARNED, UNKNOWN = "good", "partly", "bad", "unknown"

TELLS_APART = 0.9
"""Below this share of the loss of guessing, a run is said to tell its training images apart."""


def judge(run: RunFiles) -> tuple[str, str]:
    """(level, headline). Two figures differ where their 95 % intervals do not overlap."""
    for command in ("knn", "fewshot", *run.results):
        row = main_row(run, command)
        if row is None or "" not in row or len(row) < 2:
            continue
        above = {prefix: compare(row[""], row[prefix]) for prefix in OTHERS if prefix in row}
        if above.get("random_init_", 1) <= 0 and run.last_step < watch.patience(0):
            return UNKNOWN, f"Too early to say, after {run.last_step:,} steps: not shown to have learned yet."
        return _headline(above)
    if troubles(run):
        return NOT_LEARNED, "Something went wrong in training."
    if not run.training:
        return UNKNOWN, "Nothing to judge yet: no step has been logged."
    return UNKNOWN, _unmeasured(run)


def _unmeasured(run: RunFiles) -> str:
    chance, recent = watch.chance_loss(_num_keys(run)), recent_loss(run)
    why = (
        "there are no test labels to measure more"
        if run.has_test_labels is False
        else "not measured on test images yet"
    )
    if recent is None or chance <= 0:
        return why[0].upper() + why[1:] + "."
    if run.last_step < watch.patience(0):
        return f"Too early to say, after {run.last_step:,} steps; {why}."
    if recent > TELLS_APART * chance:
        return f"It hardly tells its training images apart; {why}."
    return f"It tells its training images apart; {why}."


def _headline(above: dict[str, int]) -> tuple[str, str]:
    untrained, pixels = above.get("random_init_", 1), above.get("pixels_", 1)
    if untrained > 0 and pixels > 0:
        beaten = " and ".join(name for prefix, name in OTHERS.items() if prefix in above)
        return LEARNED, f"It learned: its features do clearly better than {beaten}."
    if untrained < 0:
        return NOT_LEARNED, "It did not learn: the untrained encoder is better."
    if untrained == 0:
        return NOT_LEARNED, "It is not shown to have learned: the untrained encoder does as well."
    if pixels < 0:
        return PARTLY, "It learned something, but raw pixels are still better than its features."
    return PARTLY, "It learned something, but is not shown to be better than raw pixels."


def compare(one: Measured, other: Measured) -> int:
    """1 above, -1 below, 0 where the intervals overlap; a figure without interval is a point."""
    low, high = one.interval or (one.value, one.value)
    other_low, other_high = other.interval or (other.value, other.value)
    return 1 if low > other_high else -1 if high < other_low else 0


def main_row(run: RunFiles, command: str) -> dict[str, Measured] | None:
    """The figures that a command's result is judged by, by prefix; None where there is no such result."""
    if command not in run.results:
        return None
    by_metric = figures(run.results[command])
    metric = main_metric(list(by_metric))
    return by_metric[metric] if metric else None


def troubles(run: RunFiles) -> list[str]:
    """What the watch over the run has to say about its end."""
    found: list[str] = []
    bad = next((r["step"] for r in run.training if not math.isfinite(_number(r.get("loss")))), None)
    if bad is not None:
        found.append(
            f"step {bad}: the loss is not finite. Try a lower optim.lr, --optim.clip_grad_norm 1, or another "
            "run.precision; the checkpoints from before are whole."
        )
    losses = [loss for loss in origin_losses(run) if math.isfinite(loss)]
    warmup = num_warmup_steps(run.config, run.steps_per_epoch or 1)
    said = (
        watch.loss_at_chance(losses, _num_keys(run), run.last_step, warmup),
        watch.collapse(run.evaluations),
    )
    return found + [text for text in said if text is not None]


def origin_losses(run: RunFiles) -> list[float]:
    """Bare losses between the two views, one a step."""
    return [_number(record.get("loss_origin_to_origin", record.get("loss"))) for record in run.training]


def recent_loss(run: RunFiles) -> float | None:
    """The mean of the newest finite losses between the two views; None where there is none."""
    recent = [loss for loss in origin_losses(run)[-watch.WINDOW :] if math.isfinite(loss)]
    return sum(recent) / len(recent) if recent else None


def _num_keys(run: RunFiles) -> int:
    return num_candidates(run.config.method, run.config.optim.batch_size)


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
