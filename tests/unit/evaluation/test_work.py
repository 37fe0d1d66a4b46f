"""results/<command>/: what new work may take away there, and what it must leave."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from patchmix import checkpoint
from patchmix.config import FinetuneConfig
from patchmix.errors import UserError
from patchmix.evaluation.work import MODEL_FILE, WORK_FILE, Work, open_work


def begin(tmp_path: Path, **options: Any) -> Work:
    work = open_work("finetune", FinetuneConfig(**{"checkpoint": "run", **options}), tmp_path / "finetune.json", {})
    work.close()
    return work


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """results/finetune/ with a last checkpoint and the trained network."""
    work = begin(tmp_path)
    work.save(3, {"network.weight": torch.zeros(1)}, {})
    (work.path / MODEL_FILE).write_bytes(b"trained")
    return work.path


def test_the_trained_network_stays_until_a_new_one_is_written(finished: Path, tmp_path: Path) -> None:
    begin(tmp_path, overwrite=True)
    assert (finished / MODEL_FILE).read_bytes() == b"trained"
    assert checkpoint.list_checkpoints(finished) == []


@pytest.mark.parametrize("overwrite", [True, False])
def test_work_does_not_begin_from_a_file_that_it_takes_away(finished: Path, tmp_path: Path, overwrite: bool) -> None:
    link = tmp_path / "link.safetensors"
    link.symlink_to(finished / MODEL_FILE)
    (state,) = checkpoint.list_checkpoints(finished)
    for source in (finished / MODEL_FILE, link, state, finished):
        for options in ({"checkpoint": str(source)}, {"checkpoint": "none", "architecture": str(source)}):
            with pytest.raises(UserError, match=r"lies in .*finetune, where .* name another --output, or move"):
                begin(tmp_path, overwrite=overwrite, **options)
    assert (finished / MODEL_FILE).read_bytes() == b"trained"
    assert checkpoint.list_checkpoints(finished) == [state]


def test_work_may_begin_from_another_file_in_its_directory(finished: Path, tmp_path: Path) -> None:
    other = finished / "kept.safetensors"
    other.write_bytes(b"other")
    begin(tmp_path, checkpoint=str(other), overwrite=True)
    assert other.read_bytes() == b"other"


@pytest.mark.parametrize("there", [MODEL_FILE, "checkpoints/step-00000003.safetensors"])
def test_what_was_trained_is_not_cleared_for_want_of_a_work_file(tmp_path: Path, there: str) -> None:
    file = tmp_path / "finetune" / there
    file.parent.mkdir(parents=True)
    file.write_bytes(b"trained")
    with pytest.raises(UserError, match=r"finetune holds what was trained, but no work\.json .* add --overwrite"):
        begin(tmp_path)
    assert file.read_bytes() == b"trained"
    work = begin(tmp_path, overwrite=True)
    assert (work.path / WORK_FILE).exists()
