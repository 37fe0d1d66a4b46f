"""The page lists what could not be read, with reasons, and stays small where that is a great deal."""

from __future__ import annotations

from pathlib import Path

from pages import section, words
from run_directories import config, write_run

from patchmix.reporting import skipped


def with_skipped(directory: Path, lines: list[str]) -> Path:
    run = write_run(directory, config(None))
    (run / "skipped.tsv").write_bytes("".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape"))
    return run


def test_a_few_are_listed_with_reasons(tmp_path: Path) -> None:
    evil = "<img src=x onerror=alert(1)>.jpg"
    text = section(
        skipped.section,
        with_skipped(tmp_path / "run", [f"a/{evil}\tcut <b>off", "b\x85c\r.png\tempty file", "d\udcff\tno image"]),
    )
    shown = words(text)
    assert "3 files could not be read" in shown
    assert f"a/{evil} cut <b>off" in shown
    assert "<img src=x" not in text
    assert "c .png empty file" in shown
    assert "d\ufffd no image" in shown
    assert "more" not in shown


def test_many_are_folded_and_very_many_counted(tmp_path: Path) -> None:
    text = section(
        skipped.section, with_skipped(tmp_path / "run", [f"{number:05}.jpg\tempty file" for number in range(3000)])
    )
    shown = words(text)
    folded = text[text.index("<details") :]
    assert f"{skipped.SHOWN - 1:05}.jpg" in shown
    assert f"{skipped.SHOWN - 1:05}.jpg" not in folded
    assert f"{skipped.MOST - skipped.SHOWN} more" in shown
    assert f"{skipped.MOST - 1:05}.jpg" in folded
    assert f"{skipped.MOST:05}.jpg" not in text
    assert "2,000 are not shown: all are in" in shown


def test_none_are_said_to_be_none(tmp_path: Path) -> None:
    text = section(skipped.section, write_run(tmp_path / "run", config(None)))
    assert "None: every file that training asked for could be read." in text
