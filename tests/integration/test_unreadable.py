"""Files that cannot be read do not end a run, are listed once, and are too many at some point."""

from __future__ import annotations

import subprocess
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
