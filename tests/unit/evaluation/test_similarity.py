"""`similarity`: which images are drawn, the command with its picture, and what it refuses."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console
from tests.runs import SMALL, command
from torch import Tensor

import patchmix
from patchmix import checkpoint
from patchmix.config import DataConfig, EvalRunConfig, SimilarityConfig
from patchmix.errors import RunError, UserError
from patchmix.evaluation.similarity import similarity
from patchmix.evaluation.similarity_picture import NUM_KEYS, choose_rows
from patchmix.models.vit import create_vit

NAMES = ("auc", "within_class", "between_class", "gap", "gap_in_sd")
FIRST_BYTES = b"\x89PNG"


@settings(max_examples=50, deadline=None)
@given(labels=st.lists(st.integers(0, 5), min_size=2, max_size=40), queries=st.integers(1, 8), seed=st.integers(0, 99))
def test_queries_are_of_different_classes_and_their_keys_of_both_kinds(
    labels: list[int], queries: int, seed: int
) -> None:
    rows = choose_rows(torch.tensor(labels), queries, seed)
    assert rows == choose_rows(torch.tensor(labels), queries, seed)
    of_query = [labels[row.query] for row in rows]
    repeated = {label for label in labels if labels.count(label) > 1}
    assert of_query == sorted(set(of_query))
    assert len(rows) == min(queries, len(repeated))
    for row, label in zip(rows, of_query, strict=True):
        same = [labels[key] == label for key in row.keys]
        assert row.query not in row.keys
        assert len(set(row.keys)) == len(row.keys) <= NUM_KEYS
        assert same == sorted(same, reverse=True)
        others = [labels[key] for key in row.keys if labels[key] != label]
        assert len(set(others)) == min(len(others), len(set(labels)) - 1)
        assert sum(same) == min(4, labels.count(label) - 1)
        assert len(same) == min(NUM_KEYS, sum(same) + len(labels) - labels.count(label))


def test_other_seeds_choose_other_images() -> None:
    labels = torch.arange(100) % 10
    assert choose_rows(labels, 3, seed=0) != choose_rows(labels, 3, seed=1)


def measured(run: Path, folder: Path, **options: Any) -> tuple[dict[str, Any], str]:
    text = io.StringIO()
    data = DataConfig(name="folder", root=str(folder), num_workers=0)
    machine = EvalRunConfig(device="cpu", num_threads=1)
    config = SimilarityConfig(checkpoint=str(run), data=data, run=machine, **options)
    return similarity(config, Console(file=text)), text.getvalue()


@pytest.fixture
def other_run(tmp_path: Path, spec) -> Path:
    """A run of another seed, without the config of a method."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        encoder = create_vit(spec, drop_path=0.0, position_std=0.3)
    tensors = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    file = checkpoint.checkpoint_path(tmp_path / "other", 3)
    checkpoint.write(file, tensors, {"step": 3, "encoder": spec.to_dict()})
    return file


def test_the_command_writes_every_figure_and_the_picture_into_the_run(run: Path, folder: Path) -> None:
    result, text = measured(run, folder)
    assert json.loads((run / "results" / "similarity.json").read_text(encoding="utf-8")) == result
    names = {f"{prefix}{name}" for prefix in ("", "random_init_", "pixels_") for name in NAMES}
    assert set(result["metrics"]) == set(result["intervals"]) == names
    assert next(iter(result["metrics"])) == "auc"
    assert all(low <= result["metrics"][name] <= high for name, (low, high) in result["intervals"].items())
    # Stripes differ in every pixel; 20 test images have 2 · 45 pairs of one class.
    assert result["metrics"]["pixels_auc"] == 100
    assert result["metrics"]["pixels_within_class"] > 50 > 0 > result["metrics"]["pixels_between_class"]
    assert result["data"]["num_test"] == 20
    assert "20 images, each beside all the others, 2 classes" in text
    assert "raw pixels" in text
    with Image.open(run / "results" / "similarity.png") as picture:
        assert picture.size[0] > 1000
    assert [row["query"]["class"] for row in result["picture"]["rows"]] == ["left", "top"]


def test_the_similarities_drawn_are_those_of_the_features(run: Path, folder: Path, encoder, spec) -> None:
    result, _ = measured(run, folder, baselines=False, num_queries=1)
    (row,) = result["picture"]["rows"]

    def features(path: str) -> Tensor:
        pixels = torch.from_numpy(np.asarray(Image.open(path)).copy())[None, None].float() / 255
        with torch.no_grad():
            return encoder.eval()((pixels - 0.5) / 0.25)

    query = features(row["query"]["path"])
    assert len(row["keys"]) == NUM_KEYS
    for key in row["keys"]:
        expected = torch.nn.functional.cosine_similarity(query, features(key["path"]))
        assert key["similarity"] == {"encoder": pytest.approx(float(expected), abs=1e-5)}
        assert key["class"] == Path(key["path"]).parent.name


def test_an_evaluation_repeats_exactly_and_knows_no_training_images(run: Path, folder: Path) -> None:
    first, _ = measured(run, folder)
    for path in sorted((folder / "train").glob("*/*.png"))[:30:2]:
        path.unlink()
    second, _ = measured(run, folder)
    assert first["metrics"] == second["metrics"]
    assert first["picture"] == second["picture"]


def test_an_encoder_that_has_collapsed_is_measured_and_drawn(run: Path, folder: Path, encoder, spec) -> None:
    tensors = {f"encoder.{name}": value.clone() for name, value in encoder.state_dict().items()}
    tensors["encoder.norm.weight"].zero_()
    tensors["encoder.norm.bias"].fill_(1)
    checkpoint.write(checkpoint.checkpoint_path(run, 4), tensors, {"step": 4, "encoder": spec.to_dict()})
    result, text = measured(run, folder, baselines=False)
    assert set(result["metrics"]) == {"auc", "within_class", "between_class", "gap"}
    assert result["metrics"]["auc"] == 50
    assert "–" in text.splitlines()[2]


def test_other_checkpoints_are_measured_on_the_same_images(run: Path, folder: Path, other_run: Path) -> None:
    alone, _ = measured(other_run, folder, baselines=False, output=str(folder / "alone"))
    result, text = measured(run, folder, beside=(str(other_run),))
    (beside,) = result["beside"]
    assert beside["checkpoint"] == str(other_run)
    assert beside["metrics"] == pytest.approx(alone["metrics"])
    assert beside["intervals"]["auc"] == pytest.approx(alone["intervals"]["auc"])
    for name in NAMES:
        low, high = beside["difference_intervals"][name]
        assert beside["differences"][name] == pytest.approx(result["metrics"][name] - beside["metrics"][name])
        assert low < beside["differences"][name] < high
    assert set(result["picture"]["rows"][0]["keys"][0]["similarity"]) == {"run (patchmix)", beside["title"]}
    assert f"paired) against {beside['title']}" in text


def test_a_copy_beside_differs_by_nothing(run: Path, folder: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "copies" / "run")
    result, text = measured(run, folder, beside=(str(tmp_path / "copies" / "run"),), baselines=False)
    assert set(result["beside"][0]["differences"].values()) == {0}
    assert result["beside"][0]["difference_intervals"]["auc"] == (0, 0)
    assert "+0.0 points (+0.0 to +0.0, paired)" in text
    assert "within the uncertainty" in text


def test_the_other_keeps_its_own_image_size_and_statistics(run: Path, folder: Path, other_run: Path) -> None:
    data = DataConfig(name="folder", root=str(folder), num_workers=0, image_size=24, mean=(0.1,), std=(0.9,))
    config = SimilarityConfig(checkpoint=str(run), data=data, beside=(str(other_run),), baselines=False)
    result = similarity(config, Console(file=io.StringIO()))
    assert result["settings"]["encoder"]["image_size"] == [24, 24]
    own = result["beside"][0]["encoder"]
    assert (own["image_size"], own["mean"], own["std"]) == ([16, 16], [0.5], [0.25])


def test_training_images_can_be_compared_where_there_are_no_test_images(run: Path, folder: Path) -> None:
    with pytest.raises(UserError, match=r"no test images: similarity needs train/<class>"):
        measured(run, folder / "train")
    result, text = measured(run, folder / "train", split="train", baselines=False)
    assert "40 images, each beside all the others" in text
    assert result["settings"]["split"] == "train"


def test_unreadable_images_are_left_out_and_named(run: Path, folder: Path) -> None:
    lost = min((folder / "test").glob("*/*.png"))
    lost.write_bytes(b"no image")
    result, text = measured(run, folder, num_queries=2)
    assert [path for path, _ in result["skipped"]["test"]] == [str(lost)]
    assert result["skipped"]["train"] == []
    assert text.count("1 of 20 test images cannot be read and is left out") == 1
    shown = {image["path"] for row in result["picture"]["rows"] for image in (row["query"], *row["keys"])}
    assert len(shown) > 9
    assert str(lost) not in shown


def test_a_class_of_unreadable_images_leaves_one_kind_of_pairs(run: Path, folder: Path) -> None:
    for path in (folder / "test" / "left").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(
        UserError, match=r"of the test images of folder that can be read \(10\), no two are of one class"
    ):
        measured(run, folder)


def test_class_names_may_be_any(run: Path, folder: Path) -> None:
    for split in ("train", "test"):
        (folder / split / "left").rename(folder / split / "$x_1$ and a name of many letters")
        (folder / split / "top").rename(folder / split / "图像")
    result, _ = measured(run, folder, baselines=False)
    assert (run / "results" / "similarity.png").read_bytes().startswith(FIRST_BYTES)
    assert {row["query"]["class"] for row in result["picture"]["rows"]} == {"$x_1$ and a name of many letters", "图像"}


def test_what_was_measured_is_shown_before_the_disk_turns_out_full(
    run: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = io.StringIO()

    def full(*given: Any, **options: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("patchmix.files.os.fsync", full)
    data = DataConfig(name="folder", root=str(folder), num_workers=0)
    config = SimilarityConfig(checkpoint=str(run), data=data, run=EvalRunConfig(device="cpu", num_threads=1))
    with pytest.raises(RunError, match=r"similarity\.png: No space left"):
        similarity(config, Console(file=text))
    assert "raw pixels" in text.getvalue()
    assert not list((run / "results").iterdir())


@pytest.mark.parametrize(
    ("beside", "message"),
    [
        (("RUN",), "checkpoints other than --checkpoint"),
        (("a", "a"), "at most 4, each once"),
        (("a", "b", "c", "d", "e"), "at most 4, each once"),
    ],
)
def test_what_stands_beside_is_another_checkpoint(beside: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=rf"beside = .*{message}"):
        SimilarityConfig(checkpoint="RUN", beside=beside)


def test_two_steps_of_a_run_are_measured_from_the_command_line_and_from_python(tmp_path: Path) -> None:
    pytest.importorskip("mlxtend")
    run = patchmix.pretrain("demo", output=tmp_path / "run", **{**SMALL, "optim.epochs": 1}).directory
    newest, earlier = checkpoint.list_checkpoints(run)[:2]
    words = command(
        "similarity", "--checkpoint", newest, "--beside", earlier, "--run.num_threads=1", "--run.device=cpu"
    )
    done = subprocess.run(words, capture_output=True, text=True, timeout=240, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"paired) against {earlier}" in done.stdout
    written = json.loads((run / "results" / "similarity.json").read_text(encoding="utf-8"))
    assert 50 < written["metrics"]["pixels_auc"] < 100
    options: dict[str, Any] = {"run": {"num_threads": 1, "device": "cpu"}, "baselines": False}
    found = patchmix.similarity(run, beside=[earlier], output=tmp_path, **options)
    for name in NAMES:
        assert found["metrics"][name] == pytest.approx(written["metrics"][name])
    assert found["beside"][0]["metrics"] == pytest.approx(written["beside"][0]["metrics"])
    assert (tmp_path / "results" / "similarity.png").read_bytes().startswith(FIRST_BYTES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--checkpoint absent --data.name cifar10", "there is no checkpoint absent"),
        ("--checkpoint {foreign} --data.root {folder}", "foreign.pth"),
        ("--checkpoint {run} --data.root {folder} --beside absent", "checkpoint 'absent': no such run or file"),
        ("--checkpoint {run} --data.root {folder}/gone", "gone"),
        ("--checkpoint {run} --data.root {folder}/train/left --split train", "have no labels"),
        ("--checkpoint {run} --data.root {single} --split train", "one folder for each of two or more classes"),
        ("--checkpoint {run} --data.root {folder} --num_queries 0", "num_queries = 0 is not accepted"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    run: Path, folder: Path, tmp_path: Path, words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from patchmix import cli

    torch.save({"weights": torch.zeros(2)}, tmp_path / "foreign.pth")
    (tmp_path / "single").mkdir()
    shutil.copytree(folder / "train" / "left", tmp_path / "single" / "left")
    file = checkpoint.checkpoint_path(run, 3)  # a run without config.yaml is none to the command line
    line = words.format(run=file, folder=folder, foreign=tmp_path / "foreign.pth", single=tmp_path / "single")
    assert cli.main(["similarity", *line.split(), "--run.device", "cpu", "--data.num_workers", "0"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("patchmix: error: ")
    assert err.count("\n") == 1
    assert message in err
