"""A run that was stopped and resumed ends as one that was not, bit for bit."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from tests.runs import (
    VARIANTS,
    assert_same_result,
    result_of,
    small_config,
    start_pretraining,
    stop,
    wait_for_step,
)

from patchmix.checkpoint import list_checkpoints
from patchmix.errors import UserError
from patchmix.pretraining import pretrain


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "uninterrupted"
    pretrain(small_config(path))
    return path


@pytest.mark.parametrize("variant", VARIANTS)
def test_stopping_in_the_middle_of_an_epoch_changes_nothing(variant: str, tmp_path: Path) -> None:
    options = VARIANTS[variant]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert pretrain(small_config(whole, **options)).step == 12
    for max_steps in (4, 5, 12):
        result = pretrain(small_config(parts, max_steps=max_steps, **options), resume=parts.exists())
        assert (result.step, result.exit_code) == (max_steps, 0)
    assert_same_result(whole, parts)


def test_workers_change_nothing(uninterrupted: Path, tmp_path: Path) -> None:
    pretrain(small_config(tmp_path / "run", **{"data.num_workers": 2}))
    assert_same_result(uninterrupted, tmp_path / "run")


@pytest.mark.parametrize(("step", "workers"), [(1, 0), (3, 2), pytest.param(8, 0, marks=pytest.mark.slow)])
def test_kill_at_any_moment_changes_nothing(step: int, workers: int, uninterrupted: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    process = start_pretraining(output, **{"data.num_workers": workers})
    wait_for_step(process, output, step)
    assert stop(process, signal.SIGKILL)[0] == -signal.SIGKILL
    result = pretrain(small_config(output), resume=True)
    assert result.step == 12
    assert_same_result(uninterrupted, output)
    steps = [record["step"] for record in result_of(output)[1] if "loss" in record]
    assert steps == list(range(1, 13))


@pytest.mark.parametrize(
    ("number", "exit_code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["ctrl-c", "sigterm"]
)
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(
    number: signal.Signals, exit_code: int, uninterrupted: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    # A checkpoint is due only at the end: what is saved was saved because of the signal.
    every: dict[str, Any] = {"run.checkpoint_every_steps": 1000}
    process = start_pretraining(output, **every)
    wait_for_step(process, output, 2)
    code, out, err = stop(process, number)
    assert code == exit_code, err
    assert "Traceback" not in err
    saved, metrics = result_of(output)
    assert 2 <= saved.step < 12
    assert saved.step == max(record["step"] for record in metrics)
    assert f"--output {output} --resume" in " ".join(out.split())
    pretrain(small_config(output), resume=True)
    assert_same_result(uninterrupted, output)


@pytest.mark.parametrize("damage", ["cut short", "one bit", "empty"])
def test_a_damaged_checkpoint_is_named_and_passed_over(
    damage: str, uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    pretrain(small_config(output, max_steps=7))
    newest, before = list_checkpoints(output)
    content = bytearray(newest.read_bytes())
    if damage == "one bit":
        content[-1000] ^= 1
    newest.write_bytes({"cut short": content[:-100], "one bit": content, "empty": b""}[damage])
    capsys.readouterr()
    pretrain(small_config(output), resume=True)
    said = " ".join(capsys.readouterr().out.split())
    assert f"{newest.name} is passed over" in said
    assert f"Going on from {before.name}" in said
    assert_same_result(uninterrupted, output)


def test_without_a_whole_checkpoint_a_run_begins_at_step_0_and_says_so(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    pretrain(small_config(output, max_steps=3))
    shutil.rmtree(output / "checkpoints")
    pretrain(small_config(output), resume=True)
    assert "beginning at step 0" in " ".join(capsys.readouterr().out.split())
    assert_same_result(uninterrupted, output)


def test_a_finished_run_says_so_and_is_left_alone(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    shutil.copytree(uninterrupted, output)
    result = pretrain(small_config(output), resume=True)
    assert (result.step, result.exit_code) == (12, 0)
    assert "is finished: 12 steps" in " ".join(capsys.readouterr().out.split())
    assert_same_result(uninterrupted, output)


def test_more_epochs_are_allowed_and_said(
    uninterrupted: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    shutil.copytree(uninterrupted, output)
    assert pretrain(small_config(output, **{"optim.epochs": 5}), resume=True).step == 15
    assert "optim.epochs 4 → 5" in capsys.readouterr().out
    steps = [record["step"] for record in result_of(output)[1] if "loss" in record]
    assert steps == list(range(1, 16))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"model.depth": 1}, "model.depth 2 → 1"),
        ({"method.momentum": 0.9}, "method.momentum null → 0.9"),
        ({"data.limit": 64}, "data.limit 96 → 64"),
        ({"optim.lr": 0.1, "seed": 3}, "seed 0 → 3, optim.lr 0.02 → 0.1"),
    ],
    ids=["architecture", "method", "data", "several"],
)
def test_another_architecture_or_data_is_refused_by_name_and_touches_nothing(
    options: dict[str, Any], words: str, uninterrupted: Path
) -> None:
    before = {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="was begun with other options") as error:
        pretrain(small_config(uninterrupted, **options), resume=True)
    assert words in str(error.value)
    assert before == {path: path.read_bytes() for path in uninterrupted.rglob("*") if path.is_file()}


def test_other_images_under_the_same_options_are_refused(tmp_path: Path) -> None:
    import numpy as np
    from PIL import Image

    photos, output = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        Image.fromarray(image).save(photos / f"{number}.png")
    options = {
        "data.name": "folder",
        "data.root": str(photos),
        "data.limit": None,
        "data.image_size": 28,
        "optim.batch_size": 4,
    }
    pretrain(small_config(output, max_steps=2, **options))
    (photos / "11.png").rename(photos / "renamed.png")
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match=r"belongs to other images .data.fingerprint"):
        pretrain(small_config(output, max_steps=4, **options), resume=True)
    assert before == {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}


def test_a_damaged_checkpoint_does_not_push_out_a_whole_one(tmp_path: Path) -> None:
    output = tmp_path / "run"
    options = {"run.keep_checkpoints": 2, "run.checkpoint_every_steps": 1}
    pretrain(small_config(output, max_steps=8, **options))
    newest = list_checkpoints(output)[0]
    newest.write_bytes(b"damaged")
    pretrain(small_config(output, max_steps=8, **{**options, "run.keep_checkpoints": 1}), resume=True)
    assert [path.name for path in list_checkpoints(output)] == [newest.name]
    assert result_of(output)[0].step == 8
    assert (newest.parent / f"{newest.name}.damaged").exists()


def test_an_unreadable_or_newer_checkpoint_is_no_reason_to_begin_again(tmp_path: Path) -> None:
    output = tmp_path / "run"
    pretrain(small_config(output, max_steps=2))
    (newest,) = list_checkpoints(output)
    content = newest.read_bytes()
    newest.write_bytes(content.replace(b'\\"format\\": 1', b'\\"format\\": 9'))
    with pytest.raises(UserError, match="has format 9; this patchmix reads format 1"):
        pretrain(small_config(output), resume=True)
    newest.unlink()
    newest.mkdir()  # reading a directory fails for everybody, root too
    with pytest.raises(UserError, match=r"cannot be read.*nothing was changed"):
        pretrain(small_config(output), resume=True)
    assert len((output / "metrics.jsonl").read_text().splitlines()) == 3
