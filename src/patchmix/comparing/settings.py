"""What is compared: named settings, each a config that differs from the common one in some options. No torch."""

from __future__ import annotations

import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from patchmix.config import Config
from patchmix.config.options import build, shown
from patchmix.errors import UserError
from patchmix.run_directory import flatten

# What says where and how a run is kept, and not what is computed: may differ between cells of one folder.
BOOKKEEPING = (
    *("output", "seed", "max_steps", "data.num_workers", "run.num_threads", "run.keep_checkpoints"),
    *("run.checkpoint_every_steps", "run.log_every_steps", "run.tensorboard", "run.eval_every_epochs"),
)


@dataclass(frozen=True)
class Setting:
    """One line of the table. `given` are its options beside the common ones, the `varied` ones among them.

    `config` is the whole of it before the budget gives it epochs; seed and output mean nothing.
    """

    name: str
    given: Mapping[str, Any]
    config: Config
    varied: Mapping[str, Any] = field(default_factory=dict)


def make_settings(
    base: Config,
    methods: Sequence[str],
    variants: Mapping[str, Mapping[str, Any]],
    vary: Mapping[str, Sequence[Any]],
) -> tuple[Setting, ...]:
    """Methods, then variants, each with every combination of the varied values; the first is the reference.

    Raises:
        UserError: two of one name, options that do not go together, an option that is set and varied.
    """
    named: dict[str, dict[str, Any]] = {name: {"method.name": name} for name in methods}
    for name, options in variants.items():
        if name in named:
            raise UserError(f"variant {name} has the name of a method that is compared too: give it another")
        named[name] = dict(options)
    found: list[Setting] = []
    for (name, options), values in itertools.product(named.items(), itertools.product(*vary.values())):
        varied = dict(zip(vary, values, strict=True))
        both = [key for key in varied if key in options]
        if both:
            raise UserError(f"vary: {both[0]} is what {name} sets: take one of them")
        found.append(_setting(base, "-".join([name, *_labels(varied)]), {**options, **varied}, varied))
    names = [each.name for each in found]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"two settings would be called {twice}: name them by --variant")
    return tuple(found)


def replaced(config: Config, options: Mapping[str, Any]) -> Config:
    """The config with these options ('section.key', in their types) in place of its own. UserError."""
    return build(Config, {**flatten(dataclasses.asdict(config)), **options})


def differing(before: Config, now: Config) -> list[str]:
    """`option before → now` for each option that differs and is not BOOKKEEPING."""
    old, new = (flatten(dataclasses.asdict(each)) for each in (before, now))
    return [
        f"{key} {shown(old[key])} → {shown(new[key])}" for key in new if old[key] != new[key] and key not in BOOKKEEPING
    ]


def _setting(base: Config, name: str, given: dict[str, Any], varied: dict[str, Any]) -> Setting:
    try:
        return Setting(name, given, replaced(base, given), varied)
    except UserError as error:
        raise UserError(f"{name}: {error}") from None


def _labels(varied: Mapping[str, Any]) -> list[str]:
    """`num_mix=2` for each value: what a folder can be called; with its section where the key alone is not unique."""
    keys = [name.rpartition(".")[2] for name in varied]
    labels = []
    for key, (name, value) in zip(keys, varied.items(), strict=True):
        text = re.sub(r"[^\w.+-]+", "_", value if isinstance(value, str) else str(shown(value)))
        labels.append(f"{key if keys.count(key) == 1 else name}={text.strip('_')}")
    return labels
