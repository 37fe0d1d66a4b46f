"""`patchmix results`: every figure in its place, seeds summed up, the paper's numbers only beside their like."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from tests.recipes import paper

from patchmix.cli import main
from patchmix.errors import UserError
from patchmix.recipes import dump, resolve
from patchmix.reporting.published import NUM_IMAGES, PUBLISHED
from patchmix.reporting.results_table import results

RECIPE, STEPS = "cifar10-vit-tiny", 97 * 800


def write_run(directory: Path, recipe: str = RECIPE, seed: int = 0, **options: Any) -> Path:
    directory.mkdir()
    config = resolve(recipe, None, {"seed": seed, "output": str(directory), **options})
    (directory / "config.yaml").write_text(dump(config))
    (directory / "environment.json").write_text(json.dumps({"recipe": recipe}))
    return directory


def write(
    directory: Path,
    command: str,
    metrics: dict[str, float],
    *,
    name: str | None = None,
    checkpoint: str | None = None,
    data: dict[str, Any] | None = None,
    step: int = STEPS,
    **settings: Any,
) -> Path:
    path = directory / "results" / f"{name or command}.json"
    path.parent.mkdir(exist_ok=True)
    train, test = NUM_IMAGES["cifar10"]
    about = {"name": "cifar10", "num_train": train, "num_test": test, "fingerprint": {"train": "a", "test": "b"}}
    content = {
        "command": command,
        "checkpoint": checkpoint or str(directory),
        "data": {**about, **(data or {})},
        "metrics": metrics,
        "intervals": {key: [value - 1, value + 1] for key, value in metrics.items()},
        "settings": {"seed": 0, "loaded": f"encoder of x, step {step}: 3 of 3 tensors", **settings},
    }
    path.write_text(json.dumps(content))
    return path


def shown(*runs: Path, format: str = "table") -> str:
    text = io.StringIO()
    results([str(run) for run in runs], format, Console(file=text, width=40))
    return text.getvalue()


def line(text: str, label: str) -> list[str]:
    """The cells of a row of the plain table."""
    found = [each for each in text.splitlines() if each.strip().startswith(f"{label}  ")]
    assert len(found) == 1, text
    return [cell for cell in found[0].strip().split("  ") if cell]


def test_published_numbers_are_those_of_the_paper() -> None:
    found = {name: tuple(f"{each:.1f}" for each in dataclasses.astuple(row)) for name, row in PUBLISHED.items()}
    assert found == paper.PUBLISHED


def test_figures_stand_beside_the_published_ones_of_the_recipe(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    write(run, "knn", {"top1_k10": 90.0, "top1_k20": 91.0, "pixels_top1_k20": 35.0})
    write(run, "probe", {"top1": 93.0, "top5": 99.0, "top1_published": 92.5, "holdout_top1": 93.3})
    write(run, "finetune", {"top1": 96.0})
    text = shown(run)
    assert [cell.strip() for cell in line(text, "kNN, k = 20")] == ["kNN, k = 20", "91.0 ± 1.0", "92.9", "10,000"]
    assert "94.4" not in " ".join(line(text, "linear probe"))  # which head was chosen; the paper's was not
    assert "94.4" in " ".join(line(text, "linear probe, the paper's head"))
    assert "93.3" not in text
    assert "97.5" in " ".join(line(text, "fine-tuned"))
    assert len(line(text, "kNN, k = 20: raw pixels")) == 3  # label, figure, images
    assert "published: arXiv:2306.12243" in text
    assert "top1_k10" not in text
    assert "k = 10" not in text


@pytest.mark.parametrize(
    ("options", "result", "why"),
    [
        ({}, {"data": {"num_train": 1000}}, "measured with 1,000 and 10,000 images, published with 50,000 and 10,000"),
        ({}, {"data": {"name": "cifar100"}}, "measured on cifar100, published on cifar10"),
        ({}, {"step": 97}, "measured at step 97 of 77,600"),
        ({}, {"temperature": 0.5}, "evaluated with temperature = 0.5 (protocol: 0.07)"),
        ({}, {"crop_ratio": 0.5}, "evaluated with crop_ratio = 0.5 (protocol: null)"),
        ({}, {"data.image_size": 64}, "evaluated with data.image_size = 64 (protocol: 32)"),
        ({"optim.epochs": 400}, {}, "pre-trained with optim.epochs = 400 (recipe: 800)"),
    ],
)
def test_what_is_not_the_papers_protocol_has_no_published_number_and_says_why(
    tmp_path: Path, options: dict[str, Any], result: dict[str, Any], why: str
) -> None:
    run = write_run(tmp_path / "a", **options)
    path = write(run, "knn", {"top1_k20": 91.0}, **result)
    text = shown(run)
    assert f"{path}: no published number beside it, {why}" in text
    assert "92.9" not in text


def test_seeds_of_one_recipe_have_a_mean_and_a_deviation(tmp_path: Path) -> None:
    runs = []
    for seed, value in enumerate((90.0, 91.0, 95.0)):
        runs.append(write_run(tmp_path / f"seed{seed}", seed=seed))
        write(runs[-1], "knn", {"top1_k20": value, "pixels_top1_k20": 35.0})
    text = shown(*runs)
    assert "92.0 ± 2.6 (n = 3)" in text
    assert "35.0 ± 0.0" not in text
    mean = json.loads(shown(*runs, format="json"))["means"]
    assert [(each["metric"], each["mean"], each["n"]) for each in mean] == [("top1_k20", 92.0, 3)]
    assert mean[0]["standard_deviation"] == pytest.approx(7**0.5)
    assert "(n = " not in shown(runs[0])


def test_runs_of_other_settings_are_not_averaged(tmp_path: Path) -> None:
    one, two = write_run(tmp_path / "one"), write_run(tmp_path / "two", seed=1, **{"optim.epochs": 400})
    again = write_run(tmp_path / "again")
    for run in (one, two, again):
        write(run, "knn", {"top1_k20": 90.0})
    text = shown(one, two, again)
    assert "(n = " not in text
    assert f"runs of recipe {RECIPE} differ in optim.epochs: no mean over those" in text
    assert "again has the seed of another run: it is in no mean" in text


def test_other_protocols_and_other_images_have_rows_of_their_own(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    write(run, "probe", {"top1": 93.0}, fast=False)
    write(run, "probe", {"top1": 92.0}, name="probe-1", fast=True)
    write(run, "probe", {"top1": 60.0}, name="probe-2", data={"name": "cifar100", "fingerprint": {"test": "c"}})
    text = shown(run)
    assert "93.0" in line(text, "linear probe (fast = false)")[1]
    assert "92.0" in line(text, "linear probe (fast = true)")[1]
    assert text.index("cifar100: 50,000 training and 10,000 test images") < text.index("60.0")


def test_trained_from_scratch_is_not_called_fine_tuned(tmp_path: Path) -> None:
    run, folder = write_run(tmp_path / "a"), tmp_path / "out"
    folder.mkdir()
    write(run, "finetune", {"top1": 96.0})
    write(folder, "finetune", {"top1": 80.0}, checkpoint="none", architecture=str(run))
    text = shown(run, folder)
    assert "80.0" in line(text, "trained from scratch")[1]
    assert "96.0" in line(text, "fine-tuned")[1]


def test_a_results_folder_and_a_file_are_taken_too_and_each_once(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    path = write(run, "knn", {"top1_k20": 91.0})
    texts = {shown(run), shown(run / "results"), shown(path), shown(run, path, run / "results")}
    assert len(texts) == 1


def test_damaged_and_foreign_files_are_named_and_the_rest_goes_on(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    path = write(run, "knn", {"top1_k20": 91.0})
    path.with_name("cut.json").write_text('{"command": "pro')
    path.with_name("list.json").write_text("[1, 2]")
    path.with_name("embed.json").write_text(json.dumps({"command": "embed", "metrics": {"num_images": 3.0}}))
    text = shown(run)
    assert "91.0" in text
    assert f"{path.with_name('cut.json')} is left out, it is damaged: " in text
    assert f"{path.with_name('list.json')} is left out: it is no result of an evaluation" in text
    assert "embed" not in text


def test_csv_has_a_line_for_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = write_run(tmp_path / "a|b")
    path = write(run, "knn", {"top1_k10": 90.0, "top1_k20": 91.0})
    assert main(["results", str(run), "--format", "csv"]) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["metric"] for row in rows] == ["top1_k10", "top1_k20"]
    found = {name: rows[1][name] for name in ("run", "value", "low", "high", "num_images", "file", "published")}
    wanted = {"run": str(run), "value": "91.0", "low": "90.0", "high": "92.0", "num_images": "10000", "file": str(path)}
    assert found == {**wanted, "published": "92.9"}


def test_markdown_is_a_table_whatever_the_names(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a|b")
    write(run, "knn", {"top1_k20": 91.0})
    lines = [each for each in shown(run, format="markdown").splitlines() if each.startswith("|")]
    assert len({each.replace("\\|", "").count("|") for each in lines}) == 1
    assert "a\\|b" in lines[0]
    assert "| kNN, k = 20 | 91.0 ± 1.0 | 92.9 | 10,000 |" in lines


def test_nothing_evaluated_says_what_makes_evaluations(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    with pytest.raises(UserError, match=rf"{run} holds no evaluations yet: `patchmix knn --checkpoint {run}`"):
        shown(run)
    write(run, "knn", {"top1_k20": 91.0})
    with pytest.raises(UserError, match=rf"folders in it do: patchmix results {run}"):
        shown(tmp_path)
    with pytest.raises(UserError, match="nowhere does not exist"):
        shown(tmp_path / "nowhere")


@pytest.mark.parametrize("format", ["csv", "json"])
def test_a_recipe_that_is_not_the_papers_is_written_in_every_format(format: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", recipe="demo")
    write(run, "knn", {"top1_k20": 91.0})
    assert "91.0" in shown(run, format=format)


def test_what_is_not_the_protocol_is_said_even_where_all_share_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a")
    write(run, "probe", {"top1": 93.0}, fast=True)
    write(run, "finetune", {"top1": 96.0}, epochs=2)
    text = shown(run)
    assert "93.0" in " ".join(line(text, "linear probe (fast = true)"))
    assert "96.0" in " ".join(line(text, "fine-tuned (epochs = 2)"))
