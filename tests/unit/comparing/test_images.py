"""A comparison is about the same images in all its cells, and whenever it goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.unit.comparing.studies import ask, cells, summarise, write_cell

from patchmix import checkpoint
from patchmix.comparing.cells import Cell
from patchmix.comparing.images import same_images
from patchmix.comparing.request import request
from patchmix.errors import UserError

DIGITS = {"name": "mnist5k", "num_images": 96, "fingerprint": "a"}
OTHERS = {**DIGITS, "num_images": 1200, "fingerprint": "b"}


def finished(output: Path, seeds: str) -> list[Cell]:
    found = cells(ask(output, methods="patchmix", seeds=seeds))
    for cell in found:
        write_cell(cell, 90.0)
    return found


def trained_on(cell: Cell, images: dict[str, Any]) -> None:
    (newest,) = (cell.directory / "checkpoints").iterdir()
    newest.unlink()
    checkpoint.write(newest, {"weights": torch.zeros(1)}, {"step": cell.plan.steps, "data": images})


def in_json(output: Path) -> list[Any]:
    content = json.loads((output / "comparison.json").read_text())
    return [each.get("data") for each in content["settings"]["compared"]]


def test_those_who_know_must_agree() -> None:
    assert same_images("a", [("x", None)]) is None
    assert same_images("a", [("x", None), ("y", DIGITS), ("z", dict(DIGITS))]) == DIGITS
    words = (
        "a: z is about other images than y .mnist5k, 96 images, fingerprint a → mnist5k, 1,200 images, fingerprint b"
    )
    with pytest.raises(UserError, match=words):
        same_images("a", [("x", None), ("y", DIGITS), ("z", OTHERS)])


def test_the_images_of_a_setting_are_noted_and_others_refused(tmp_path: Path) -> None:
    output = tmp_path / "study"
    finished(output, "1")
    summarise(ask(output, methods="patchmix", seeds=1))
    (noted,) = in_json(output)
    assert (noted["name"], noted["num_images"]) == ("mnist5k", 96)
    file = output / "comparison.json"
    file.write_text(file.read_text().replace(noted["fingerprint"], "of-others"))
    with pytest.raises(UserError, match=r"patchmix: what its data options open now is about other images than .*json"):
        cells(request(None, None, {"output": str(output), "seeds": 2}))
    summarise(request(None, None, {"output": str(output)}))  # nothing to train: the images may be gone


def test_a_folder_that_does_not_say_is_filled_in_and_a_cell_of_other_images_refused(tmp_path: Path) -> None:
    output = tmp_path / "study"
    first, second = finished(output, "2")
    summarise(ask(output, methods="patchmix", seeds=2))
    file = output / "comparison.json"
    content = json.loads(file.read_text())
    noted = content["settings"]["compared"][0].pop("data")
    file.write_text(json.dumps(content))
    trained_on(first, noted)
    summarise(request(None, None, {"output": str(output)}))
    assert in_json(output) == [noted]
    trained_on(second, OTHERS)
    with pytest.raises(UserError, match=rf"{second.name} is about other images than .*fingerprint b"):
        cells(request(None, None, {"output": str(output)}))
