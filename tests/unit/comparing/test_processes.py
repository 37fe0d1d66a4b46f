"""Processes of a comparison: in turn, a few at once, failing and stopped. They print help, which needs no torch."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from patchmix.comparing.processes import CHILD, Task, last_line, last_record, run_tasks
from patchmix.interruption import Interruption

ONE: list[dict[str, str]] = [{}]
"""One at a time, with our own variables."""


class Notes:
    """What a watcher hears, and how many ran at most."""

    def __init__(self, interrupted: Interruption | None = None) -> None:
        self.heard: list[str] = []
        self.most = 0
        self.interrupted = interrupted

    def began(self, task: Task) -> None:
        self.heard.append(f"began {task.name}")
        if self.interrupted is not None:
            self.interrupted.receive(signal.SIGTERM, None)

    def looked(self, tasks: Sequence[Task]) -> None:
        self.most = max(self.most, len(tasks))

    def ended(self, task: Task) -> None:
        self.heard.append(f"ended {task.name}")


def make(folder: Path, name: str, *commands: str) -> Task:
    return Task(name, [(each, each.split()) for each in commands], folder / f"{name}.log", folder / "absent.jsonl", 1)


def test_commands_follow_each_other_and_all_that_they_print_is_in_the_log(tmp_path: Path) -> None:
    task, notes = make(tmp_path / "new", "a", "recipes show demo", "--version"), Notes()
    run_tasks([task], ONE, Interruption(), [notes])
    assert (task.error, task.stopped) == (None, False)
    assert set(task.seconds) == {"recipes show demo", "--version"}
    text = task.log.read_text()
    assert text.index("$ patchmix recipes show demo") < text.index("name: mnist5k") < text.index("$ patchmix --version")
    assert notes.heard == ["began a", "ended a"]


def test_a_command_that_fails_ends_its_task_and_no_other(tmp_path: Path) -> None:
    tasks = [make(tmp_path, "a", "recipes show dmo", "--version"), make(tmp_path, "b", "--version")]
    run_tasks(tasks, ONE, Interruption(), [])
    assert tasks[0].error is not None
    assert tasks[0].error.startswith("there is no recipe 'dmo'; did you mean demo?")
    assert set(tasks[0].seconds) == {"recipes show dmo"}
    assert tasks[1].error is None
    assert "--version" in tasks[1].seconds


def test_no_more_run_at_once_than_asked(tmp_path: Path) -> None:
    for at_once in (1, 2):
        notes = Notes()
        run_tasks([make(tmp_path, name, "recipes") for name in "abc"], ONE * at_once, Interruption(), [notes])
        assert notes.most <= at_once
        assert sorted(notes.heard) == sorted(f"{what} {name}" for what in ("began", "ended") for name in "abc")


@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs Linux's /proc")
def test_each_place_has_its_own_variables_and_one_process(tmp_path: Path) -> None:
    class Reader(Notes):
        def began(self, task: Task) -> None:
            assert task.process is not None  # it has not got far yet
            file, variables = Path(f"/proc/{task.process.pid}/environ"), [""]
            while variables == [""]:  # Linux lets a process go on shortly before its new environment is there
                variables = file.read_text().split("\0")
            found[task.name] = {each for each in variables if each.startswith(("OMP_NUM_THREADS", "CUDA_VISIBLE"))}

    found: dict[str, set[str]] = {}
    places = [{"OMP_NUM_THREADS": "3", "CUDA_VISIBLE_DEVICES": str(number)} for number in range(2)]
    tasks = [make(tmp_path, name, "recipes", "--version") for name in "ab"]
    run_tasks(tasks, places, Interruption(), [Reader()])
    assert found == {
        "a": {"OMP_NUM_THREADS=3", "CUDA_VISIBLE_DEVICES=0"},
        "b": {"OMP_NUM_THREADS=3", "CUDA_VISIBLE_DEVICES=1"},
    }


def test_after_a_signal_nothing_is_started_and_what_runs_is_told(tmp_path: Path) -> None:
    interrupted = Interruption()
    tasks = [make(tmp_path, "a", "recipes", "recipes"), make(tmp_path, "b", "recipes")]
    run_tasks(tasks, ONE, interrupted, [Notes(interrupted)])
    assert tasks[0].stopped
    assert tasks[0].error is None
    assert tasks[0].process is None
    assert not tasks[1].log.exists()


def test_an_error_in_between_tells_what_runs_and_leaves_no_process(tmp_path: Path) -> None:
    class Broken(Notes):
        def looked(self, tasks: Sequence[Task]) -> None:
            raise RuntimeError("a full disk, say")

    task = make(tmp_path, "a", "data /usr")  # takes longer than a look
    with pytest.raises(RuntimeError, match="a full disk"):
        run_tasks([task], ONE, Interruption(), [Broken()])
    assert task.process is not None
    assert task.process.returncode == -signal.SIGTERM
    with pytest.raises(ProcessLookupError):
        os.kill(task.process.pid, 0)


def test_a_process_that_the_system_killed_is_named(tmp_path: Path) -> None:
    class Killer(Notes):
        def looked(self, tasks: Sequence[Task]) -> None:
            for task in tasks:
                assert task.process is not None
                os.kill(task.process.pid, signal.SIGKILL)

    task = make(tmp_path, "a", "data /usr")
    run_tasks([task], ONE, Interruption(), [Killer()])
    assert task.error is not None
    assert task.error.startswith("ended by SIGKILL; last: $ patchmix data /usr")


def test_commands_that_end_well_and_leave_something_out_are_an_error(tmp_path: Path) -> None:
    said = iter(["the last step is not saved", None])
    tasks = [make(tmp_path, name, "--version") for name in "ab"]
    for task in tasks:
        task.lacking = lambda: next(said)
    run_tasks(tasks, ONE, Interruption(), [])
    assert [task.error for task in tasks] == ["the last step is not saved", None]


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's signal is Linux's")
def test_a_process_ends_with_the_comparison_that_started_it(tmp_path: Path) -> None:
    child = f"import os, sys; from {CHILD} import end_with; end_with(os.getppid()); print(flush=True); sys.stdin.read()"
    parent = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', sys.argv[1]]).pid, flush=True)"
    parent += "; sys.stdin.read()"
    line = [sys.executable, "-c", parent, child]
    with subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.stdout.readline()  # both run, and the child has asked for the signal
        process.kill()
        assert process.stdout.read() == b""  # ends when nobody holds it any more, the child neither


def test_what_a_process_leaves_behind_ends_with_it(tmp_path: Path) -> None:
    left = "import sys; sys.stdin.read()"
    code = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {left!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    with process:
        process.wait()
        task = make(tmp_path, "a", "--version")
        task.process = process
        assert not task.poll()
        assert process.stdout is not None
        assert process.stdout.read() == b""  # ends when nobody holds it any more


def test_the_newest_whole_record_and_the_last_line_that_says_something(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    assert last_record(file) is None
    assert last_line(file) == ""
    file.write_text("x" * 10_000 + '\n{"step": 3, "loss": 1.5}\n{"step": 4, "lo')
    assert last_record(file) == {"step": 3, "loss": 1.5}
    file.write_text("one\npatchmix: error: two\n\n")
    assert last_line(file) == "two"
