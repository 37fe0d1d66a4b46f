"""What `patchmix compare` was asked for, together with what its folder holds already. Imports no torch."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchmix import recipes
from patchmix.comparing.budget import Cost
from patchmix.comparing.images import Images
from patchmix.comparing.settings import Setting, differing, make_settings, replaced
from patchmix.comparing.words import OWN_OPTIONS, read_methods, read_seeds, read_variants, read_vary
from patchmix.config import Config
from patchmix.config.compare import CompareConfig
from patchmix.config.options import all_options, build, coerce
from patchmix.errors import UserError
from patchmix.starting import start

FILE = "comparison.json"
OWN_FILES = (FILE, "index.html", "table.md", "cells", "trials", ".lock")
KEPT = ("budget", "seconds_per_run", "evaluations", "at_once")  # the folder's, where nothing is given
USUAL = ("patchmix", "moco-v3")
READ_HERE = {"methods": read_methods, "seeds": read_seeds, "variant": read_variants, "vary": read_vary}


@dataclass(frozen=True)
class Known:
    """A setting that a folder's comparison.json tells of; cost and images None where it does not tell them."""

    setting: Setting
    cost: Cost | None
    seconds_per_step: float | None
    images: Images | None


@dataclass(frozen=True)
class Before:
    """What the folder holds: comparison.json as it was read, and the settings in it, the reference first."""

    content: dict[str, Any]
    known: dict[str, Known]

    @property
    def stored(self) -> dict[str, Any]:
        """Its entry `settings`."""
        stored: dict[str, Any] = self.content["settings"]
        return stored


@dataclass(frozen=True)
class Request:
    """`settings` are all that the folder is about, the reference first; `wanted`: (name, seed) of what this one runs.

    `options` holds CompareConfig's own options, with the folder's where nothing was given; `base` is what all settings
    have in common.
    """

    output: Path
    recipe: str | None
    base: Config
    settings: tuple[Setting, ...]
    wanted: frozenset[tuple[str, int]]
    options: CompareConfig
    before: Before | None

    @property
    def file(self) -> Path:
        """comparison.json."""
        return self.output / FILE


def request(recipe: str | None, config_file: str | Path | None, given: Mapping[str, Any]) -> Request:
    """Put it together; `given` has options of `pretrain` and CompareConfig's own. A folder's comparison goes on.

    With nothing but `output` everything is the folder's: what is unfinished goes on.

    Raises:
        UserError: what `starting.start` refuses; unknown methods, options or evaluations; a folder of another
            comparison, or of other files.
    """
    options = all_options(CompareConfig)
    own = {name: given[name] for name in CompareConfig.own if given.get(name) not in (None, "null")}
    words: dict[str, Any] = {name: READ_HERE[name](own.pop(name)) for name in READ_HERE if name in own}
    own = {name: coerce(options[name], value) for name, value in own.items()}
    rest = {name: value for name, value in given.items() if name not in CompareConfig.own}
    for name in OWN_OPTIONS.keys() & rest.keys():
        raise UserError(f"{name} means nothing to compare: {OWN_OPTIONS[name]}")
    before = _read(Path(own["output"])) if own.get("output") is not None else None
    if before is not None and recipe is None and config_file is None:
        recipe, base = before.content.get("recipe"), _common(before, rest)
    else:
        if recipe is None and config_file is None and not any(name.startswith("data.") for name in rest):
            raise UserError(
                "nothing says what to train on: give --recipe NAME (see `patchmix recipes`), --data.root FOLDER for "
                "images of your own, or --output FOLDER of a comparison that is to go on"
            )
        started = start(recipe, config_file, rest)
        recipe, base = started.recipe, _anonymous(started.config)
        own.setdefault("output", f"comparisons/{Path(started.config.output or 'compare').name}")
        before = _read(Path(own["output"]))
    output = Path(own["output"]).expanduser()
    if before is None:
        _refuse_other_files(output)
    else:
        _refuse_other_comparison(output, before, base, own)
        own = {**{name: coerce(options[name], before.stored[name]) for name in KEPT}, **own}
    settings, names = _settings(output, base, words, before)
    seeds = words.get("seeds") or (before.stored["seeds"] if before else read_seeds(CompareConfig.seeds))
    wanted = frozenset((name, seed) for name in names for seed in seeds)
    if before is not None and not words:  # settings of one folder may have different seeds
        wanted = frozenset((cell["name"], cell["seed"]) for cell in before.content["cells"])
    return Request(output, recipe, base, settings, wanted, build(CompareConfig, own), before)


def _anonymous(config: Config) -> Config:
    return dataclasses.replace(config, output=None, seed=0, max_steps=None)


def _common(before: Before, rest: Mapping[str, Any]) -> Config:
    """The folder's common config, with what was given for bookkeeping (anything else is refused later)."""
    stored = recipes.given_options(None, before.stored["config"])
    return _anonymous(build(Config, {**stored, **recipes.given_options(None, rest)}))


def _settings(
    output: Path, base: Config, words: Mapping[str, Any], before: Before | None
) -> tuple[tuple[Setting, ...], tuple[str, ...]]:
    """All settings of the folder, and the names of those that this command is about."""
    variants, vary = words.get("variant", {}), words.get("vary", {})
    known = before.known if before else {}
    if before is not None and not words.keys() & {"methods", "variant", "vary"}:
        return tuple(_on(base, each.setting) for each in known.values()), tuple(known)
    methods = words.get("methods") or ((base.method.name,) if variants or vary else USUAL)
    asked = make_settings(base, methods, variants, vary)
    for each in asked:
        other = known.get(each.name)
        differences = differing(other.setting.config, each.config) if other else []
        if differences:
            raise UserError(
                f"{each.name} is another setting in {output} ({', '.join(differences)}): give it another name by "
                "--variant, or another --output"
            )
    new = [each for each in asked if each.name not in known]
    return (*(_on(base, each.setting) for each in known.values()), *new), tuple(each.name for each in asked)


def _on(base: Config, setting: Setting) -> Setting:
    """The same setting on this command's bookkeeping."""
    return dataclasses.replace(setting, config=replaced(base, setting.given))


def _read(output: Path) -> Before | None:
    """The comparison in a folder; None where there is none. UserError where it cannot be read."""
    file = output.expanduser() / FILE
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        stored = recipes.given_options(None, content["settings"]["config"])
        known = [_known(stored, each) for each in content["settings"]["compared"]]
        lacking = [name for name in (*KEPT, "seeds") if name not in content["settings"]]
        lacking += [name for cell in content["cells"] for name in ("name", "seed", "status") if name not in cell]
        if lacking:
            raise LookupError(f"lacks {lacking[0]}")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, LookupError, TypeError, AttributeError, UserError) as error:
        raise UserError(
            f"{file} cannot be read as a comparison ({error!r}): move it, or name another --output"
        ) from None
    return Before(content, {each.setting.name: each for each in known})


def _known(stored: Mapping[str, Any], entry: Mapping[str, Any]) -> Known:
    given = recipes.given_options(None, entry["given"])
    varied = {name: given[name] for name in entry["varied"]}
    setting = Setting(entry["name"], given, build(Config, {**stored, **given}), varied)
    cost = None if entry["cost"] is None else Cost(**entry["cost"])
    return Known(setting, cost, entry["seconds_per_step"], entry.get("data"))


def _refuse_other_comparison(output: Path, before: Before, base: Config, own: Mapping[str, Any]) -> None:
    stored = before.stored
    differences = differing(build(Config, recipes.given_options(None, stored["config"])), base)
    differences += [
        f"{name} {stored[name]} → {own[name]}"
        for name in ("budget", "seconds_per_run")
        if name in own and own[name] != stored[name]
    ]
    if differences:
        raise UserError(
            f"{output} holds another comparison ({', '.join(differences)}): give the same options, or another --output"
        )


def _refuse_other_files(output: Path) -> None:
    try:
        names = sorted(each.name for each in output.iterdir()) if output.exists() else []
    except NotADirectoryError:
        raise UserError(f"output = {str(output)!r} is a file: name a directory") from None
    except OSError as error:
        raise UserError(f"output = {str(output)!r} cannot be read: {error.strerror}") from None
    foreign = [name for name in names if name not in OWN_FILES and not (name.startswith(".") and name.endswith(".tmp"))]
    if foreign:
        found = ", ".join(foreign[:3]) + (", …" if len(foreign) > 3 else "")
        raise UserError(f"output = {str(output)!r} holds other files ({found}): name a new or empty directory")
