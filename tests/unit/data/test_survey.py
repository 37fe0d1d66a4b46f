"""`patchmix data`: what is counted in a folder, printed, and written."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchmix.cli import main
from patchmix.data.duplicates import find_duplicates
from patchmix.data.survey import Sides, survey_folder
from patchmix.errors import UserError


def put(path: Path, seed: int, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, format="jpeg" if path.suffix == ".jpg" else "png")


@pytest.fixture
def messy(tmp_path: Path) -> Path:
    """Two splits of two classes; a damaged file, a copy in the same split and one in the other."""
    root = tmp_path / "messy"
    for number in range(4):
        put(root / f"train/ant/{number}.jpg", number)
        put(root / f"train/bee/{number}.png", 10 + number, (100, 20))
    put(root / "test/ant/new.jpg", 99)
    put(root / "test/bee/other.jpg", 98)
    shutil.copy(root / "train/ant/0.jpg", root / "train/bee/copy.jpg")
    shutil.copy(root / "train/ant/1.jpg", root / "test/ant/seen.jpg")
    whole = (root / "train/bee/3.png").read_bytes()
    (root / "train/bee/3.png").write_bytes(whole[: len(whole) // 2])
    (root / "train/notes.txt").write_text("not an image")
    return root


def test_a_folder_is_counted(messy: Path) -> None:
    survey = survey_folder(messy)
    assert (survey.num_images, survey.num_looked_at, survey.num_decoded) == (12, 12, 11)
    assert survey.splits["train"].classes == {"ant": 4, "bee": 5}
    assert survey.splits["train"].left_out == "1 other file (1 .txt)"
    assert survey.splits["test"].num_images == 3
    assert survey.num_bytes == sum(file.stat().st_size for file in messy.rglob("*.[jp][pn]g"))
    assert (survey.kinds, survey.modes) == ({"JPEG": 8, "PNG": 3}, {"RGB": 11})
    assert survey.widths == Sides(40, 40, 100)
    assert survey.shorter_sides == Sides(20, 30, 30)
    assert survey.num_tiny == 11
    assert [path for path, _ in survey.unreadable] == [str(messy / "train/bee/3.png")]
    names = [[os.path.relpath(path, messy) for path in group] for group in survey.duplicates]
    assert names == [["train/ant/0.jpg", "train/bee/copy.jpg"], ["train/ant/1.jpg", "test/ant/seen.jpg"]]
    assert (survey.num_superfluous, survey.num_across_splits) == (2, 1)


def test_of_a_large_folder_a_part_is_looked_at(messy: Path) -> None:
    survey = survey_folder(messy, images=6, decode=2)
    assert (survey.num_images, survey.num_looked_at, survey.num_decoded) == (12, 6, 2)
    with pytest.raises(UserError, match="images = 0 is not accepted"):
        survey_folder(messy, images=0)


def test_files_are_duplicates_only_if_every_byte_is_the_same(tmp_path: Path) -> None:
    contents = [b"a" * 100_000, b"a" * 99_999 + b"b", b"a" * 100_000, b"", b"", b"short", b"shirt", b"short"]
    paths = [str(tmp_path / str(number)) for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        Path(path).write_bytes(content)
    sizes = np.array([len(content) for content in contents])
    assert find_duplicates(paths, sizes) == [[0, 2], [3, 4], [5, 7]]
    Path(paths[2]).unlink()
    assert find_duplicates(paths, sizes) == [[3, 4], [5, 7]]


def test_the_command_prints_what_matters_and_how_to_use_it(messy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", str(messy)]) == 0
    said = capsys.readouterr().out
    for text in (
        "in 2 class folders",
        "ant 4, bee 5",
        "JPEG 8, PNG 3",
        "1 of 12 files cannot be read (8.3 %):",
        "train/bee/3.png: ",
        "2 files repeat others, byte for byte, in 2 groups; 1 group lies in train and test",
    ):
        assert text in said
    line = next(line for line in said.splitlines() if "--data.mean" in line)
    mean, _, std = line.partition("--data.mean ")[2].partition(" --data.std ")
    assert len(mean.split()) == len(std.split()) == 3


def test_the_command_writes_what_it_found(messy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.rename(messy / "train/bee/3.png", os.path.join(os.fsencode(messy), b"train/bee/tab\there\xff.png"))
    output = tmp_path / "deep" / "found"
    assert main(["data", str(messy), "--output", str(output)]) == 0
    capsys.readouterr()
    found = json.loads((output / "survey.json").read_text())
    assert (found["num_images"], found["unreadable"], found["num_across_splits"]) == (12, 1, 1)
    ((path, why),) = [line.split("\t") for line in (output / "unreadable.tsv").read_text().splitlines()]
    assert path.endswith(r"train/bee/tab\there\xff.png")
    assert why
    groups = [line.split("\t")[0] for line in (output / "duplicates.tsv").read_text().splitlines()]
    assert groups == ["1", "1", "2", "2"]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (["data"], "the following arguments are required: folder"),
        (["data", "absent"], "does not exist: give the folder that holds your images"),
        (["data", ".", "--images", "none"], "images = 'none' is not accepted: a whole number"),
        (["data", "empty"], "holds no images: there are no files"),
    ],
)
def test_mistakes_end_with_2_and_a_line(
    line: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    assert main(line) == 2
    assert message in capsys.readouterr().err


def test_values_of_twelve_bits_are_said_to_come_out_dark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    generator = np.random.default_rng(0)
    for number, bits in enumerate((12, 12, 16)):
        pixels = generator.integers(0, 2**bits, (30, 30)).astype(np.uint16)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    put(tmp_path / "night.jpg", 1)
    Image.new("RGB", (20, 20), (3, 3, 3)).save(tmp_path / "black.png")  # dark, but of 8 bits
    assert main(["data", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert (
        "2 images of 5 decoded have values of 12 bits or fewer in 16, and come out dark: multiply the values by 16"
        in (" ".join(said.split()))
    )
    (tmp_path / "0.png").unlink()
    (tmp_path / "1.png").unlink()
    main(["data", str(tmp_path)])
    assert "come out dark" not in capsys.readouterr().out


@pytest.mark.parametrize(("copies", "said_so"), [(6, True), (2, False)])
def test_a_folder_of_copies_is_called_one(
    copies: int, said_so: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(4):
        put(tmp_path / f"{number}.jpg", number)
    for number in range(copies):
        shutil.copy(tmp_path / "0.jpg", tmp_path / f"copy{number}.jpg")
    assert main(["data", str(tmp_path)]) == 0
    expected = "Most of this folder is one image: 7 of 10 files are"
    assert (expected in " ".join(capsys.readouterr().out.split())) == said_so
