"""`finetune` from a checkpoint to the result file, what goes on after an interruption, and what it refuses."""

from __future__ import annotations

import io
import json
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.runs import command, stop

from patchmix import checkpoint
from patchmix.config import DataConfig, EvalRunConfig, FinetuneConfig, KnnConfig
from patchmix.errors import SaidElsewhereError, UserError
from patchmix.evaluation import tuning
from patchmix.evaluation.finetune import finetune
from patchmix.evaluation.knn import knn
from patchmix.models.loading import resolve_encoder
from patchmix.models.vit import create_vit

RESULT, WORK = Path("results") / "finetune.json", Path("results") / "finetune"


@pytest.fixture
def tuned(run: Path, folder: Path, tmp_path: Path) -> Callable[..., tuple[dict[str, Any], str]]:
    def start(output: str = "out", **options: Any) -> tuple[dict[str, Any], str]:
        text = io.StringIO()
        given = {
            "checkpoint": str(run),
            "data": DataConfig(name="folder", root=str(folder), num_workers=0, **options.pop("images", {})),
            "run": EvalRunConfig(device="cpu", num_threads=1),
            "output": str(tmp_path / output),
            "epochs": 2,
            "batch_size": 16,
            **options,
        }
        return finetune(FinetuneConfig(**given), Console(file=text, width=40)), text.getvalue()

    return start


def state(directory: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    found, _ = checkpoint.newest_whole(directory / WORK)
    assert found is not None
    return found.tensors, (directory / WORK / "metrics.jsonl").read_text().splitlines()


def assert_same_work(first: Path, second: Path) -> None:
    (one, lines_of_one), (two, lines_of_two) = state(first), state(second)
    assert one.keys() == two.keys()
    assert [name for name in one if not one[name].equal(two[name])] == []
    assert lines_of_one == lines_of_two


def test_every_figure_is_written(tuned, tmp_path: Path) -> None:
    result, text = tuned()
    assert json.loads((tmp_path / "out" / RESULT).read_text(encoding="utf-8")) == json.loads(json.dumps(result))
    assert set(result["metrics"]) == set(result["intervals"]) == {"top1", "top5", "top1_ema", "top5_ema"}
    assert result["metrics"]["top5"] == 100
    assert result["classification"]["num_images"] == result["data"]["num_test"] == 20
    assert result["settings"]["plan"]["augmentation"] == "pad"
    assert result["settings"]["plan"]["total_steps"] == 6
    records = [json.loads(line) for line in (tmp_path / "out" / WORK / "metrics.jsonl").read_text().splitlines()]
    assert [each["step"] for each in records] == [1, 2, 3, 4, 5, 6]
    assert [path.name for path in checkpoint.list_checkpoints(tmp_path / "out" / WORK)] == ["step-00000006.safetensors"]
    assert "The moving average of the weights reaches back 25,000 steps, further than these 6" in text
    assert "trained network" in text


def test_without_a_moving_average_there_are_no_figures_of_it(tuned) -> None:
    result, text = tuned(ema_decay=0.0)
    assert set(result["metrics"]) == {"top1", "top5"}
    assert "moving average" not in text


def test_the_trained_network_is_a_checkpoint_for_other_evaluations(tuned, folder: Path, tmp_path: Path) -> None:
    tuned()
    path = tmp_path / "out" / WORK / "model.safetensors"
    loaded = resolve_encoder(path)
    assert loaded.description.endswith("2 heads, its classifier left out")
    trained, _ = state(tmp_path / "out")
    for name, value in loaded.encoder.state_dict().items():
        assert value.equal(trained[f"network.{name}"])
    data = DataConfig(name="folder", root=str(folder), num_workers=0)
    result = knn(KnnConfig(checkpoint=str(path), data=data, baselines=False, k=(5,)), Console(file=io.StringIO()))
    assert result["settings"]["loaded"] == loaded.description
    assert "top1_k5" in result["metrics"]


def test_training_at_another_size_keeps_a_file_that_loads(tuned, tmp_path: Path) -> None:
    tuned(images={"image_size": 24})
    loaded = resolve_encoder(tmp_path / "out" / WORK / "model.safetensors")
    assert loaded.spec.image_size == (16, 16)


@pytest.mark.parametrize("steps", [1, 3, 5])
def test_a_run_that_a_signal_stopped_goes_on_bit_identically(tuned, tmp_path: Path, monkeypatch, steps: int) -> None:
    whole, _ = tuned("whole")
    real = tuning.Tuner.step

    def stopping(self: tuning.Tuner, step: int, batch: Any) -> torch.Tensor:
        if step == steps:
            signal.raise_signal(signal.SIGTERM)
        return real(self, step, batch)

    monkeypatch.setattr(tuning.Tuner, "step", stopping)
    with pytest.raises(SaidElsewhereError) as stopped:
        tuned("parts")
    assert stopped.value.exit_code == 143
    assert not (tmp_path / "parts" / RESULT).exists()
    monkeypatch.undo()
    result, text = tuned("parts", resume=True)
    assert f"Going on after step {steps}." in text
    assert result["metrics"] == whole["metrics"]
    assert_same_work(tmp_path / "whole", tmp_path / "parts")


def interrupted_after(words: list[str], metrics: Path, num_lines: int) -> str:
    """What a command prints that gets SIGINT once metrics.jsonl has more lines than that."""
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while process.poll() is None and (not metrics.exists() or len(metrics.read_text().splitlines()) <= num_lines):
        time.sleep(0.005)
    assert process.poll() is None, process.communicate()
    code, out, err = stop(process, signal.SIGINT)
    assert (code, err) == (130, "")
    return out


@pytest.mark.slow
def test_ctrl_c_saves_and_says_a_command_that_goes_on(run: Path, folder: Path, tmp_path: Path) -> None:
    metrics = tmp_path / "cut off" / WORK / "metrics.jsonl"
    options = {
        "output": str(tmp_path / "cut off"),
        "epochs": 200,
        "batch_size": 16,
        "data.name": "folder",
        "data.root": str(folder),
        "data.num_workers": 1,
        "run.num_threads": 1,
        "run.device": "cpu",
        "mixup": 0.0,
        "freeze": True,
    }
    file = checkpoint.list_checkpoints(run)[0]
    out = interrupted_after(command("finetune", "--checkpoint", file, **options), metrics, 0)
    assert "Stopped by SIGINT after step" in out
    words = shlex.split(out.rpartition("Go on with: ")[2])
    assert words[-1] == "--resume"
    step = len(metrics.read_text().splitlines())
    again = interrupted_after(command(*words[1:]), metrics, step)
    assert f"Going on after step {step:,}." in again
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines()]
    assert steps == list(range(1, len(steps) + 1))


def test_work_that_is_there_is_kept_unless_told_otherwise(tuned, tmp_path: Path) -> None:
    tuned()
    with pytest.raises(UserError, match=r"holds work of finetune already: add --resume to go on .* --overwrite"):
        tuned()
    foreign = tmp_path / "out" / WORK / "notes.txt"
    foreign.write_text("mine")
    result, _ = tuned(epochs=1, overwrite=True)
    assert result["settings"]["epochs"] == 1
    assert len((tmp_path / "out" / WORK / "metrics.jsonl").read_text().splitlines()) == 3
    assert foreign.read_text() == "mine"


def test_resume_needs_the_same_settings_images_and_weights(
    tuned, tmp_path: Path, run: Path, folder: Path, spec
) -> None:
    with pytest.raises(UserError, match=r"nothing to resume: .* holds no work of finetune; leave --resume out"):
        tuned(resume=True)
    tuned()
    with pytest.raises(UserError, match=r"other settings \(epochs 2 → 3, mixup 0\.8 → 0\.0\): give the same"):
        tuned(resume=True, epochs=3, mixup=0.0)
    (folder / "train" / "left" / "000.png").unlink()
    with pytest.raises(UserError, match=r"begun with other settings \(train '\w+' → '\w+'\)"):
        tuned(resume=True)
    tuned(overwrite=True)
    tensors = {f"encoder.{name}": value for name, value in create_vit(spec).state_dict().items()}
    checkpoint.write(checkpoint.checkpoint_path(run, 4), tensors, {"step": 4, "encoder": spec.to_dict()})
    with pytest.raises(UserError, match=r"begun with other settings \(encoder\.weights"):
        tuned(resume=True)


def test_a_damaged_checkpoint_is_passed_over(tuned, tmp_path: Path) -> None:
    tuned("whole")
    tuned()
    directory = tmp_path / "out" / WORK
    (newest,) = checkpoint.list_checkpoints(directory)
    newest.write_bytes(newest.read_bytes()[:500])
    _, text = tuned(resume=True)
    assert "is passed over" in text
    assert "has no whole checkpoint: beginning at step 0." in text
    assert_same_work(tmp_path / "whole", tmp_path / "out")


def test_another_process_at_the_same_work_is_refused(tuned, tmp_path: Path) -> None:
    tuned()
    lock = tmp_path / "out" / WORK / ".lock"
    code = f"import fcntl,sys;f=open({str(lock)!r},'a');fcntl.lockf(f,fcntl.LOCK_EX);print('held',flush=True);input()"
    holder = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    for options in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(UserError, match="another process is at work in"):
            tuned(**options)
    holder.communicate("\n")


def test_from_scratch_takes_the_architecture_alone(tuned, run: Path, encoder) -> None:
    result, text = tuned(checkpoint="none", architecture=str(run))
    assert result["checkpoint"] == "none"
    assert f"From scratch, {run}, 2 epochs" in text
    assert f"untrained, the architecture of {run}." in text
    first, _ = tuned("second", checkpoint="none", architecture=str(run))
    assert first["metrics"] == result["metrics"]


def test_from_scratch_of_timms_models_needs_no_pretrained_weights(tuned) -> None:
    result, _ = tuned(checkpoint="none", architecture="timm:test_resnet", images={"image_size": 32}, epochs=1)
    assert result["settings"]["encoder"]["name"] == "test_resnet"


def test_from_scratch_needs_an_architecture(tuned, run: Path) -> None:
    with pytest.raises(UserError, match="architecture = null is not accepted"):
        tuned(checkpoint="none")
    with pytest.raises(UserError, match=r"architecture = .* is not accepted"):
        tuned(architecture=str(run))
    with pytest.raises(UserError, match="timm has no such model"):
        tuned(checkpoint="none", architecture="timm:vit_tinny")


def test_unreadable_images_are_named(tuned, folder: Path) -> None:
    (folder / "train" / "left" / "000.png").write_bytes(b"no image")
    (folder / "test" / "left" / "000.png").write_bytes(b"no image")
    result, text = tuned()
    assert [[Path(path).name for path, _ in result["skipped"][split]] for split in ("train", "test")] == [
        ["000.png"],
        ["000.png"],
    ]
    assert result["classification"]["num_images"] == 19
    assert text.count("cannot be read; the first:") == 2


def test_classes_and_labels_are_needed(tuned, folder: Path) -> None:
    (folder / "test" / "top").rename(folder / "test" / "bottom")
    with pytest.raises(UserError, match=r"differ, only in train: top; only in test: bottom"):
        tuned()
    (folder / "test" / "bottom").rename(folder / "test" / "top")
    (folder / "test").rename(folder.parent / "gone")
    with pytest.raises(UserError, match=r"no test images: finetune needs train/<class>/"):
        tuned()


def test_one_class_is_refused(tuned, folder: Path) -> None:
    for split in ("train", "test"):
        shutil.rmtree(folder / split / "top")
    with pytest.raises(UserError, match=r"no labels: finetune needs|one class only"):
        tuned()


def test_sizes_that_the_patches_do_not_divide_are_refused(tuned) -> None:
    with pytest.raises(UserError, match=r"data\.image_size = 20 is no multiple of the encoder's patch, 8"):
        tuned(images={"image_size": 20})


def test_the_state_of_the_work_is_no_encoder(tuned, tmp_path: Path) -> None:
    tuned()
    (path,) = checkpoint.list_checkpoints(tmp_path / "out" / WORK)
    with pytest.raises(UserError, match=r"holds the state of `finetune`, not an encoder: give the checkpoint"):
        resolve_encoder(path)


def test_a_class_without_a_readable_training_image_is_refused(tuned, folder: Path) -> None:
    for file in (folder / "train" / "left").iterdir():
        file.write_bytes(b"no image")
    with pytest.raises(UserError, match="no training image of class left can be read"):
        tuned()
