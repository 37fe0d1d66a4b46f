"""Two gloo processes compute what one process computes, for the same batch and the same mixing groups."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tests.runs import SMALL, command, result_of, small_config

from patchmix.method import build_model
from patchmix.models.spec import EncoderSpec
from patchmix.pretraining import pretrain

SCRIPT = Path(__file__).with_name("two_processes.py")


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """What `two_processes.py` found, in two processes."""
    path = tmp_path_factory.mktemp("answers") / "answers.json"
    subprocess.run([sys.executable, str(SCRIPT), str(path)], check=True, timeout=200)
    found: dict[str, list[float]] = json.loads(path.read_text())
    return found


@pytest.mark.parametrize("name", ["gather", "loss", "highest", "from_first"])
def test_what_processes_share(name: str, answers: dict[str, list[float]]) -> None:
    assert answers[name] == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("name", ["paired_loss", "paired_gradient"])
def test_simclrs_negatives_and_gradients_are_those_of_all_images(name: str, answers: dict[str, list[float]]) -> None:
    assert answers[name] == pytest.approx([0.0, 0.0], abs=1e-12)


OF_BOTH = ("output", "input_gradient", "running_mean", "running_var")
AFFINE = ("affine", "images", "activated")
COMPARED = [f"{kind}_weight_gradient" for kind in AFFINE]
COMPARED += [f"{kind}_{name}" for kind in (*AFFINE, "plain") for name in OF_BOTH]


@pytest.mark.parametrize("name", COMPARED)
def test_batchnorm_equals_one_process_over_all_rows(name: str, answers: dict[str, list[float]]) -> None:
    assert answers[name] == pytest.approx([0.0, 0.0], abs=1e-12)


@pytest.mark.parametrize(
    "momentum", [None, pytest.param(0.9, marks=pytest.mark.slow)], ids=["without_momentum", "momentum_encoder"]
)
def test_two_processes_match_one(momentum: float | None, tmp_path: Path) -> None:
    options = {
        "method.momentum": momentum,
        "method.mix_group": 16,
        "model.drop_path": 0.0,
        "views.num_local_crops": 1,
        "views.local_size": 14,
        "max_steps": 5,
        "run.precision": "32-true",
    }
    one, two = tmp_path / "one", tmp_path / "two"
    pretrain(small_config(one, **options))
    line = command("pretrain", "--recipe", "demo", "--output", two, **{**SMALL, **options, "run.num_devices": 2})
    ended = subprocess.run(line, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    (first, metrics_of_one), (second, metrics_of_two) = result_of(one), result_of(two)
    for a, b in zip(metrics_of_one, metrics_of_two, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            if not isinstance(value, int | float):
                assert b[name] == value
                continue
            # The order of sums differs, and AdamW's first steps magnify that where a gradient is near 0.
            assert b[name] == pytest.approx(value, rel=2e-3, abs=2e-3), (a["step"], name)
    # Parameters: how far apart they are, as a share of how far they have come. Without those that the loss does
    # not depend on (tests/golden/test_parity.py), which AdamW moves by the signs of rounding errors.
    before = build_model(small_config(one, **options), EncoderSpec.from_dict(first.metadata["encoder"])).state_dict()
    apart = come = 0.0
    for name, value in first.model_tensors().items():
        if "running" not in name and "num_batches" not in name and not name.endswith(("qkv.bias", "encoder.norm.bias")):
            apart += (second.tensors[name] - value).square().sum().item()
            come += (value - before[name]).square().sum().item()
    assert come > 0
    assert (apart / come) ** 0.5 < 0.05


@pytest.mark.slow
def test_two_processes_match_one_with_batchnorm_in_the_encoder(tmp_path: Path) -> None:
    options = {
        **{f"model.{name}": None for name in ("patch_size", "width", "depth", "num_heads", "position_std")},
        "model.name": "resnetv2_18d",
        "model.drop_path": 0.0,
        "method.momentum": 0.9,
        "method.mix_group": 16,
        "max_steps": 2,
        "run.precision": "32-true",
        "run.eval_every_epochs": 0,
    }
    one, two = tmp_path / "one", tmp_path / "two"
    pretrain(small_config(one, **options))
    line = command("pretrain", "--recipe", "demo", "--output", two, **{**SMALL, **options, "run.num_devices": 2})
    ended = subprocess.run(line, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 0, ended.stderr
    (first, metrics_of_one), (second, metrics_of_two) = result_of(one), result_of(two)
    for a, b in zip(metrics_of_one, metrics_of_two, strict=True):
        for name in ("loss", "loss_origin_to_origin", "loss_mix_to_origin", "loss_mix_to_mix", "grad_norm"):
            assert b[name] == pytest.approx(a[name], rel=1e-4), (a["step"], name)
    statistics = [name for name in first.model_tensors() if "running" in name and "encoder" in name]
    assert statistics
    for name in statistics:
        torch.testing.assert_close(second.tensors[name], first.tensors[name], rtol=1e-3, atol=1e-5)


def test_an_error_of_two_processes_is_said_once(tmp_path: Path) -> None:
    options = {**SMALL, "run.num_devices": 2}
    (tmp_path / "notes.txt").write_text("mine")
    line = command("pretrain", "--recipe", "demo", "--output", tmp_path, **options)
    ended = subprocess.run(line, capture_output=True, text=True, timeout=200)
    assert ended.returncode == 2
    assert ended.stderr.count("holds other files") == 1
    assert "Traceback" not in ended.stderr
