"""Checkpoint files: whole, verified, refused when they are not what is expected."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.models import small_model, small_spec

from patchmix import checkpoint
from patchmix.errors import RunError, UserError
from patchmix.models.encoders import create_encoder
from patchmix.models.loading import resolve_encoder

TENSORS = {
    "a": torch.arange(6.0).view(2, 3),
    "b": torch.tensor(3, dtype=torch.int64),
    "c": torch.randn(5, dtype=torch.float64),
    "d": torch.randn(4).to(torch.bfloat16),
    "optimizer.state.a.step": torch.tensor(2.0),
}


def test_comes_back_as_it_was(tmp_path: Path) -> None:
    path = checkpoint.checkpoint_path(tmp_path, 12)
    checkpoint.write(path, TENSORS, {"step": 12, "note": "ü"})
    found = checkpoint.read(path)
    assert (found.step, found.metadata["note"]) == (12, "ü")
    assert found.tensors.keys() == TENSORS.keys()
    assert all(torch.equal(value, TENSORS[name]) for name, value in found.tensors.items())
    assert all(value.dtype == TENSORS[name].dtype for name, value in found.tensors.items())
    assert found.optimizer_tensors().keys() == {"state.a.step"}
    assert found.model_tensors().keys() == {"a", "b", "c", "d"}
    assert [each.name for each in path.parent.iterdir()] == ["step-00000012.safetensors"]


def test_others_may_read_it_as_the_umask_says(tmp_path: Path) -> None:
    path = checkpoint.checkpoint_path(tmp_path, 1)
    before = os.umask(0o027)
    try:
        checkpoint.write(path, TENSORS, {"step": 1})
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


@pytest.mark.parametrize("position", ["header", "metadata", "tensors", "end"])
def test_any_flipped_bit_is_found(position: str, tmp_path: Path) -> None:
    path = checkpoint.checkpoint_path(tmp_path, 1)
    checkpoint.write(path, TENSORS, {"step": 1, "marker": "xyzzy"})
    content = bytearray(path.read_bytes())
    where = {"header": 0, "metadata": content.index(b"xyzzy"), "tensors": len(content) - 40, "end": len(content) - 1}
    content[where[position]] ^= 1
    path.write_bytes(content)
    with pytest.raises(checkpoint.DamagedCheckpoint):
        checkpoint.read(path)


def test_damaged_files_are_passed_over_newest_first(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.write(checkpoint.checkpoint_path(tmp_path, step), TENSORS, {"step": step})
    newest = checkpoint.checkpoint_path(tmp_path, 3)
    newest.write_bytes(newest.read_bytes()[:-1])
    found, damaged = checkpoint.newest_whole(tmp_path)
    assert found is not None
    assert found.step == 2
    assert len(damaged) == 1
    assert str(newest) in damaged[0]


def test_prune_keeps_the_newest_and_leftovers_are_cleared(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.write(checkpoint.checkpoint_path(tmp_path, step), TENSORS, {"step": step})
    (tmp_path / "checkpoints" / ".step-00000004.safetensors.1.tmp").write_bytes(b"half")
    (tmp_path / "checkpoints" / ".trial.safetensors").write_bytes(b"whole")
    checkpoint.prune(tmp_path, 2)
    checkpoint.remove_leftovers(tmp_path)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "step-00000002.safetensors",
        "step-00000003.safetensors",
    ]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = checkpoint.checkpoint_path(tmp_path, 1)
    checkpoint.write(path, TENSORS, {"step": 1})
    before = path.read_bytes()
    with pytest.raises(TypeError):  # not JSON: fails before the rename
        checkpoint.write(path, TENSORS, {"step": 1, "bad": object()})
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


def test_what_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").write_text("a file in the place of the directory")
    with pytest.raises(RunError, match="cannot write checkpoint"):
        checkpoint.write(checkpoint.checkpoint_path(tmp_path, 1), TENSORS, {"step": 1})


def test_a_trial_leaves_nothing_behind(tmp_path: Path) -> None:
    checkpoint.trial(tmp_path, TENSORS)
    assert list((tmp_path / "checkpoints").iterdir()) == []


def saved_encoder(path: Path, **changes: object) -> Path:
    model = small_model()
    metadata = {"step": 7, "encoder": {**small_spec().to_dict(), **changes}}
    checkpoint.write(path, model.state_dict(), metadata)
    return path


def test_our_file_says_what_it_holds_and_how_many_tensors_were_loaded(tmp_path: Path) -> None:
    loaded = resolve_encoder(saved_encoder(tmp_path / "model.safetensors"))
    count = len(create_encoder(small_spec()).state_dict())
    assert f"{count} of {count} tensors" in loaded.description
    assert "3 heads" in loaded.description
    assert not loaded.encoder.training
    assert loaded.spec == small_spec()
    model = small_model().eval()
    images = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(loaded.encoder(images), model.encoder(images))


def test_another_number_of_heads_is_refused_though_every_tensor_would_fit(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"num_heads = 6, but .* was trained with 3"):
        resolve_encoder(saved_encoder(tmp_path / "model.safetensors"), num_heads=6)


def test_an_architecture_that_does_not_fit_the_tensors_is_refused_with_a_count(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"30 of 42 tensors of encoder fit; 12 missing \(such as blocks.2"):
        resolve_encoder(saved_encoder(tmp_path / "model.safetensors", depth=3))


def test_the_momentum_encoder_is_taken_where_there_is_one(tmp_path: Path) -> None:
    model = small_model(momentum=True)
    with torch.no_grad():
        model.momentum_encoder.norm.bias.fill_(3.0)
    checkpoint.write(tmp_path / "model.safetensors", model.state_dict(), {"step": 1, "encoder": small_spec().to_dict()})
    loaded = resolve_encoder(tmp_path / "model.safetensors")
    assert "momentum encoder" in loaded.description
    assert loaded.encoder.norm.bias[0].item() == 3.0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent", "no such run or file"),
        ("foreign.safetensors", "not one of patchmix"),
        ("empty.safetensors", "not a whole safetensors file"),
        ("directory", "is no run of patchmix"),
        ("pickle.pth", "holds more than tensors"),
        ("text.pth", "holds more than tensors"),
        ("other.pth", "no `state_dict`"),
        ("timm:vit_nonsense", "timm has no such model"),
    ],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(name: str, words: str, tmp_path: Path) -> None:
    save_file({"x": torch.zeros(1)}, tmp_path / "foreign.safetensors")
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "directory").mkdir()
    torch.save({"state_dict": small_model()}, tmp_path / "pickle.pth")  # a whole pickled model, as the reference saves
    (tmp_path / "text.pth").write_text("not a checkpoint")
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.pth")
    source = name if name.startswith("timm:") else tmp_path / name
    with pytest.raises(UserError) as error:
        resolve_encoder(source)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
