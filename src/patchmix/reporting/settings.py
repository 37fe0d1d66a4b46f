"""Section: what differs from the recipe, what it chose and why, where the run ran, and the whole config."""

from __future__ import annotations

import itertools
from typing import Any

from patchmix.config import Config
from patchmix.config.options import all_options, shown
from patchmix.errors import UserError
from patchmix.recipes import resolve
from patchmix.reporting.run_files import RunFiles
from patchmix.reporting.section import Section

MACHINE = ("output", "max_steps", "data.root", "data.num_workers", "run.")
"""Options, or their sections, that say where and how a run is done and not what is computed."""


def section(run: RunFiles) -> Section:
    """Tables of options, and config.yaml."""
    recipe = run.environment.get("recipe")
    recipe = recipe if isinstance(recipe, str) else None
    before, problem = _before(recipe)
    reasons = run.environment.get("choices")
    reasons = reasons if isinstance(reasons, dict) else {}
    after = flat_options(run.config)
    rows: list[dict[str, Any]] = [
        {"name": name, "before": _text(before[name]), "after": _text(value), "why": str(reasons.get(name, ""))}
        for name, value in after.items()
        if value != before[name] or name in reasons
    ]
    for _, group in itertools.groupby(rows, key=lambda row: (row["name"].startswith(MACHINE), row["why"])):
        first, *others = group
        # One reason for several options is said once.
        first["span"] = 1 + len(others)
    context = {
        "recipe": recipe,
        "problem": problem,
        "changes": [row for row in rows if not row["name"].startswith(MACHINE)],
        "machine": [row for row in rows if row["name"].startswith(MACHINE)],
        "reasons": bool(reasons),
        "config": run.config_text,
    }
    return Section("settings", "Settings", context)


def _before(recipe: str | None) -> tuple[dict[str, Any], str | None]:
    """The options of the recipe as this version has it, else the defaults; and why it is not the recipe's."""
    try:
        return flat_options(resolve(recipe) if recipe else Config()), None
    except UserError as error:
        return flat_options(Config()), str(error)


def flat_options(config: Config) -> dict[str, Any]:
    """{'section.key': value} of every option."""

    def value(name: str) -> Any:
        section, _, key = name.rpartition(".")
        return getattr(getattr(config, section) if section else config, key)

    return {name: value(name) for name in all_options(Config)}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else shown(value)
