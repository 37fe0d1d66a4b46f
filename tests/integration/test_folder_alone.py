"""`patchmix pretrain --data.root DIR` and nothing else: what a newcomer types first, as a process."""

import json
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
import yaml
from tests.runs import command

from patchmix.recipes import load_recipe

QUICK = {"optim.epochs": 2, "run.num_threads": 1, "data.num_workers": 0, "run.device": "cpu"}


def run(folder: Path, *words: str, **options: object) -> subprocess.CompletedProcess[str]:
    line = command("pretrain", *words, **options)
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def photos(tmp_path_factory, shared_data):
    """The broken files and 40 small photographs, in folders that are no classes."""
    folder = tmp_path_factory.mktemp("work") / "photos"
    with zipfile.ZipFile(shared_data / "broken-images.zip") as archive:
        archive.extractall(folder)
    with zipfile.ZipFile(shared_data / "cifar10-images.zip") as archive:
        names = [name for name in archive.namelist() if name.startswith("cifar10/train/cat/") and name.endswith(".jpg")]
        for name in names[:40]:
            archive.extract(name, folder)
    return folder


def test_a_folder_alone_chooses_trains_and_says_why(photos):
    done = run(photos.parent, **{"data.root": "photos"}, **QUICK)
    assert done.returncode == 0, done.stderr
    assert "70 images, shorter side mostly 32 to 120 px, colour; a CPU with" in done.stdout
    assert "32 images a step (optim.batch_size): at most half of the images" in done.stdout
    assert "optim.epochs)" not in done.stdout  # given, so not chosen
    directory = photos.parent / "runs" / "photos"
    config = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
    assert (config["optim"]["batch_size"], config["optim"]["epochs"]) == (32, 2)
    environment = json.loads((directory / "environment.json").read_text(encoding="utf-8"))
    assert environment["recipe"] == "folder"
    assert "at most half of the images" in environment["choices"]["optim.batch_size"]
    assert len((directory / "skipped.tsv").read_text(encoding="utf-8").splitlines()) >= 6

    # The same words and --resume go on with it, without choosing again.
    again = run(photos.parent, "--resume", **{"data.root": "photos"}, **QUICK | {"optim.epochs": 3})
    assert again.returncode == 0, again.stderr
    assert "Chosen for them" not in again.stdout
    after = json.loads((directory / "environment.json").read_text(encoding="utf-8"))
    assert (after["recipe"], after["choices"]) == ("folder", environment["choices"])


def test_the_printed_config_has_the_choices_and_their_reasons(photos):
    done = run(photos.parent, "--print_config", **{"data.root": "photos", "run.device": "cpu"})
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("# 70 images")
    config = yaml.safe_load(done.stdout)
    assert config["output"] == "runs/photos"
    assert config["method"].items() >= load_recipe("folder")["method"].items()
    assert config["optim"]["lr"] == load_recipe("cifar10-cpu")["optim"]["lr"]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "does not exist"),
        (lambda folder: folder.mkdir(), "no images"),
        (lambda folder: folder.write_text("x"), "is a file"),
    ],
)
def test_a_folder_without_images_is_one_line_and_nothing_is_written(tmp_path, make, message):
    make(tmp_path / "photos")
    done = run(tmp_path, **{"data.root": "photos"})
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_one_image_is_refused_and_two_are_enough(tmp_path, shared_data):
    (tmp_path / "photos").mkdir()
    with zipfile.ZipFile(shared_data / "broken-images.zip") as archive:
        archive.extract("broken-images/good_0.jpg", tmp_path)
    shutil.copy(tmp_path / "broken-images" / "good_0.jpg", tmp_path / "photos" / "0.jpg")
    done = run(tmp_path, **{"data.root": "photos"}, **QUICK)
    assert done.returncode == 2
    assert "there is 1 image" in done.stderr
    shutil.copy(tmp_path / "broken-images" / "good_0.jpg", tmp_path / "photos" / "1.jpg")
    done = run(tmp_path, **{"data.root": "photos"}, **QUICK)
    assert done.returncode == 0, done.stderr


def test_a_config_file_beside_a_folder_does_not_end_the_choosing(photos):
    file = photos.parent / "mine.yaml"
    file.write_text("method: {num_mix: 3}\n", encoding="utf-8")
    done = run(photos.parent, "--config", "mine.yaml", "--print_config", **{"data.root": "photos", "run.device": "cpu"})
    config = yaml.safe_load(done.stdout)
    assert (config["optim"]["batch_size"], config["method"]["num_mix"]) == (32, 3)
    assert config["output"] == "runs/mine"


@pytest.mark.slow
def test_two_processes_choose_alike(photos):
    options = {"data.root": "photos", "output": "runs/two", "run.num_devices": 2}
    done = run(photos.parent, **options, **QUICK)
    assert done.returncode == 0, done.stderr
    assert "32 images a step, 16 in each process (optim.batch_size)" in done.stdout
    assert done.stdout.count("Chosen for them") == 1


def test_a_report_of_a_run_whose_data_is_gone_fetches_nothing(tmp_path, photos):
    (tmp_path / "cifar" / "train").mkdir(parents=True)
    shutil.copytree(photos / "cifar10" / "train" / "cat", tmp_path / "cifar" / "train" / "cat")
    small = {"data.limit": "null", "optim.batch_size": 16, "max_steps": 1, "run.eval_every_epochs": 0}
    begun = run(tmp_path, "--recipe", "cifar10-cpu", "--output", "one", **{"data.root": "cifar"}, **QUICK | small)
    assert begun.returncode == 0, begun.stderr
    shutil.rmtree(tmp_path / "cifar")
    done = subprocess.run(
        command("report", "one"), cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cifar10 is not in cifar any more" in (tmp_path / "one" / "report" / "index.html").read_text(
        encoding="utf-8"
    )
    assert not (tmp_path / "cifar").exists()
