"""Means over seeds, differences paired by seed with their intervals, and how small a difference could be seen."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from patchmix.evaluation.results import spread

Values = Mapping[str, Mapping[int, float]]
"""{name of a setting: {seed: value}} of one metric."""

CONFIDENCE, POWER = 0.95, 0.8


def describe(values: Sequence[float]) -> dict[str, Any]:
    """n, mean, standard deviation (n − 1; None for a single value), lowest, highest."""
    return {
        "n": len(values),
        "mean": math.fsum(values) / len(values),
        "std": spread(values) if len(values) > 1 else None,
        "lowest": min(values),
        "highest": max(values),
    }


def paired(values: Mapping[int, float], reference: Mapping[int, float]) -> dict[str, Any] | None:
    """The mean difference to the reference over the seeds that both have; None where there is no such seed.

    `interval95`: Student's t of the paired differences. `detectable`: the smallest true difference that so many pairs
    would show (interval without zero) in 80 % of such studies, by the differences' own standard deviation. Both None
    for a single pair, and of no width where all differences are equal.
    """
    seeds = sorted(values.keys() & reference.keys())
    if not seeds:
        return None
    differences = [values[seed] - reference[seed] for seed in seeds]
    n, mean = len(differences), math.fsum(differences) / len(differences)
    deviation = spread(differences) if n > 1 else None
    interval = detectable = None
    if deviation is not None:
        error = deviation / math.sqrt(n)
        half = student_quantile(0.5 + CONFIDENCE / 2, n - 1) * error
        interval, detectable = [mean - half, mean + half], least_difference(n) * deviation
    return {
        "n": n,
        "seeds": seeds,
        "mean": mean,
        "std": deviation,
        "interval95": interval,
        "detectable": detectable,
    }


def student_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t distribution."""
    from scipy.stats import t as student  # type: ignore[import-untyped]  # with scikit-learn

    return float(student.ppf(probability, freedom))


def least_difference(num_pairs: int) -> float:
    """The true mean difference, in standard deviations of the differences, that a two-sided paired t test at 5 % finds
    with 80 % power. By the noncentral t distribution, since the normal one promises too much for few pairs.
    """
    from scipy.optimize import brentq  # type: ignore[import-untyped]  # as above
    from scipy.stats import nct

    critical, freedom = student_quantile(0.5 + CONFIDENCE / 2, num_pairs - 1), num_pairs - 1

    def missing(shift: float) -> float:
        """Power that lacks; the chance of a significant difference of the wrong sign is left out."""
        return POWER - float(nct.sf(critical, freedom, shift))

    shift = brentq(missing, 0.0, critical + 20.0)
    return float(shift) / math.sqrt(num_pairs)
