"""Command lines of ours as processes: a few at once, each with its log; stopped tidily, none left behind."""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from patchmix.errors import UserError
from patchmix.interruption import Interruption

POLL_SECONDS = 0.2
SAVE_SECONDS = 60.0
"""For processes to save in, where an error ends the comparison."""
TAIL_BYTES = 8192
CHILD = "patchmix.comparing.child"


@dataclass
class Task:
    """Commands of patchmix that follow each other; the first that fails ends them.

    commands: (what it does, the words after `patchmix`). total: steps of the first one, for the display (0: open); its
    records are in `metrics`. done_early: tells of a running first command that it has done enough: it gets SIGTERM.
    lacking: once all have ended well, what is nevertheless missing, as an error.
    """

    name: str
    commands: Sequence[tuple[str, Sequence[str]]]
    log: Path
    metrics: Path
    total: int
    done_early: Callable[[Task], bool] | None = None
    lacking: Callable[[], str | None] | None = None
    seconds: dict[str, float] = field(default_factory=dict)  # wall-clock of each command that has run
    error: str | None = None  # the last line of the log, where a command failed
    stopped: bool = False  # by a signal that we got
    what: str = ""  # the command that runs
    record: dict[str, Any] = field(default_factory=dict)  # the newest of metrics.jsonl
    process: subprocess.Popen[bytes] | None = None
    _queue: deque[tuple[str, Sequence[str]]] = field(default_factory=deque)
    _environment: dict[str, str] = field(default_factory=dict)
    _begun: float = 0.0
    _told: bool = False

    def begin(self, environment: Mapping[str, str]) -> None:
        """Start the first command; all of them get these variables beside our own."""
        self._queue = deque(self.commands)
        self._environment = {**os.environ, "PYTHONUNBUFFERED": "1", **environment}
        self._next()

    def poll(self) -> bool:
        """Look after the process; False when there is nothing more to do."""
        if self.process is None:
            return False
        code = self.process.poll()
        if code is None:
            self._watch()
            return True
        self.seconds[self.what] = time.monotonic() - self._begun
        self._end_group()
        self.process = None
        enough = self._told and self.done_early is not None and code == 128 + signal.SIGTERM
        if code and not enough and not self.stopped:
            self.error = _why(code, last_line(self.log))
        if not (code or self.stopped or self._queue) and self.lacking is not None:
            self.error = self.lacking()
        if code or self.stopped or not self._queue:
            return False
        self._next()
        return True

    def tell(self) -> None:
        """Ask the process to save and stop."""
        self._told = True
        if self.process is not None:
            self.process.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> None:
        """Wait so long for the process to end, and no longer."""
        if self.process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(seconds)

    def kill(self) -> None:
        """End the process and what it started, now."""
        if self.process is not None:
            self._end_group()
            self.process.wait()

    def _end_group(self) -> None:
        """End what is left of the process and of what it started: its workers and ranks must not outlive it."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def _next(self) -> None:
        self.what, words = self._queue.popleft()
        try:
            self.log.parent.mkdir(parents=True, exist_ok=True)
            with self.log.open("ab") as log:
                log.write(f"\n$ patchmix {shlex.join(words)}\n".encode())
                log.flush()
                # A session of its own: Ctrl-C reaches us alone, and we tell it once.
                self.process = subprocess.Popen(
                    [sys.executable, "-m", CHILD, str(os.getpid()), *words],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=self._environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise UserError(f"{self.log} cannot be written: {error.strerror}; give another --output") from None
        self._begun = time.monotonic()

    def _watch(self) -> None:
        self.record = self.record | (last_record(self.metrics) or {})  # the newest kNN stays beside the newest step
        if self.done_early is not None and not self._told and self.done_early(self):
            self.tell()


class Watcher(Protocol):
    """What hears how tasks go on."""

    def began(self, task: Task) -> None:
        """A task has been started."""

    def looked(self, tasks: Sequence[Task]) -> None:
        """These are running; called a few times a second."""

    def ended(self, task: Task) -> None:
        """A task has ended, one way or another."""


def run_tasks(
    tasks: Sequence[Task],
    places: Sequence[Mapping[str, str]],
    interrupted: Interruption,
    watchers: Sequence[Watcher],
) -> None:
    """Run all, one at a time in each place, whose variables it gets; after a signal none is started, all are told.

    Returns when no process is left, whatever happened (a second Ctrl-C ends them at once).
    """
    waiting, running = deque(tasks), list[Task]()
    free = list(range(len(places)))
    taken: dict[str, int] = {}
    with _none_left(running):
        while (waiting and not interrupted) or running:
            while waiting and free and not interrupted:
                task = waiting.popleft()
                taken[task.name] = free.pop(0)
                task.begin(places[taken[task.name]])
                running.append(task)
                for watcher in watchers:
                    watcher.began(task)
            if interrupted:
                for task in (each for each in running if not each.stopped):
                    task.stopped = True
                    task.tell()
            for task in [each for each in running if not each.poll()]:
                running.remove(task)
                free.append(taken[task.name])
                for watcher in watchers:
                    watcher.ended(task)
            for watcher in watchers:
                watcher.looked(running)
            if running:
                time.sleep(POLL_SECONDS)


@contextlib.contextmanager
def _none_left(running: Sequence[Task]) -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:  # somebody does not want to wait
        raise
    except BaseException:  # a full disk, say: what is trained so far is not lost for it
        for task in running:
            task.tell()
        for task in running:
            task.wait(SAVE_SECONDS)
        raise
    finally:
        for task in running:
            task.kill()


def _why(code: int, said: str) -> str:
    return f"ended by {signal.Signals(-code).name}; last: {said}" if code < 0 else said or f"exit code {code}"


def last_line(log: Path) -> str:
    """The last line of a log that says something."""
    lines = [line.strip() for line in _tail(log).splitlines() if line.strip()]
    return lines[-1].removeprefix("patchmix: error: ") if lines else ""


def last_record(metrics: Path) -> dict[str, Any] | None:
    """The newest whole record of metrics.jsonl; None where there is none."""
    for line in reversed(_tail(metrics).splitlines()):
        with contextlib.suppress(ValueError):
            record = json.loads(line)
            if isinstance(record, dict) and isinstance(record.get("step"), int):
                return record
    return None


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - TAIL_BYTES))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
