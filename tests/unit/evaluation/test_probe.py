"""`patchmix probe` from a checkpoint to the result file, by the protocol and fast."""

from __future__ import annotations

import io
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from patchmix import checkpoint
from patchmix.config import DataConfig, EvalRunConfig, ProbeConfig
from patchmix.errors import RunError, UserError
from patchmix.evaluation.probe import probe
from patchmix.evaluation.probe_outcome import GridEntry, available, best
from patchmix.evaluation.probe_protocol import learning_rate_share, learning_rates


def run_probe(run: Path, folder: Path, **options: Any) -> tuple[dict[str, Any], str]:
    text = io.StringIO()
    steps = {} if options.get("fast") else {"epochs": 4, "batch_size": 16}
    given = {**steps, "augmentation": "pad", **options}
    data = DataConfig(name="folder", root=str(folder), num_workers=0)
    machine = EvalRunConfig(device="cpu", num_threads=1)
    config = ProbeConfig(checkpoint=str(run), data=data, run=machine, **given)
    return probe(config, Console(file=text, width=100)), text.getvalue()


def test_the_protocol_reports_a_chosen_head_and_the_whole_grid(run: Path, folder: Path) -> None:
    result, text = run_probe(run, folder)
    assert json.loads((run / "results" / "probe.json").read_text()) == json.loads(json.dumps(result))
    assert len(result["grid"]) == 4 * 7
    assert {each["pooling"] for each in result["grid"]} == {"token", "mean", "both", "last4"}
    highest = max(each["holdout_top1"] for each in result["grid"])
    assert result["chosen"] in result["grid"]
    assert result["chosen"]["holdout_top1"] == result["metrics"]["holdout_top1"] == highest
    assert {"top1", "top5", "top1_published", "top5_published"} <= set(result["metrics"])
    low, high = result["intervals"]["top1"]
    assert low <= result["metrics"]["top1"] <= high
    matrix = result["classification"]["confusion_matrix"]
    assert result["classification"]["num_images"] == sum(map(sum, matrix)) == 20
    assert 100 * (matrix[0][0] + matrix[1][1]) / 20 == pytest.approx(result["metrics"]["top1"])
    assert result["settings"]["num_held_out"] == 4
    assert "* is reported" in text
    assert f"Written to {run / 'results' / 'probe.json'}" in text


def test_test_images_choose_nothing(run: Path, folder: Path, tmp_path: Path) -> None:
    expected, _ = run_probe(run, folder)
    swapped = tmp_path / "swapped"
    shutil.copytree(folder, swapped)
    (swapped / "test" / "left").rename(swapped / "test" / "x")
    (swapped / "test" / "top").rename(swapped / "test" / "left")
    (swapped / "test" / "x").rename(swapped / "test" / "top")
    found, _ = run_probe(run, swapped, output=str(tmp_path / "out"))
    assert found["grid"] == expected["grid"]
    assert found["chosen"] == expected["chosen"]
    assert found["metrics"]["top1"] == pytest.approx(100 - expected["metrics"]["top1"])


def test_fast_measures_the_baselines_too(run: Path, folder: Path) -> None:
    result, text = run_probe(run, folder, fast=True, copies=2, penalties=(0.1, 10.0))
    names = {f"{prefix}top{k}" for prefix in ("", "random_init_", "pixels_") for k in (1, 5)}
    assert set(result["intervals"]) == names
    assert result["metrics"]["pixels_top1"] == 100
    assert {(each["pooling"], each["C"]) for each in result["grid"]} == {
        (pooling, penalty) for pooling in ("token", "mean", "both", "last4") for penalty in (0.1, 10.0)
    }
    assert "points" in text
    assert "unconverged_fits" in result["settings"]


def test_fast_without_copies_equals_scikit_learn(run: Path, folder: Path) -> None:
    from sklearn.linear_model import LogisticRegression

    from patchmix.data.datasets import open_dataset
    from patchmix.evaluation.features import extract
    from patchmix.evaluation.logistic import equalise
    from patchmix.evaluation.pooling import ProbeEncoder
    from patchmix.models.loading import resolve_encoder

    options: dict[str, Any] = {"copies": 0, "penalties": (1.0,), "poolings": ("token",), "baselines": False}
    result, _ = run_probe(run, folder, fast=True, **options)
    loaded = resolve_encoder(run)
    splits = [open_dataset(DataConfig(root=str(folder), channels=1), split) for split in ("train", "test")]
    encoder = ProbeEncoder(loaded.encoder, loaded.spec)
    train, test = (extract(encoder, source, loaded.spec) for source in splits)
    part = encoder.slices["token"]
    features, held_back = equalise(train.features[:, part], test.features[:, part])
    model = LogisticRegression(C=1.0, tol=1e-8, max_iter=2000).fit(features.numpy(), train.labels)
    assert result["metrics"]["top1"] == pytest.approx(100 * model.score(held_back.numpy(), test.labels))


def test_an_interrupted_probe_goes_on_as_if_it_had_not_been(run: Path, folder: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"epochs": 60, "poolings": ("token", "both"), "lr": (0.1, 1.0)}
    whole, _ = run_probe(run, folder, output=str(tmp_path / "whole"), **options)
    file = checkpoint.checkpoint_path(run, 3)
    line = [
        *(sys.executable, "-m", "patchmix", "probe", "--checkpoint", str(file), "--data.root", str(folder)),
        *("--data.name", "folder", "--data.num_workers", "0", "--run.device", "cpu", "--run.num_threads", "1"),
        *("--epochs", "60", "--batch_size", "16", "--augmentation", "pad", "--poolings", "token", "both"),
        *("--lr", "0.1", "1.0", "--output", str(tmp_path / "parts")),
    ]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    work = tmp_path / "parts" / "results" / "probe"
    deadline = time.monotonic() + 120
    while process.poll() is None and len(checkpoint.list_checkpoints(work)) < 2 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "--resume" in out
    assert not (tmp_path / "parts" / "results" / "probe.json").exists()
    found, text = run_probe(run, folder, output=str(tmp_path / "parts"), resume=True, **options)
    assert "Going on after step" in text
    assert found["grid"] == whole["grid"]
    assert found["metrics"] == whole["metrics"]
    ends = [checkpoint.newest_whole(tmp_path / each / "results" / "probe")[0] for each in ("whole", "parts")]
    assert ends[0] is not None
    assert ends[1] is not None
    assert all(value.equal(ends[1].tensors[name]) for name, value in ends[0].tensors.items())


def test_work_that_is_there_is_neither_lost_nor_mixed(run: Path, folder: Path) -> None:
    run_probe(run, folder)
    with pytest.raises(UserError, match="--resume to go on with it, --overwrite"):
        run_probe(run, folder)
    with pytest.raises(UserError, match=r"begun with other settings .*epochs 4 → 5"):
        run_probe(run, folder, resume=True, epochs=5)
    run_probe(run, folder, overwrite=True, epochs=2)


def test_heads_that_all_diverge_are_an_error(run: Path, folder: Path) -> None:
    with pytest.raises(RunError, match="every head diverged"):
        run_probe(run, folder, lr=(1e41,), epochs=8)


def test_classes_of_one_image_leave_nothing_to_choose_by(run: Path, folder: Path) -> None:
    for name in ("left", "top"):
        for file in sorted((folder / "train" / name).iterdir())[1:]:
            file.unlink()
    for fast in (True, False):
        with pytest.raises(UserError, match="none can be held out"):
            run_probe(run, folder, fast=fast)


def test_the_grid_has_the_published_learning_rate() -> None:
    config = ProbeConfig(checkpoint="x")
    for width, lr in ((192, 0.05), (384, 0.02), (768, 0.01)):
        assert lr in learning_rates(config, width)
    assert learning_rates(ProbeConfig(checkpoint="x", lr=(1.0, 0.1, 1.0)), 192) == (0.1, 1.0)


def test_a_diverged_head_is_never_the_best() -> None:
    grid = [GridEntry("token", 0.1, 40.0), GridEntry("token", 1.0, None), GridEntry("mean", 0.1, 40.0)]
    assert best(grid) == grid[0]


def test_a_network_that_has_no_such_pooling_gets_the_ones_it_has() -> None:
    assert available({"mean": slice(0, 3)}, ("token", "mean")) == {"mean": slice(0, 3)}
    assert available({"default": slice(0, 3)}, ("token", "mean")) == {"default": slice(0, 3)}


def test_learning_rates_do_not_belong_to_the_fast_probe() -> None:
    with pytest.raises(UserError, match=r"lr = .* is not accepted: null with --fast"):
        ProbeConfig(checkpoint="x", fast=True, lr=(0.1,))


@pytest.mark.parametrize("given", [{"resume": True}, {"overwrite": True}, {"batch_size": 16}, {"epochs": 10}])
def test_what_the_fast_probe_has_not_is_refused(given: dict[str, Any]) -> None:
    (name,) = given
    with pytest.raises(UserError, match=rf"{name} = \w+ is not accepted: .*with --fast, which "):
        ProbeConfig(checkpoint="x", fast=True, **given)
    assert getattr(ProbeConfig(checkpoint="x", **given), name) == given[name]
    assert ProbeConfig(checkpoint="x", fast=True).fast


def test_all_unreadable_training_images_are_listed(run: Path, folder: Path) -> None:
    broken = [f"{index:03d}.png" for index in range(0, 12, 2)]
    for name in broken:
        (folder / "train" / "left" / name).write_bytes(b"no image")
    (folder / "test" / "top" / "001.png").write_bytes(b"no image")
    result, text = run_probe(run, folder)
    assert sorted(Path(path).name for path, _ in result["skipped"]["train"]) == broken
    assert [Path(path).name for path, _ in result["skipped"]["test"]] == ["001.png"]
    assert "6 of 40 training images cannot be read and are left out" in text
    assert "1 of 20 test images cannot be read and is left out" in text
    listed = (run / "results" / "probe" / "skipped.tsv").read_text().splitlines()
    assert [line.split("\t") for line in listed] == result["skipped"]["train"]


def test_a_probe_of_a_single_step_learns(run: Path, folder: Path, tmp_path: Path) -> None:
    ends = []
    for lr in (0.1, 1.0):
        output = tmp_path / f"lr-{lr}"
        run_probe(run, folder, epochs=1, batch_size=64, lr=(lr,), poolings=("token",), output=str(output))
        (path,) = checkpoint.list_checkpoints(output / "results" / "probe")
        assert path.name == "step-00000001.safetensors"
        ends.append(checkpoint.read(path).tensors["weight.token"])
    assert not ends[0].equal(ends[1])


def test_the_learning_rate_falls_to_0_unless_there_is_one_step_alone() -> None:
    assert learning_rate_share(1, 1) == 1
    assert [learning_rate_share(step, 3) for step in (1, 2, 3)] == pytest.approx([1, 0.5, 0])
    assert [learning_rate_share(step, 2) for step in (1, 2)] == [1, 0]


@pytest.mark.parametrize("fast", [True, False])
def test_a_class_without_a_readable_training_image_is_refused(fast: bool, run: Path, folder: Path) -> None:
    for file in (folder / "train" / "left").iterdir():
        file.write_bytes(b"no image")
    for options in ({}, {} if fast else {"resume": True}):
        with pytest.raises(UserError, match="no training image of class left can be read"):
            run_probe(run, folder, fast=fast, **options)
