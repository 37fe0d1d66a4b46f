"""How long each setting trains, so that all have the same budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from patchmix.comparing.settings import Setting, replaced
from patchmix.config import Config
from patchmix.config.compare import Budget
from patchmix.errors import UserError

WARMUP_DIGITS = 6


@dataclass(frozen=True)
class Cost:
    """What a step costs: `forward_units` passes of the encoder over a batch (a backward pass counts two)."""

    steps_per_epoch: int
    forward_units: float
    batch_size: int

    @property
    def passes_per_epoch(self) -> float:
        """Images that go through the encoder in an epoch: forward units × steps × batch."""
        return self.forward_units * self.steps_per_epoch * self.batch_size


@dataclass(frozen=True)
class Plan:
    """A setting with its epochs: `config` is what its runs train by, but for seed and output."""

    setting: Setting
    cost: Cost
    config: Config

    @property
    def epochs(self) -> int:
        """Passes over the data."""
        return self.config.optim.epochs

    @property
    def steps(self) -> int:
        """Steps of a whole run."""
        return self.epochs * self.cost.steps_per_epoch

    @property
    def encoder_passes(self) -> float:
        """Images that go through the encoder in a run, a backward pass counted as two: units × steps × batch."""
        return self.epochs * self.cost.passes_per_epoch


def plan(
    settings: Sequence[Setting],
    costs: Mapping[str, Cost],
    budget: Budget,
    *,
    seconds_per_run: float | None = None,
    seconds_per_step: Mapping[str, float] | None = None,
) -> tuple[Plan, ...]:
    """Epochs for each setting (whole ones, at least one), warm-up in proportion; costs and seconds by setting's name.

    encoder-passes: the first setting trains as long as its config says, the others as many epochs as come nearest to
    its encoder passes. epochs: each as its config says. seconds: as many as come nearest to `seconds_per_run`.

    Raises:
        UserError: a setting that sets its epochs, which the budget does.
    """
    first = settings[0]
    passes = first.config.optim.epochs * costs[first.name].passes_per_epoch
    plans = []
    for setting in settings:
        cost, epochs = costs[setting.name], setting.config.optim.epochs
        if budget != "epochs" and "optim.epochs" in setting.given:
            raise UserError(f"{setting.name}: optim.epochs is what --budget {budget} sets: give --budget epochs")
        if budget == "encoder-passes" and setting is not first:
            epochs = whole(passes / cost.passes_per_epoch)
        elif budget == "seconds":
            assert seconds_per_run is not None
            assert seconds_per_step is not None
            epochs = whole(seconds_per_run / (seconds_per_step[setting.name] * cost.steps_per_epoch))
        plans.append(Plan(setting, cost, lengthened(setting.config, epochs)))
    return tuple(plans)


def whole(epochs: float) -> int:
    """The nearest whole number, at least one."""
    return max(1, int(epochs + 0.5))


def lengthened(config: Config, epochs: int) -> Config:
    """The config with these epochs, and warm-up for the same share of the run."""
    if epochs == config.optim.epochs:
        return config
    warmup = round(config.optim.warmup_epochs * epochs / config.optim.epochs, WARMUP_DIGITS)
    return replaced(config, {"optim.epochs": epochs, "optim.warmup_epochs": warmup})
