"""Section: did it learn? Said in words, with what it rests on and what to do next."""

from __future__ import annotations

import math

from patchmix import watch
from patchmix.contrasts import num_candidates
from patchmix.reporting.judgement import (
    OTHERS,
    UNKNOWN,
    compare,
    judge,
    main_row,
    origin_losses,
    recent_loss,
    troubles,
)
from patchmix.reporting.measured import COMMANDS, figures, heading, main_metric
from patchmix.reporting.next_steps import steps
from patchmix.reporting.run_files import RunFiles
from patchmix.reporting.section import Section


def section(run: RunFiles) -> Section:
    """Level, headline, what it rests on, what went wrong, and the first thing to do."""
    level, headline = judge(run)
    measured = _measured(run)
    found = troubles(run)
    context = {
        "level": level,
        "headline": headline,
        "because": [*measured, *_watched(run)],
        "measured": bool(measured),
        "unmeasurable": level == UNKNOWN and bool(run.training) and run.has_test_labels is False,
        "troubles": found,
        "state": _state(run),
        # Troubles say themselves what to try.
        "next": None if found else next((why for why, _ in steps(run)), None),
    }
    return Section("verdict", "Did it learn?", context)


def _measured(run: RunFiles) -> list[str]:
    sentences = []
    words = {1: "clearly above", 0: "not told apart from", -1: "clearly below"}
    for command, result in run.results.items():
        row = main_row(run, command)
        if row is None or "" not in row:
            continue
        metric = heading(main_metric(list(figures(result))) or "")
        beside = [
            f"{words[compare(row[''], row[prefix])]} {title} ({row[prefix].text} %)"
            for prefix, title in OTHERS.items()
            if prefix in row
        ]
        name = COMMANDS.get(command, (command, ""))[0]
        sentences.append(f"{name}, {metric}: {row[''].text} % right" + "".join(f"; {each}" for each in beside) + ".")
    return sentences


def _watched(run: RunFiles) -> list[str]:
    sentences = []
    knn = _numbers(run, "knn_top1")
    if len(knn) > 1:
        sentences.append(
            f"While training, kNN among training images went from {knn[0]:.1f} to {knn[-1]:.1f} %"
            + (f" (highest {max(knn):.1f})." if max(knn) > knn[-1] else ".")
        )
    losses, recent = [loss for loss in origin_losses(run) if math.isfinite(loss)], recent_loss(run)
    if len(losses) > 1 and recent is not None:
        keys = num_candidates(run.config.method, run.config.optim.batch_size)
        sentences.append(
            f"The loss between the two views of an image went from {losses[0]:.2f} to {recent:.2f}; guessing "
            f"among {keys} keys gives {watch.chance_loss(keys):.2f}."
        )
    rank = _numbers(run, "rankme")
    if rank:
        sentences.append(f"The features use about {rank[-1]:.1f} directions (RankMe); 1 would be collapse.")
    return sentences


def _numbers(run: RunFiles, name: str) -> list[float]:
    values = [record.get(name) for record in run.evaluations]
    return [value for value in values if isinstance(value, int | float) and math.isfinite(value)]


def _state(run: RunFiles) -> str | None:
    if run.finished:
        return None
    if not run.training:
        return "The run has not logged a step yet."
    if run.total_steps is None:
        return f"The run has done {run.last_step:,} steps and not finished its first epoch."
    return f"The run is not finished: {run.last_step:,} of {run.total_steps:,} steps are done."
