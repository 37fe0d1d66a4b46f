"""Files that cannot be read do not end a run, are listed once, and are too many at some point."""

from __future__ import annotations

import csv
import os
import subprocess
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.runs import SMALL, command, small_config

from patchmix.errors import UserError
from patchmix.pretraining import pretrain


def photos(folder: Path, whole: int, broken: int) -> dict[str, Any]:
    """A folder of small PNG files, the broken ones cut short; the options that train on it."""
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (whole + broken, 28, 28, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        path = folder / f"{number:03}.png"
        Image.fromarray(image).save(path)
        if number < broken:
            path.write_bytes(path.read_bytes()[:200])
    return {
        "data.name": "folder",
        "data.root": str(folder),
        "data.limit": None,
        "data.image_size": 28,
        "optim.batch_size": 8,
        "run.eval_every_epochs": 0,
    }


def listed(output: Path) -> list[str]:
    return [line.split("\t")[0] for line in (output / "skipped.tsv").read_text().splitlines()]


def test_are_replaced_and_listed_once_with_the_reason_also_after_a_resume(tmp_path: Path) -> None:
    options = photos(tmp_path / "photos", whole=21, broken=3)
    output = tmp_path / "run"
    for epochs in (2, 4):
        pretrain(small_config(output, **options, **{"optim.epochs": epochs}), resume=epochs > 2)
    assert sorted(Path(path).name for path in listed(output)) == ["000.png", "001.png", "002.png"]
    assert all(line.split("\t")[1] for line in (output / "skipped.tsv").read_text().splitlines())


def test_of_any_name_are_listed_once_on_a_line_each_also_after_a_resume(tmp_path: Path) -> None:
    options = photos(tmp_path / "photos", whole=13, broken=0)
    odd = [b"a\nb.png", b"a\tb.png", b"\xff.png", "\u2028.png".encode(), b"<b>[red].png"]
    for name in odd:
        with open(os.path.join(os.fsencode(tmp_path / "photos"), name), "wb") as file:
            file.write(b"no image")
    output = tmp_path / "run"
    for epochs in (2, 4):
        pretrain(small_config(output, **options, **{"optim.epochs": epochs}), resume=epochs > 2)
    shown = [r"a\nb.png", r"a\tb.png", r"\xff.png", r"\u2028.png", "<b>[red].png"]
    assert sorted(listed(output)) == sorted(f"{tmp_path}/photos/{name}" for name in shown)


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_a_run_on_the_manifests_folder_lists_each_of_its_broken_files_once(
    shared_data: Path, tmp_path: Path, workers: int
) -> None:
    with zipfile.ZipFile(shared_data / "broken-images.zip") as packed:
        packed.extractall(tmp_path)
    options = {**photos(tmp_path / "unused", whole=1, broken=0), "data.root": str(tmp_path / "broken-images")}
    options |= {"data.num_workers": workers, "optim.epochs": 3, "optim.batch_size": 10}
    pretrain(small_config(tmp_path / "run", **options))
    with (tmp_path / "broken-images" / "MANIFEST.tsv").open(encoding="utf-8", newline="") as file:
        manifest = {row["file"]: row["expected"] for row in csv.DictReader(file, delimiter="\t", quoting=3)}
    names = [os.path.relpath(path, tmp_path / "broken-images") for path in listed(tmp_path / "run")]
    assert len(names) == len(set(names))
    assert {name for name, expected in manifest.items() if expected == "skip"} <= set(names)
    assert set(names) <= {name for name, expected in manifest.items() if expected in ("skip", "either")}


@pytest.mark.slow
def test_are_listed_once_by_several_processes(tmp_path: Path) -> None:
    options = photos(tmp_path / "photos", whole=21, broken=3)
    output = tmp_path / "run"
    line = command("pretrain", "--recipe", "demo", "--output", output, **{**SMALL, **options, "run.num_devices": 2})
    ended = subprocess.run(line, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    assert sorted(Path(path).name for path in listed(output)) == ["000.png", "001.png", "002.png"]


def test_end_the_run_where_there_are_too_many(tmp_path: Path) -> None:
    options = photos(tmp_path / "photos", whole=200, broken=40)
    output = tmp_path / "run"
    with pytest.raises(UserError, match=r"cannot be read, more than data.max_unreadable = 0.1 allows: skipped.tsv"):
        pretrain(small_config(output, **options))
    assert len(listed(output)) > 20
