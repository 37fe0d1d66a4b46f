"""The options of `patchmix compare`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from patchmix.config.options import POSITIVE, Checked, option, require
from patchmix.config.training import (
    DataConfig,
    MethodConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ViewsConfig,
)

# ruff: noqa: RUF009  (`option` makes a dataclass field, which the rule does not see)

Budget = Literal["encoder-passes", "epochs", "seconds"]
Measure = Literal["knn", "probe", "fewshot"]


@dataclass(frozen=True)
class CompareConfig(Checked):
    """What `patchmix compare` takes: options of its own, and those of `pretrain` but seed and max_steps."""

    own: ClassVar[tuple[str, ...]] = (
        *("methods", "variant", "vary", "seeds", "budget", "seconds_per_run", "at_once", "evaluations", "output"),
        "dry_run",
    )
    methods: str | None = option(
        None,
        "methods to compare, the first is the reference: patchmix,moco-v3 (null: these two, or the recipe's own where "
        "--variant or --vary says what is compared)",
    )
    variant: str | None = option(
        None,
        "one more setting, by name: --variant unmixed method.num_mix=1 method.smoothing=0.1; may be repeated",
    )
    vary: str | None = option(
        None,
        "values to try: --vary method.num_mix=1,2,3; several options in all combinations; may be repeated",
    )
    seeds: str = option("3", "how many seeds, from 0 on; or which: 0,1,5 (a single one: 5,)")
    budget: Budget = option(
        "encoder-passes",
        "what all have alike: encoder-passes (as many as the reference's epochs take), epochs, or seconds a run; the "
        "nearest whole number of epochs",
    )
    seconds_per_run: float | None = option(
        None, "training seconds of each run (the nearest whole number of epochs), with --budget seconds", POSITIVE
    )
    at_once: int | None = option(
        None, "runs at once, which share the threads (null: 1 on a GPU, else half the cores)", POSITIVE
    )
    evaluations: tuple[Measure, ...] = option(
        ("knn", "probe", "fewshot"), "what finished runs are measured by, where the data has labels (probe: --fast)"
    )
    output: str | None = option(None, "folder of the comparison (null: comparisons/RECIPE)")
    dry_run: bool = option(False, "show the runs, their epochs and encoder passes, and start none")
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        needed = self.budget == "seconds"
        expected = "a number above 0 with --budget seconds" if needed else "null without --budget seconds"
        require((self.seconds_per_run is not None) == needed, "seconds_per_run", self.seconds_per_run, expected)
        repeated = len(set(self.evaluations)) < len(self.evaluations)
        require(not repeated, "evaluations", self.evaluations, "each of them once")
