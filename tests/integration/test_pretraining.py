"""What a run does beside learning: where it writes, what it refuses, what it says when it fails."""

from __future__ import annotations

import json
import math
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.runs import SMALL, command, result_of, small_config, start_pretraining, stop, wait_for_step

from patchmix.checkpoint import list_checkpoints
from patchmix.errors import RunError, UserError
from patchmix.pretraining import pretrain


def test_loss_falls_and_every_step_is_logged_once(tmp_path: Path) -> None:
    output = tmp_path / "run"
    pretrain(small_config(output, **{"optim.epochs": 20}))
    _, metrics = result_of(output)
    steps = [record for record in metrics if "loss" in record]
    assert [record["step"] for record in steps] == list(range(1, 61))
    parts = [
        record["loss_origin_to_origin"] + (record["loss_mix_to_origin"] + record["loss_mix_to_mix"]) / 2
        for record in steps
    ]
    assert parts == pytest.approx([record["loss"] for record in steps], rel=1e-5)
    first, last = (sum(record["loss"] for record in part) / 6 for part in (steps[:6], steps[-6:]))
    assert last < first - 0.3
    assert steps[0]["lr"] == 0
    assert max(record["lr"] for record in steps) == pytest.approx(0.02 * 32 / 256)
    assert steps[-1]["lr"] == pytest.approx(1e-6)
    evaluations = [record for record in metrics if record.get("kind") == "evaluation"]
    assert [record["epoch"] for record in evaluations] == list(range(21))
    assert all(
        {"knn_top1", "rankme", "alignment", "uniformity", "feature_std"} <= record.keys() for record in evaluations
    )


def test_the_directory_holds_what_design_says(tmp_path: Path) -> None:
    output = tmp_path / "run"
    pretrain(small_config(output, **{"run.keep_checkpoints": 1}))
    names = {path.name for path in output.iterdir()}
    assert {"config.yaml", "environment.json", "metrics.jsonl", "checkpoints", "tensorboard"} <= names
    assert [path.name for path in list_checkpoints(output)] == ["step-00000012.safetensors"]
    assert list((output / "tensorboard").glob("events*"))
    assert json.loads((output / "environment.json").read_text())["packages"]["torch"]


def test_local_crops_have_their_own_losses(tmp_path: Path) -> None:
    output = tmp_path / "run"
    options = {"views.num_local_crops": 2, "views.local_size": 14, "method.num_mix": 3, "max_steps": 2}
    pretrain(small_config(output, **options))
    record = result_of(output)[1][-1]
    total = record["loss_origin_to_origin"] + (record["loss_mix_to_origin"] + record["loss_mix_to_mix"]) / 2
    assert record["loss"] == pytest.approx(total + record["loss_local"] + record["loss_local_mix"], rel=1e-5)


def test_an_existing_run_needs_resume_or_another_name(tmp_path: Path) -> None:
    output = tmp_path / "run"
    pretrain(small_config(output, max_steps=1))
    with pytest.raises(UserError, match="holds a run already: add --resume"):
        pretrain(small_config(output))


def test_foreign_files_are_never_written_among(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds other files \(thesis.tex\)"):
        pretrain(small_config(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_resume_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no run"):
        pretrain(small_config(tmp_path / "run"), resume=True)
    assert not (tmp_path / "run").exists()


def test_a_file_in_the_place_of_the_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(UserError, match="is a file"):
        pretrain(small_config(tmp_path / "run"))


def test_two_processes_do_not_write_into_one_run(tmp_path: Path) -> None:
    output = tmp_path / "run"
    process = start_pretraining(output, **{"optim.epochs": 2000})
    try:
        wait_for_step(process, output, 3)  # after its first checkpoint
        with pytest.raises(UserError, match="another process is at work"):
            pretrain(small_config(output, **{"optim.epochs": 2000}), resume=True)
    finally:
        stop(process, signal.SIGKILL)


def test_a_non_finite_loss_names_the_step_and_the_last_good_checkpoint(tmp_path: Path) -> None:
    output = tmp_path / "run"
    with pytest.raises(RunError, match="is not finite") as error:
        pretrain(small_config(output, **{"optim.lr": 1e30, "run.checkpoint_every_steps": 1}))
    saved, metrics = result_of(output)
    assert str(saved.path) in str(error.value)
    assert "optim.lr" in str(error.value)
    assert all(tensor.isfinite().all() for tensor in saved.model_tensors().values())
    assert saved.step < max(record["step"] for record in metrics)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"optim.batch_size": 128}, "more than the 96 training images"),
        ({"data.limit": 1, "optim.batch_size": 2}, "at least two"),
        ({"model.patch_size": 32}, "do not divide into patches of model.patch_size = 32 px"),
        ({"model.patch_size": 5}, "do not divide into patches of model.patch_size = 5 px"),
        ({"method.num_mix": 17}, "method.num_mix = 17 is more than the 16 patches"),
        ({"method.mix_size": 10}, "method.mix_size = 10 is not a multiple"),
        ({"views.num_local_crops": 1, "views.local_size": 15}, "views.local_size = 15"),
        ({"model.name": "vit_huge"}, "model.name = 'vit_huge'"),
        ({"model.name": "resnet18"}, "no plain Vision Transformer"),
        ({"run.device": "cuda"}, "no CUDA device"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_written(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    import torch

    if options.get("run.device") == "cuda" and torch.cuda.is_available():
        pytest.skip("this machine has a CUDA device")
    with pytest.raises(UserError) as error:
        pretrain(small_config(tmp_path / "run", **options))
    assert words in str(error.value)
    assert not (tmp_path / "run").exists()


def test_a_batch_of_one_image_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"optim.batch_size = 1 is not accepted: at least 2 images per process"):
        small_config(tmp_path / "run", **{"optim.batch_size": 1})


def test_a_gradient_that_is_not_finite_is_never_saved(tmp_path: Path) -> None:
    """Weights so large that the loss is finite and its gradient is not."""
    output = tmp_path / "run"
    options = {"run.checkpoint_every_steps": 1, "method.temperature": 1e-30}
    with pytest.raises(RunError, match="loss or gradient of step 1 is not finite; there is no checkpoint yet"):
        pretrain(small_config(output, **options))
    assert list_checkpoints(output) == []


def test_a_warm_up_longer_than_the_run_is_shortened_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    pretrain(small_config(output, **{"optim.warmup_epochs": 100}))
    assert "shortened to half the run" in " ".join(capsys.readouterr().out.split())
    assert max(record["lr"] for record in result_of(output)[1] if "lr" in record) == pytest.approx(0.02 * 32 / 256)


def test_any_timm_vit_trains(tmp_path: Path) -> None:
    options = {"model.name": "vit_tiny_patch16_224", "model.patch_size": 14, "model.pooling": "avg", "max_steps": 1}
    assert pretrain(small_config(tmp_path / "run", **options)).step == 1


def test_a_full_disk_is_one_line_and_leaves_whole_checkpoints(tmp_path: Path) -> None:
    """On a real file system of 1 MiB, where this process may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("this process may not mount a file system")
    try:
        line = command("pretrain", "--recipe", "demo", "--output", disk / "run", **SMALL)
        ended = subprocess.run([*line, "--run.keep_checkpoints=50"], capture_output=True, text=True)
        assert ended.returncode == 1
        assert ended.stderr.startswith("patchmix: error:")
        assert ended.stderr.count("\n") == 1
        assert "disk is full" in ended.stderr or "No space left" in ended.stderr
        checkpoints = list((disk / "run" / "checkpoints").iterdir())
        assert all(path.suffix == ".safetensors" and not path.name.startswith(".") for path in checkpoints)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_learning_rate_schedule_is_independent_of_max_steps(tmp_path: Path) -> None:
    output = tmp_path / "run"
    pretrain(small_config(output, max_steps=6))
    last = [record for record in result_of(output)[1] if "loss" in record][-1]
    assert last["step"] == 6
    assert math.isclose(last["lr"], 0.0025 * 5 / 6, rel_tol=1e-9)  # half of 12 steps is warm-up, from 0


def test_a_start_that_failed_before_its_first_step_may_be_begun_anew(tmp_path: Path) -> None:
    output = tmp_path / "run"
    pretrain(small_config(output, max_steps=1))
    for path in (*list_checkpoints(output), output / "metrics.jsonl"):
        path.unlink()
    assert pretrain(small_config(output, max_steps=2, seed=1)).step == 2
    assert [record["step"] for record in result_of(output)[1] if "loss" in record] == [1, 2]


def test_a_log_ends_with_the_last_step_and_what_to_do_next(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "run"
    pretrain(small_config(output, max_steps=2))
    *_, last, saved = capsys.readouterr().out.splitlines()
    assert last.startswith("100 %  step 2/2")
    assert saved.startswith(f"Saved step 2 in {output}/checkpoints. Next: ")
