"""Section: did it learn? Said in words, from test results where there are any, else from what was watched."""

from __future__ import annotations

import math
from typing import Any

from patchmix import watch
from patchmix.reporting.measured import COMMANDS, Measured, figures, heading, main_metric
from patchmix.reporting.run_files import RunFiles
from patchmix.reporting.section import Section
from patchmix.schedules import num_warmup_steps

OTHERS = {"pixels_": "raw pixels", "random_init_": "the untrained encoder"}
"""Prefixes of the metrics that a run is held against, as they stand in a sentence."""

LEARNED, PARTLY, NOT_LEARNED, UNKNOWN = "good", "partly", "bad", "unknown"


def section(run: RunFiles) -> Section:
    """Level, headline, what it rests on, and what went wrong."""
    level, headline = judge(run)
    measured = _measured(run)
    context = {
        "level": level,
        "headline": headline,
        "because": [*measured, *_watched(run)],
        "measured": bool(measured),
        "troubles": troubles(run),
        "state": _state(run),
    }
    return Section("verdict", "Did it learn?", context)


def judge(run: RunFiles) -> tuple[str, str]:
    """(level, headline). Two figures differ where their 95 % intervals do not overlap."""
    for command in ("knn", "fewshot", *run.results):
        row = _main_row(run, command)
        if row is None or "" not in row or len(row) < 2:
            continue
        above = {prefix: _compare(row[""], row[prefix]) for prefix in OTHERS if prefix in row}
        return _headline(above)
    if troubles(run):
        return NOT_LEARNED, "Something went wrong in training."
    if not run.training:
        return UNKNOWN, "Nothing to judge yet: no step has been logged."
    return UNKNOWN, "Not measured on test images yet."


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


def _compare(one: Measured, other: Measured) -> int:
    """1 above, -1 below, 0 where the intervals overlap; a figure without interval is a point."""
    low, high = one.interval or (one.value, one.value)
    other_low, other_high = other.interval or (other.value, other.value)
    return 1 if low > other_high else -1 if high < other_low else 0


def _main_row(run: RunFiles, command: str) -> dict[str, Measured] | None:
    if command not in run.results:
        return None
    by_metric = figures(run.results[command])
    metric = main_metric(list(by_metric))
    return by_metric[metric] if metric else None


def _measured(run: RunFiles) -> list[str]:
    sentences = []
    words = {1: "clearly above", 0: "not told apart from", -1: "clearly below"}
    for command, result in run.results.items():
        row = _main_row(run, command)
        if row is None or "" not in row:
            continue
        metric = heading(main_metric(list(figures(result))) or "")
        beside = [
            f"{words[_compare(row[''], row[prefix])]} {title} ({row[prefix].text} %)"
            for prefix, title in OTHERS.items()
            if prefix in row
        ]
        name = COMMANDS.get(command, (command, ""))[0]
        sentences.append(f"{name}, {metric}: {row[''].text} % right" + "".join(f"; {each}" for each in beside) + ".")
    return sentences


def _watched(run: RunFiles) -> list[str]:
    sentences = []
    knn = [record["knn_top1"] for record in run.evaluations if isinstance(record.get("knn_top1"), int | float)]
    if len(knn) > 1:
        sentences.append(
            f"While training, kNN among training images went from {knn[0]:.1f} to {knn[-1]:.1f} %"
            + (f" (highest {max(knn):.1f})." if max(knn) > knn[-1] else ".")
        )
    losses = origin_losses(run)
    if len(losses) > 1:
        keys = run.config.optim.batch_size
        recent = losses[-watch.WINDOW :]
        mean = sum(recent) / len(recent)
        sentences.append(
            f"The loss between the two views of an image went from {losses[0]:.2f} to {mean:.2f}; guessing "
            f"among {keys} keys gives {watch.chance_loss(keys):.2f}."
        )
    return sentences


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
        watch.loss_at_chance(losses, run.config.optim.batch_size, run.last_step, warmup),
        watch.collapse(run.evaluations),
    )
    return found + [text for text in said if text is not None]


def origin_losses(run: RunFiles) -> list[float]:
    """Bare losses between the two views, one a step."""
    return [_number(record.get("loss_origin_to_origin", record.get("loss"))) for record in run.training]


def _number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _state(run: RunFiles) -> str | None:
    if run.finished:
        return None
    if not run.training:
        return "The run has not logged a step yet."
    if run.total_steps is None:
        return f"The run has done {run.last_step:,} steps and not finished its first epoch."
    return f"The run is not finished: {run.last_step:,} of {run.total_steps:,} steps are done."
