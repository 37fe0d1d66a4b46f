"""The report says what the run's files say, and what they do not say yet."""

from __future__ import annotations

import html
import math
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from pages import page, section, words
from PIL import Image
from run_directories import config, write_knn, write_run

from patchmix.config import Config
from patchmix.errors import UserError
from patchmix.reporting import measured, report


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("images")
    generator = np.random.default_rng(0)
    for number in range(10):
        Image.fromarray(generator.integers(0, 256, (28, 28), dtype=np.uint8)).save(folder / f"{number}.png")
    return str(folder)


def test_a_finished_run_that_learned_is_shown_whole(tmp_path: Path, images: str) -> None:
    run = write_run(tmp_path / "demo", config(images), full=True)
    write_knn(run, 97.0, 60.0, 94.0)
    text = page(run)
    shown = words(text)
    assert "It learned: its features do clearly better than raw pixels and the untrained encoder." in shown
    assert "97.0 ± 1.0 % right; clearly above raw pixels (94.0 ± 1.0 %)" in shown
    assert "kNN among training images went from 65.0 to 80.0 %" in shown
    assert "20 of 20 steps" in shown
    assert f"--optim.epochs {2 * 4}" in shown
    assert "not finished" not in shown
    # the images, their two views, and for M = 2 and M = 3 the mixed view and whose patches it has
    assert text.count("data:image/webp;base64,") == 3 + 2 * 2
    assert text.count("<svg") >= 4 + 3 + 3 + 1


def test_the_page_needs_no_other_file_and_no_network(tmp_path: Path, images: str) -> None:
    run = write_run(tmp_path / "demo", config(images))
    write_knn(run, 97.0, 60.0, 94.0)
    text = page(run)
    for source in re.findall(r'(?:src|href)="([^"]*)"', text):
        assert source.startswith(("data:", "#")), source
    assert "http://" not in text
    assert "https://" not in text
    assert "<script" not in text
    assert not re.search(r"url\((?!#)", text)
    assert "default-src 'none'" in text


def test_every_picture_has_words_for_those_who_do_not_see_it(tmp_path: Path, images: str) -> None:
    text = page(write_run(tmp_path / "demo", config(images)))
    assert all(re.search(r'alt="[^"]{10,}"', tag) for tag in re.findall(r"<img[^>]*>", text))
    figures = re.findall(r"<figure[^>]*>", text)
    assert figures
    assert all(re.search(r'role="img" aria-label="[^"]{10,}"', tag) for tag in figures)


def test_colours_come_from_the_scheme_of_the_reader(tmp_path: Path, images: str) -> None:
    text = page(write_run(tmp_path / "demo", config(images)))
    assert "prefers-color-scheme: dark" in text
    assert "var(--first)" in text
    drawings = "".join(re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL))
    assert not re.search(r"(?:fill|stroke): #", drawings)


def test_hostile_names_are_shown_and_not_obeyed(tmp_path: Path) -> None:
    evil = "<script>alert('x')</script>&\"><img src=x>"
    run = write_run(tmp_path / "a<b>&'c", config(f"/nowhere/{evil}"))
    write_knn(run, 97.0, 60.0, 94.0)
    (run / "results" / "<i>probe.json").write_text('{"metrics": {"<b>top1": 5}, "data": {"name": "<u>"}}')
    (run / "skipped.tsv").write_text(f"photos/{evil}.jpg\tnot <em>an image</em>\n")
    text = page(run)
    for tag in ("<script", "<img src=x", "<em>", "<b>", "<i>", "<u>"):
        assert tag not in text
    shown = words(text)
    assert f"photos/{evil}.jpg" in html.unescape(text)
    assert "a<b>&'c" in html.unescape(text)
    assert "1 file could not be read" in shown


def test_a_run_without_results_is_told_how_to_get_them(tmp_path: Path, images: str) -> None:
    for split in ("train", "test"):
        for name in ("a", "b"):
            shutil.copytree(images, tmp_path / "classes" / split / name)
    shown = words(page(write_run(tmp_path / "my run", config(str(tmp_path / "classes")))))
    assert "not measured on test images yet." in shown
    assert "Nothing has been measured on test images yet." in shown
    assert f"patchmix knn --checkpoint '{tmp_path}/my run'" in shown
    assert "patchmix fewshot" in shown


def test_a_run_on_images_without_labels_is_told_what_can_be_done(tmp_path: Path, images: str) -> None:
    run = write_run(tmp_path / "run", config(images))
    shown = words(page(run))
    assert "Nothing has been measured: the data has no test images with labels." in shown
    assert f"patchmix knn --checkpoint {run} --data.name folder --data.root LABELLED" in shown
    assert "patchmix fewshot" not in shown


def test_an_unfinished_run_says_how_far_it_is_and_how_to_go_on(tmp_path: Path, images: str) -> None:
    shown = words(page(write_run(tmp_path / "demo", config(images), steps=12)))
    assert "The run is not finished: 12 of 20 steps are done." in shown
    assert f"patchmix pretrain --resume --output {tmp_path}/demo" in shown


def test_a_run_before_its_first_step_has_a_page(tmp_path: Path, images: str) -> None:
    run = tmp_path / "demo"
    write_run(run, config(images))
    (run / "metrics.jsonl").unlink()
    shown = words(page(run))
    assert "No step has been logged yet." in shown
    assert "no step has been logged" in shown


def test_a_torn_line_and_a_broken_result_do_not_matter(tmp_path: Path, images: str) -> None:
    run = write_run(tmp_path / "demo", config(images))
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 21, "lo')
    (run / "results").mkdir()
    (run / "results" / "knn.json").write_text('{"metrics": {"top1')
    shown = words(page(run))
    assert "20 of 20 steps" in shown
    assert "results/knn.json is there but cannot be read" in shown


def test_data_that_is_gone_is_said(tmp_path: Path) -> None:
    shown = words(page(write_run(tmp_path / "demo", config(str(tmp_path / "gone")))))
    assert "No picture of views: the training images cannot be read now." in shown
    assert str(tmp_path / "gone") in shown


def test_images_that_cannot_be_read_are_said(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(3):
        (folder / f"{number}.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    shown = words(page(write_run(tmp_path / "demo", config(str(folder)))))
    assert "No picture of views" in shown


def test_a_loss_at_guessing_is_called_so(tmp_path: Path, images: str) -> None:
    shown = words(page(write_run(tmp_path / "demo", config(images), steps=300, loss=math.log(64))))
    assert "Something went wrong in training." in shown
    assert "ln 64 = 4.16" in shown


def test_a_loss_that_is_not_finite_is_called_so(tmp_path: Path, images: str) -> None:
    run = write_run(tmp_path / "demo", config(images), steps=12)
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 13, "epoch": 2, "loss": "nan", "images_per_second": 640.0}\n')
    shown = words(page(run))
    assert "step 13: the loss is not finite" in shown


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text("x"), "is a file"),
        (lambda path: path.mkdir(), "no config.yaml"),
    ],
)
def test_what_is_no_run_is_refused_in_words(tmp_path: Path, make, message: str) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "other"
    make(path)
    with pytest.raises(UserError, match=message):
        report(path)


def test_a_config_that_is_no_config_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text("data: {nmae: folder}")
    with pytest.raises(UserError, match=r"config\.yaml"):
        report(tmp_path)


def test_a_page_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, images: str) -> None:
    run = write_run(tmp_path / "demo", config(images))
    (run / "report").write_text("a file where the folder should be")
    with pytest.raises(UserError, match="cannot be written"):
        report(run)
    assert (run / "report").read_text() == "a file where the folder should be"


def test_the_console_is_told_where_the_page_lies(
    tmp_path: Path, images: str, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Console

    run = write_run(tmp_path / "[demo]", config(images))
    report(str(run), Console())
    assert capsys.readouterr().out == f"The report is {run}/report/index.html\n"


def test_defaults_make_a_page_too(tmp_path: Path) -> None:
    assert "No picture of views" in words(page(write_run(tmp_path / "demo", Config())))


def test_a_run_that_went_on_after_it_was_measured_is_told_to_measure_again(tmp_path: Path, images: str) -> None:
    run = write_run(tmp_path / "demo", config(images))
    for step, says in ((12, True), (20, False)):
        write_knn(run, 97.0, 60.0, 94.0, loaded=f"encoder of a/step.safetensors, step {step}: 40 of 40 tensors")
        assert ("Measured at step 12; the run has gone on since" in words(section(measured.section, run))) == says


def test_names_that_are_no_text_in_any_encoding_do_not_stop_the_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "demo", config("/nowhere/\udcff"))
    assert "/nowhere/?" in words(page(run))
