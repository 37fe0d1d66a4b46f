"""Reading the authors' checkpoints: what is refused, and what is worked out from the shapes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from patchmix.data.statistics import GREY_PHOTO_MEAN, GREY_PHOTO_STD
from patchmix.errors import UserError
from patchmix.interop.official import load_encoder, load_pretraining, read_state
from patchmix.models.loading import resolve_encoder

GOLDEN = Path(__file__).parents[1] / "golden"
TINY = GOLDEN / "official_layout_tiny.pth"
BRANCHES = ("base_encoder", "momentum_encoder")
NO_MOMENTUM = GOLDEN / "official_layout_no_momentum.pth"


def changed(path: Path, **state: Tensor | None) -> Path:
    """A copy of the tiny checkpoint with tensors replaced or (None) removed; dots in names as __."""
    content = torch.load(TINY, weights_only=True)
    for name, value in state.items():
        key = "module." + name.replace("__", ".")
        if value is None:
            del content["state_dict"][key]
        else:
            content["state_dict"][key] = value
    torch.save(content, path)
    return path


def test_keeps_the_files_type_and_reads_sizes_from_shapes() -> None:
    model = load_pretraining(TINY, num_heads=3, drop_path=0.1)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float64}
    assert model.momentum_encoder is not None
    assert (model.encoder.embed_dim, len(model.encoder.blocks)) == (24, 2)
    assert model.projector[6].out_features == 8


def test_momentum_means_the_only_encoder_where_there_is_no_other() -> None:
    momentum, base = (load_encoder(NO_MOMENTUM, num_heads=3, branch=branch) for branch in ("momentum", "base"))
    assert all(torch.equal(a, b) for a, b in zip(momentum.parameters(), base.parameters(), strict=True))
    assert load_pretraining(NO_MOMENTUM, num_heads=3).momentum_encoder is None


def test_heads_of_an_unpublished_width_must_be_given() -> None:
    with pytest.raises(UserError, match=r"width 24 is none of the published ones, \[192, 384, 768\].*give num_heads"):
        load_encoder(TINY)
    with pytest.raises(UserError, match="num_heads = 5 does not divide the width 24"):
        load_encoder(TINY, num_heads=5)


def test_a_missing_a_surplus_and_a_reshaped_tensor_are_named(tmp_path: Path) -> None:
    path = changed(
        tmp_path / "x.pth",
        momentum_encoder__norm__bias=None,
        momentum_encoder__extra=torch.zeros(1),
        momentum_encoder__norm__weight=torch.zeros(3),
    )
    with pytest.raises(UserError) as error:
        load_encoder(path, num_heads=3)
    assert "28 of 30 tensors of momentum_encoder fit" in str(error.value)
    assert "1 missing (such as norm.bias)" in str(error.value)
    assert "1 not expected (such as extra)" in str(error.value)
    assert "1 of another shape (such as norm.weight)" in str(error.value)


def test_a_file_without_heads_says_which_function_reads_it(tmp_path: Path) -> None:
    content = torch.load(TINY, weights_only=True)
    content["state_dict"] = {key: value for key, value in content["state_dict"].items() if ".head." not in key}
    torch.save(content, tmp_path / "x.pth")
    with pytest.raises(UserError, match="load_encoder reads the encoder alone"):
        load_pretraining(tmp_path / "x.pth", num_heads=3)
    load_encoder(tmp_path / "x.pth", num_heads=3)


@pytest.mark.parametrize("name", ["predictor__0__weight", "base_encoder__head__6__weight"])
def test_a_head_that_is_not_whole_says_which_function_reads_the_file(tmp_path: Path, name: str) -> None:
    path = changed(tmp_path / "x.pth", **{name: None})
    with pytest.raises(UserError, match=r"no whole projector .* and predictor .*load_encoder reads the encoder alone"):
        load_pretraining(path, num_heads=3)


def test_grey_files_expect_what_grey_photos_are_normalised_by(tmp_path: Path) -> None:
    grey = {f"{branch}__patch_embed__proj__weight": torch.zeros(24, 1, 4, 4) for branch in BRANCHES}
    spec = resolve_encoder(changed(tmp_path / "x.pth", **grey), num_heads=3).spec
    assert (spec.channels, spec.mean, spec.std) == (1, GREY_PHOTO_MEAN, GREY_PHOTO_STD)


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "sprung",))  # type: ignore[return-value]

    torch.save({"state_dict": {"x": Trap()}}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="holds more than tensors"):
        read_state(tmp_path / "x.pth")
    assert not (tmp_path / "sprung").exists()


def test_is_an_encoder_for_every_command() -> None:
    loaded = resolve_encoder(TINY, num_heads=3)
    assert "30 of 30 tensors" in loaded.description
    assert loaded.encoder(torch.zeros(1, 3, 16, 16)).shape == (1, 24)
    untrained = loaded.untrained(0)
    assert not torch.equal(untrained.pos_embed, loaded.encoder.pos_embed)


@pytest.mark.parametrize("content", [b"hello world\n", b"#!/bin/sh\n", b"abc.def", b"[1,2]", b"", b"\x80\x02"])
def test_any_other_file_is_refused_in_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "x.pth").write_bytes(content)
    with pytest.raises(UserError, match=r"no torch file"):
        read_state(tmp_path / "x.pth")
