"""What `patchmix bench` is asked for, and what it refuses."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

import patchmix
from patchmix import cli
from patchmix.benching.request import request, result_file
from patchmix.errors import UserError
from patchmix.recipes import resolve

MISTAKES = [
    ("--steps 4", "steps = 4 is not accepted: a whole number of 5 or more"),
    ("--steps many", "steps = 'many' is not accepted: a whole number"),
    ("--recipe dmo", "there is no recipe 'dmo'; did you mean demo?"),
    ("--max_steps 3", "bench has no option --max_steps"),
    ("--recipe demo --run.num_devices 2", "bench measures one process, not 2"),
    ("--data.root absent", "data.root = absent does not exist"),
    ("--recipe demo --optim.batch_size 5000", "optim.batch_size = 5000 is more than the 4000 training images"),
    ("--recipe demo --output file/bench.json", "file/bench.json cannot be written: "),
    ("--recipe demo --output=", "output = '' is not accepted: text that is not empty"),
    ("--recipe demo --output loop", "loop cannot be written: Too many levels of symbolic links"),
    ("--recipe folder", "data.name folder needs data.root"),
    ("--data.name folder --model.name vit_tiny", "data.name folder needs data.root"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_one_line(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    Path("loop").symlink_to("loop")
    assert cli.main(["bench", *words.split()]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_the_function_refuses_what_the_command_does(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="steps = 1 is not accepted"):
        patchmix.bench("demo", output=tmp_path / "bench.json", steps=1)
    with pytest.raises(UserError, match=r"there is no option optim\.epoch; did you mean optim\.epochs"):
        patchmix.bench("demo", output=tmp_path / "bench.json", optim={"epoch": 1})
    with pytest.raises(UserError, match="give steps"):
        patchmix.bench("demo", output=tmp_path / "bench.json", max_steps=5)


def test_a_folder_gets_the_file_where_evaluations_write_theirs(tmp_path: Path) -> None:
    assert request("demo", None, {"output": str(tmp_path)}).output == tmp_path / "results" / "bench.json"
    assert request(None, None, {"output": str(tmp_path / "a")}).output == tmp_path / "a"
    assert request(None, None, {"output": str(tmp_path / "a")}).start.recipe == "cifar10-cpu"


@pytest.mark.parametrize(
    "given", [{}, {"data.num_workers": 0}, {"data": {"limit": 100}}, {"data.root": None, "model.depth": 2}]
)
def test_only_other_data_replace_the_default_recipe(given: dict[str, Any], tmp_path: Path) -> None:
    asked = request(None, None, {**given, "output": str(tmp_path / "a")})
    assert asked.start.recipe == "cifar10-cpu"
    recipe = resolve("cifar10-cpu", None, {**given, "output": "bench"})
    assert asked.start.config == recipe


def test_a_config_file_without_data_changes_the_default_recipe(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("optim: {batch_size: 64}\n", encoding="utf-8")
    start = request(None, file, {"output": str(tmp_path / "a")}).start
    assert (start.recipe, start.config.data.name, start.config.optim.batch_size) == ("cifar10-cpu", "cifar10", 64)
    file.write_text("data: {name: mnist5k}\nviews: {kind: digits}\n", encoding="utf-8")
    start = request(None, file, {"output": str(tmp_path / "a")}).start
    assert (start.recipe, start.config.data.name) == (None, "mnist5k")


def test_the_file_may_be_a_link_or_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "kept" / "bench.json")
    os.mkfifo(tmp_path / "pipe")
    for name in ("link", "pipe"):
        assert result_file(str(tmp_path / name)) == tmp_path / name
    assert list((tmp_path / "kept").iterdir()) == []
