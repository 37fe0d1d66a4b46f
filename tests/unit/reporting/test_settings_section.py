"""The page says in which options a run differs from its recipe, what the recipe chose and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pages import section, words
from run_directories import write_run

from patchmix.recipes import resolve
from patchmix.reporting import settings
from patchmix.reporting.run_files import read_run


def run_of(directory: Path, recipe: str | None, environment: dict[str, Any] | None = None, **options: Any) -> Path:
    config = resolve("demo", None, {"output": str(directory), **options})
    write_run(directory, config)
    (directory / "environment.json").write_text(json.dumps({"recipe": recipe, **(environment or {})}))
    return directory


def rows(run: Path, table: str) -> dict[str, tuple[str, str, str]]:
    found = settings.section(read_run(run)).context[table]
    return {row["name"]: (row["before"], row["after"], row["why"]) for row in found}


def test_what_differs_from_the_recipe_is_listed_apart_from_the_machine(tmp_path: Path) -> None:
    options = {"optim.epochs": 7, "views.global_scale": (0.5, 2.0), "run.num_threads": 1}
    run = run_of(tmp_path / "run", "demo", **options)
    assert rows(run, "changes") == {
        "optim.epochs": ("60", "7", ""),
        "views.global_scale": ("[0.8, 1.25]", "[0.5, 2.0]", ""),
    }
    assert rows(run, "machine") == {
        "output": ("runs/demo", str(tmp_path / "run"), ""),
        "run.num_threads": ("null", "1", ""),
    }
    assert "What differs from recipe demo" in words(section(settings.section, run))


def test_a_run_that_is_its_recipe_says_so(tmp_path: Path) -> None:
    text = section(settings.section, run_of(tmp_path / "run", "demo"))
    assert "Nothing that changes what is computed differs from recipe demo." in text


def test_a_run_without_a_recipe_is_held_against_the_defaults(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", None)
    assert rows(run, "changes")["data.name"] == ("folder", "mnist5k", "")
    shown = words(section(settings.section, run))
    assert "begun without a recipe" in shown
    assert "What differs from the defaults" in shown


def test_a_recipe_that_is_no_more_is_said(tmp_path: Path) -> None:
    shown = words(section(settings.section, run_of(tmp_path / "run", "<b>old")))
    assert "there is no recipe '<b>old'" in shown
    assert "What differs from the defaults" in shown


def test_what_the_recipe_chose_has_its_reason(tmp_path: Path) -> None:
    reason = "120 images of <i>48 px"
    environment = {"choices": {"optim.epochs": reason, "model.width": "a CPU"}}
    run = run_of(tmp_path / "run", "demo", environment, **{"optim.epochs": 7})
    changes = rows(run, "changes")
    assert changes["optim.epochs"][2] == reason
    assert changes["model.width"] == ("64", "64", "a CPU")
    assert f"optim.epochs 60 7 {reason}" in words(section(settings.section, run))


def test_an_environment_of_another_kind_does_not_matter(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", None, {"recipe": ["x"], "choices": "none"})
    assert "begun without a recipe" in words(section(settings.section, run))
