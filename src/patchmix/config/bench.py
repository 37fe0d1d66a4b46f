"""The options of `patchmix bench`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from patchmix.config.options import Accept, Checked, option
from patchmix.config.training import (
    DataConfig,
    MethodConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    ViewsConfig,
)

LEAST_STEPS = 5  # a median of fewer says little on a machine that does other things too


@dataclass(frozen=True)
class BenchConfig(Checked):
    """What `patchmix bench` takes: two options of its own, and those of `pretrain` but output and max_steps."""

    own: ClassVar[tuple[str, ...]] = ("output", "steps")
    output: str = option(
        "results/bench.json",
        "the file that is written; a folder that is there gets results/bench.json",
        Accept(lambda value: bool(value.strip()), "that is not empty"),
    )
    steps: int = option(
        LEAST_STEPS,
        f"steps to time, of each kind; {LEAST_STEPS} or more",
        Accept(lambda value: value >= LEAST_STEPS, f"of {LEAST_STEPS} or more"),
    )
    seed: int = option(0, "seed of every random choice", Accept(lambda value: 0 <= value < 2**32, "from 0 to 2^32 - 1"))
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
