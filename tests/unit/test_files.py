"""Files are whole or not there; links, pipes and what a process prints into are not replaced by files."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from patchmix.errors import RunError
from patchmix.files import is_stream, replacing, write_text

# Prints, writes to the place that is given, and prints again.
PRINTING = """
import sys
from pathlib import Path
from patchmix.files import write_text
print("before", flush=True)
write_text(Path(sys.argv[1]), "the result\\n")
print("after", flush=True)
"""


def content_of(folder: Path) -> dict[str, str]:
    return {each.name: each.read_text(encoding="utf-8") for each in folder.iterdir() if each.is_file()}


def write_half(path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("sec", encoding="utf-8")
        raise ValueError("half of it")


def test_a_file_is_replaced_when_all_of_it_is_written(tmp_path: Path) -> None:
    file = tmp_path / "new" / "a.json"
    write_text(file, "first")
    with replacing(file) as temporary:
        temporary.write_text("second", encoding="utf-8")
        assert file.read_text(encoding="utf-8") == "first"
    assert content_of(file.parent) == {"a.json": "second"}
    mask = os.umask(0)
    os.umask(mask)
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~mask


def test_an_error_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    write_text(file, "first")
    with pytest.raises(ValueError, match="half"):
        write_half(file)
    assert content_of(tmp_path) == {"a.json": "first"}


def test_a_link_stays_and_leads_to_the_new_file(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    target, link, chain = tmp_path / "kept" / "a.json", tmp_path / "link", tmp_path / "chain"
    link.symlink_to(Path("kept", "a.json"))
    chain.symlink_to(link)
    for text in ("first", "second"):  # in the beginning the link leads to nothing
        write_text(chain, text)
        assert content_of(tmp_path / "kept") == {"a.json": text}
    assert link.is_symlink()
    assert chain.is_symlink()
    assert target.is_file()


def test_a_link_that_leads_to_itself_is_an_error(tmp_path: Path) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    with pytest.raises(RunError, match=r"cannot write .*loop: Too many levels"):
        write_text(loop, "text")
    assert loop.is_symlink()


def test_a_folder_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    for name in ("runs", "link"):
        with pytest.raises(IsADirectoryError), replacing(tmp_path / name):
            raise AssertionError("the block must not run")
        with pytest.raises(RunError, match=f"cannot write .*{name}: Is a directory"):
            write_text(tmp_path / name, "text")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["link", "runs"]


@pytest.mark.parametrize("by_link", [False, True])
def test_a_pipe_gets_the_text_and_stays_a_pipe(by_link: bool, tmp_path: Path) -> None:
    pipe = named = tmp_path / "pipe"
    os.mkfifo(pipe)
    if by_link:
        named = tmp_path / "link"
        named.symlink_to(pipe)
    assert is_stream(named)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(pipe.read_text(encoding="utf-8")), daemon=True)
    reader.start()
    write_text(named, "the result")
    reader.join(timeout=60)
    assert read == ["the result"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert len(list(tmp_path.iterdir())) == 1 + by_link


def test_a_pipe_gets_nothing_of_what_failed(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(ValueError, match="half"):
            write_half(pipe)
        assert os.read(reader, 10) == b""
    finally:
        os.close(reader)


@pytest.mark.skipif(not os.path.exists("/dev/stdout"), reason="needs /dev/stdout")
@pytest.mark.parametrize("place", ["/dev/stdout", "printed.txt"])
def test_what_the_process_prints_into_keeps_what_was_printed(place: str, tmp_path: Path) -> None:
    file = tmp_path / "printed.txt"
    with file.open("ab") as output:
        line = [sys.executable, "-c", PRINTING, place]
        subprocess.run(line, stdout=output, check=True, cwd=tmp_path)
    assert file.read_text(encoding="utf-8") == "before\nthe result\nafter\n"
    assert [each.name for each in tmp_path.iterdir()] == ["printed.txt"]
