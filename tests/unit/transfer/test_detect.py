"""`detect` from a checkpoint to the result file, what goes on after an interruption, and what it refuses."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.models import small_spec
from tests.unit.transfer.coco_files import annotation, content, put

from patchmix import checkpoint, cli
from patchmix.config import Config, to_dict
from patchmix.config.detection import DetectConfig, DetectDataConfig, DetectRunConfig
from patchmix.errors import SaidElsewhereError, UserError
from patchmix.models.vit import create_vit
from patchmix.transfer.annotations import read_annotations
from patchmix.transfer.coco_results import read_results
from patchmix.transfer.detect import detect
from patchmix.transfer.detection_training import DetectionTrainer, learning_rate, make_plan, pyramid_scales
from patchmix.transfer.scoring import score_records

WORK = Path("results") / "detect"
Detect = Callable[..., tuple[dict[str, Any], str]]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spec = small_spec()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tensors = {f"encoder.{name}": value for name, value in create_vit(spec).state_dict().items()}
    path = tmp_path_factory.mktemp("encoder") / "encoder.safetensors"
    checkpoint.write(path, tensors, {"step": 1, "encoder": spec.to_dict(), "config": to_dict(Config())})
    return path


@pytest.fixture
def detected(encoder: Path, tmp_path: Path) -> Detect:
    file, images = put(tmp_path, content(annotation(1), annotation(2, 2, category_id=7), annotation(3, 3)))

    def start(output: str = "out", data: dict[str, Any] | None = None, **options: Any) -> tuple[dict[str, Any], str]:
        text = io.StringIO()
        where = {"train": str(images), "train_annotations": str(file), "val": str(images), "val_annotations": str(file)}
        given = {
            "checkpoint": str(encoder),
            "output": str(tmp_path / output),
            "data": DetectDataConfig(num_workers=0, **{**where, **(data or {})}),
            "run": DetectRunConfig(device="cpu", precision="32-true", num_threads=1),
            "epochs": 2,
            "batch_size": 2,
            "image_size": 32,
            "channels": 16,
            "regions": 32,
            "window": 4,
            **options,
        }
        return detect(DetectConfig(**given), Console(file=text, width=40)), text.getvalue()

    return start


def state(directory: Path) -> tuple[dict[str, torch.Tensor], list[str]]:
    found, _ = checkpoint.newest_whole(directory / WORK)
    assert found is not None
    return found.tensors, (directory / WORK / "metrics.jsonl").read_text().splitlines()


def test_every_figure_is_written_and_follows_from_the_predictions(detected: Detect, tmp_path: Path) -> None:
    result, text = detected()
    assert json.loads((tmp_path / "out" / "results" / "detect.json").read_text()) == json.loads(json.dumps(result))
    assert {"box_ap", "box_ap50", "mask_ap", "mask_ap50"} <= set(result["metrics"])
    assert result["data"]["categories"] == ["cat", "dog"]
    val = read_annotations(tmp_path / "objects.json", tmp_path / "images", name="val")
    records = read_results(tmp_path / "out" / WORK / "predictions.json", val)
    assert score_records(records, val, masks=True).metrics() == result["metrics"]
    pictures = sorted(path.name for path in (tmp_path / "out" / WORK).glob("*.png"))
    assert pictures == ["curves.png", "overlay-1.png", "overlay-2.png", "overlay-3.png"]
    lines = [json.loads(line) for line in state(tmp_path / "out")[1]]
    assert [each["step"] for each in lines] == [1, 2, 3, 4]
    parts = {"loss_classifier", "loss_box_reg", "loss_mask", "loss_objectness", "loss_rpn_box_reg"}
    assert sum(lines[0][name] for name in parts) == pytest.approx(lines[0]["loss"], rel=1e-5)
    assert "3 training images with 3 objects of 2 categories" in text


def test_boxes_alone_need_no_segmentation(detected: Detect, tmp_path: Path) -> None:
    put(tmp_path, content(*(annotation(number, number, segmentation=None) for number in (1, 2, 3))))
    with pytest.raises(UserError, match=r"masks"):
        detected()
    result, _ = detected(masks=False, epochs=1)
    assert not any(name.startswith("mask") for name in result["metrics"])
    assert "box_ap" in result["metrics"]


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_what_a_signal_stopped_goes_on_bit_identically(
    detected: Detect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    whole, _ = detected("whole")
    real = DetectionTrainer.step

    def step_and_signal(self: DetectionTrainer, step: int, *batch: Any) -> Any:
        if step == steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, step, *batch)

    with monkeypatch.context() as context:
        context.setattr(DetectionTrainer, "step", step_and_signal)
        with pytest.raises(SaidElsewhereError) as stopped:
            detected("stopped")
    assert stopped.value.exit_code == 143
    resumed, text = detected("stopped", resume=True)
    assert f"Going on after step {steps}." in text
    (one, lines_of_one), (two, lines_of_two) = state(tmp_path / "whole"), state(tmp_path / "stopped")
    assert one.keys() == two.keys()
    assert [name for name in one if not one[name].equal(two[name])] == []
    assert lines_of_one == lines_of_two
    assert resumed["metrics"] == whole["metrics"]


def test_a_frozen_encoder_stays_as_it_was(detected: Detect, encoder: Path, tmp_path: Path) -> None:
    detected(freeze=True, epochs=1)
    trained, before = state(tmp_path / "out")[0], checkpoint.read(encoder).tensors
    kept = {name: value for name, value in trained.items() if name.startswith("detector.backbone.encoder.")}
    assert kept
    for name, value in kept.items():
        assert value.equal(before[name.removeprefix("detector.backbone.")])


def test_other_work_is_refused(detected: Detect) -> None:
    detected(epochs=1)
    with pytest.raises(UserError, match=r"add --resume to go on with it, --overwrite to begin anew"):
        detected(epochs=1)
    with pytest.raises(UserError, match=r"begun with other settings \(epochs 1 → 3\)"):
        detected(epochs=3, resume=True)


def test_the_plan_follows_device_and_images() -> None:
    config = DetectConfig(checkpoint="x", epochs=10, data=DetectDataConfig(name="digits-scenes"))
    plan = make_plan(config, 90, torch.device("cpu"), 7)
    assert (plan.image_size, plan.batch_size, plan.steps_per_epoch, plan.total_steps) == (96, 4, 23, 230)
    assert plan.warmup_steps == 23
    assert not plan.flip  # mirrored digits are other digits
    rates = [learning_rate(plan, step) for step in range(plan.total_steps)]
    assert max(rates) == pytest.approx(plan.peak)
    assert 0 < rates[-1] < 0.01 * plan.peak
    with pytest.raises(UserError, match=r"plain Vision Transformers only"):
        make_plan(config, 90, torch.device("cpu"), None)


@pytest.mark.parametrize(("patch", "finest"), [(16, 4.0), (8, 4.0), (7, 3.5), (4, 4.0), (2, 4.0)])
def test_the_finest_level_has_a_stride_of_three_pixels_and_more(patch: int, finest: float) -> None:
    scales = pyramid_scales(patch)
    assert patch / scales[0] == finest
    assert [first / second for first, second in itertools.pairwise(scales)] == [2, 2, 2]


MISTAKES = [
    ("", "checkpoint is missing: give --checkpoint RUN, a weights file, timm:MODEL, or none"),
    ("--checkpoint FILE", "data.train = null is not accepted: a folder of images"),
    ("--checkpoint FILE --data.train images", "data.train_annotations = null is not accepted: a JSON file"),
    ("--checkpoint none --data.name digits-scenes", "architecture = null is not accepted"),
    ("--checkpoint nowhere --data.name digits-scenes", "'nowhere': no such run or file"),
    ("--checkpoint FILE --data.name coco2017", "data.name = 'coco2017' is not accepted"),
    ("--checkpoint FILE --data.name digits-scenes --resume --overwrite", "take one of them"),
    ("--checkpoint FILE --data.name digits-scenes --jitter 2 1", "jitter"),
    ("--checkpoint FILE --train images", "detect has no option --train; did you mean --data.train?"),
]


@pytest.mark.parametrize(("line", "message"), MISTAKES)
def test_a_mistake_is_one_line_and_says_how_to_mend_it(
    line: str, message: str, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(["detect", *line.replace("FILE", str(encoder)).split()]) == 2
    out, err = capsys.readouterr()
    assert message in err
    assert (out, err.count("\n")) == ("", 1)
    assert list(tmp_path.iterdir()) == []
