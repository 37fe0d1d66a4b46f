"""What a run starts with: its config, the recipe it comes from, and what that recipe chose."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchmix import recipes
from patchmix.choices import Choices, Machine
from patchmix.choosing import choose
from patchmix.config import Config

CHOOSING_RECIPE = "folder"


@dataclass(frozen=True)
class Start:
    """`recipe` is None where none was named; `choices` is None where the config says everything."""

    config: Config
    recipe: str | None
    choices: Choices | None = None


def start(
    recipe: str | None,
    config_file: str | Path | None,
    overrides: Mapping[str, Any],
    *,
    resume: bool = False,
) -> Start:
    """Put a run's config together, as `recipes.resolve` does; recipe `folder` looks at the images to choose by.

    A data.root alone, or with a config file that names neither model nor batch, means recipe `folder`; where no output
    is given, runs/NAME of the folder or the file.

    Raises:
        UserError: what `resolve` refuses; no images, or none of those looked at can be read.
    """
    given = recipes.given_options(config_file, overrides)
    if recipe is None and _is_folder_alone(config_file, given, resume):
        recipe = CHOOSING_RECIPE
        name = Path(config_file).stem if config_file is not None else _name_of(given["data.root"])
        overrides = {"output": given.get("output") or f"runs/{name}", **overrides}
    config = recipes.resolve(recipe, config_file, overrides, resume=resume)
    if resume or recipe != CHOOSING_RECIPE:
        return Start(config, recipe)
    choices = choose_for(config, given)
    return Start(recipes.resolve(recipe, config_file, overrides, chosen=choices.values), recipe, choices)


def choose_for(config: Config, given: Mapping[str, Any]) -> Choices:
    """What recipe `folder` chooses for the training images of a config on this machine; `given` is kept.

    Raises:
        UserError: no images, or none of those looked at can be read.
    """
    from patchmix.data.datasets import open_dataset
    from patchmix.data.sample import sample_images

    return choose(sample_images(open_dataset(config.data, "train")), Machine.here(config.run), given)


def _is_folder_alone(config_file: str | Path | None, given: Mapping[str, Any], resume: bool) -> bool:
    settled = config_file is not None and any(name.startswith(("model.", "optim.batch_size")) for name in given)
    named = settled or (resume and given.get("output") is not None)
    return not named and given.get("data.root") is not None and given.get("data.name", "folder") == "folder"


def _name_of(root: str) -> str:
    return Path(root).expanduser().resolve().name or CHOOSING_RECIPE
