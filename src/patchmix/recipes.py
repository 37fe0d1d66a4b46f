"""Recipes and config files: found, read, put together, written. Imports no torch.

Precedence: defaults < recipe < config file < command line (or keyword arguments). Each layer is checked on
its own, so a message can say in which file the mistake is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml

from patchmix.config import Config, EmbedConfig, EvalConfig, to_dict
from patchmix.config.detection import DetectConfig
from patchmix.config.options import Checked, all_options, build, coerce, flatten, nearest
from patchmix.errors import UserError

SUMMARY = "# summary: "


@dataclass(frozen=True)
class Recipe:
    """A recipe as `patchmix recipes` lists it; `text` is the whole file with its header."""

    name: str
    what: str
    data: str
    time: str
    text: str


def list_recipes() -> list[Recipe]:
    """The recipes that come with the package, by name; each file's first line is its summary."""
    found = []
    for file in sorted(resources.files("patchmix").joinpath("recipe_files").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".yaml"):
            text = file.read_text(encoding="utf-8")
            summary = yaml.safe_load(text.partition("\n")[0].removeprefix(SUMMARY))
            found.append(Recipe(file.name.removesuffix(".yaml"), text=text, **summary))
    return found


def find_recipe(name: str) -> Recipe:
    """The recipe of that name; UserError with the names there are."""
    known = {recipe.name: recipe for recipe in list_recipes()}
    if name not in known:
        hint = "; a file is given by --config" if Path(name).exists() else nearest(name, known)
        raise UserError(f"there is no recipe {name!r}{hint} (recipes: {', '.join(known)})")
    return known[name]


def load_recipe(name: str) -> dict[str, Any]:
    """A recipe's options as nested dictionaries; UserError if there is no such recipe."""
    return _parse(find_recipe(name).text, f"recipe {name}")


def load_file(path: str | Path) -> dict[str, Any]:
    """A YAML file's options as nested dictionaries; UserError if it is absent or not such a file."""
    path = Path(path)
    if path.is_dir():
        inside = path / "config.yaml"
        hint = f"; did you mean {inside}?" if inside.is_file() else ""
        raise UserError(f"the config file {path} is a directory{hint}")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"there is no config file {path} (in {Path.cwd()})") from None
    except UnicodeDecodeError:
        raise UserError(f"the config file {path} is not text in UTF-8") from None
    except OSError as error:
        raise UserError(f"the config file {path} cannot be read: {error.strerror}") from error
    return _parse(text, str(path))


class _Loader(yaml.SafeLoader):
    """PyYAML lets the last of two equal keys win, which would silently drop half of a config."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                problem = f"{key.value} is there twice"
                raise yaml.MarkedYAMLError(problem=problem, problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parse(text: str, where: str) -> dict[str, Any]:
    try:
        content = yaml.load(text, Loader=_Loader)  # a SafeLoader: builds plain values only
    except yaml.MarkedYAMLError as error:
        line = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{where} is not valid YAML: {line}{error.problem}") from None
    except (yaml.YAMLError, ValueError) as error:  # ValueError: a date that is none
        raise UserError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from None
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UserError(f"{where} is not a config: it holds no 'name: value' lines")
    return content


def _layer(given: Mapping[str, Any], config: type[Checked], where: str = "") -> dict[str, Any]:
    """One layer, checked: {'section.key': value in the option's type}."""
    try:
        options = all_options(config)
        return {name: coerce(options[name], value) for name, value in flatten(given, config).items()}
    except UserError as error:
        raise UserError(f"{where}: {error}") if where else error from None


def resolve(
    recipe: str | None = None,
    config_file: str | Path | None = None,
    overrides: Mapping[str, Any] | None = None,
    *,
    resume: bool = False,
    chosen: Mapping[str, Any] | None = None,
) -> Config:
    """The config of a run from its layers; `overrides` has nested or dotted keys.

    `chosen` ({'section.key': value}) is what a recipe leaves to be chosen by images and machine; it comes after the
    recipe. With `resume` the run's own `config.yaml` stands in the recipe's place, so that what was given when it
    was begun need not be given again; but for max_steps, which is about one start. The output that nobody gave is
    runs/RECIPE, or runs/FILE's name. UserError on any key, value or file that is not accepted.
    """
    given = given_options(config_file, overrides)
    flat: dict[str, Any] = {}
    run = _run_to_resume(recipe, config_file, given.get("output")) if resume else None
    if run is not None:
        flat |= _layer(load_file(run / "config.yaml"), Config, str(run / "config.yaml"))
        flat |= {"output": str(run), "max_steps": None}
    elif recipe is not None:
        flat |= _layer(load_recipe(recipe), Config, f"recipe {recipe}")
    flat |= {**(chosen or {}), **given}
    if not any(name.startswith("data.") for name in flat):
        output = str(flat.get("output") or "")
        if output and (Path(output) / "config.yaml").is_file():
            raise UserError(f"{output} holds a run: add --resume to go on with it, or --recipe NAME for a new one")
        raise UserError(
            "nothing says what to train on: give --recipe NAME (see `patchmix recipes`), or --data.root FOLDER for "
            "images of your own"
        )
    if flat.get("output") is None:
        name = recipe or (Path(config_file).stem if config_file else _as_folder(flat.get("data.name", "folder")))
        flat["output"] = f"runs/{name}"
    return build(Config, flat)


def _as_folder(data_name: str) -> str:
    return re.sub(r"[^\w.]+", "-", data_name).strip("-")


def given_options(config_file: str | Path | None, overrides: Mapping[str, Any] | None) -> dict[str, Any]:
    """{'section.key': value} of what config file and caller say themselves; UserError as `resolve`."""
    file = {} if config_file is None else _layer(load_file(config_file), Config, str(config_file))
    return file | _layer(overrides or {}, Config)


def _run_to_resume(recipe: str | None, config_file: str | Path | None, output: str | None) -> Path:
    """The run that --resume means."""
    name = recipe or (Path(config_file).stem if config_file else None)
    if output is None and name is None:
        raise UserError("resume needs to know the run: give --output RUN, or the recipe it was started with")
    run = Path(output or f"runs/{name}")
    if not (run / "config.yaml").is_file():
        raise UserError(f"nothing to resume: {run} holds no run; leave --resume out to begin one")
    begun = _recipe_of(run)
    if recipe is not None and begun is not None and begun != recipe:
        raise UserError(
            f"{run} was begun with recipe {begun}, not {recipe}: leave --recipe out, or name another --output"
        )
    return run


def _recipe_of(run: Path) -> str | None:
    try:
        found = json.loads((run / "environment.json").read_text(encoding="utf-8")).get("recipe")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, str) else None


Evaluation = TypeVar("Evaluation", bound=EvalConfig)


def resolve_evaluation(config: type[Evaluation], overrides: Mapping[str, Any]) -> Evaluation:
    """The config of an evaluation; the data options nobody gave are those of the run, if it is one.

    Another `data.name` than the run's takes nothing from the run: its root, size or channels would be
    those of other images. UserError where neither run nor caller says which data.
    """
    flat = _layer(overrides, config)
    checkpoint = flat.get("checkpoint")
    if not checkpoint:
        raise UserError("checkpoint is missing: give --checkpoint RUN, a weights file, or timm:MODEL")
    scratch = checkpoint == "none" and "architecture" in all_options(config)
    if scratch:  # data options are then those of the run whose architecture it takes
        checkpoint = flat.get("architecture")
        if not checkpoint:
            raise UserError("architecture is missing: with --checkpoint none give --architecture RUN, or timm:MODEL")
    if not Path(checkpoint).exists() and ":" not in checkpoint:
        what = "architecture" if scratch else "checkpoint"
        raise UserError(f"there is no {what} {checkpoint}: give a run directory, a file, or timm:MODEL")
    run = find_run(checkpoint)
    layer = {} if run is None else _layer(load_file(run / "config.yaml"), Config, str(run / "config.yaml"))
    if "data.root" in flat and (config is EmbedConfig or layer.get("data.name") == "mnist5k"):
        # Any images can be embedded: of the run's data set they need not be. mnist5k has no root.
        flat = {"data.name": "folder"} | flat
    if run is not None:
        if flat.get("data.name", layer.get("data.name")) == layer.get("data.name"):
            flat = {name: value for name, value in layer.items() if name.startswith("data.")} | flat
    elif Path(checkpoint).is_dir():
        raise UserError(f"{checkpoint} is no run of patchmix (it has no config.yaml)")
    if not any(name in flat for name in ("data.name", "data.root")):
        raise UserError(f"{checkpoint} does not say which data to use: give --data.name (and --data.root)")
    return build(config, flat)


def resolve_detection(overrides: Mapping[str, Any]) -> DetectConfig:
    """The config of `patchmix detect`: its data are never those of the run. UserError."""
    flat = _layer(overrides, DetectConfig)
    if not flat.get("checkpoint"):
        raise UserError("checkpoint is missing: give --checkpoint RUN, a weights file, timm:MODEL, or none")
    return build(DetectConfig, flat)


def find_run(checkpoint: str) -> Path | None:
    """The run directory that a checkpoint is, or lies in (RUN/checkpoints/FILE); else None."""
    path = Path(checkpoint)
    run = path.parent.parent if path.absolute().parent.name == "checkpoints" else path
    return run if (run / "config.yaml").is_file() else None


class _Dumper(yaml.SafeDumper):
    pass


_Dumper.add_representer(
    list, lambda dumper, value: dumper.represent_sequence("tag:yaml.org,2002:seq", value, flow_style=True)
)


def dump(config: Checked) -> str:
    """The whole config as YAML that `--config` reads back to an equal one."""
    return yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
