"""Small real runs for tests: 96 MNIST digits, a ViT of 24 numbers a token, 3 steps an epoch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from patchmix import recipes
from patchmix.checkpoint import Checkpoint, newest_whole
from patchmix.config import Config
from patchmix.metrics_file import read_metrics

SMALL: dict[str, Any] = {
    "data.limit": 96,
    "model.width": 24,
    "model.depth": 2,
    "model.num_heads": 3,
    "model.projector_width": 32,
    "model.projection_size": 16,
    "model.drop_path": 0.2,
    "optim.batch_size": 32,
    "optim.epochs": 4,
    "run.checkpoint_every_steps": 2,
    "run.eval_every_epochs": 1,
    "run.eval_images": 64,
    "run.num_threads": 1,
    "run.device": "cpu",
    # Tuning the demo changes no test.
    "optim.lr": 0.02,
    "optim.warmup_epochs": 10,
    "model.position_std": 0.3,
    "method.temperature": 0.2,
    "views.thickness": 0.0,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "without_momentum": {},
    "momentum_encoder": {"method.momentum": 0.9},
    "local_crops": {"method.momentum": 0.9, "views.num_local_crops": 2, "views.local_size": 14},
}
# What a clock gives is not part of a run's result.
TIMES = ("images_per_second", "data_wait")


def small_config(output: Path, **options: Any) -> Config:
    """The demo recipe, made small; options with dots as keys."""
    return recipes.resolve("demo", None, {**SMALL, "output": str(output), **options})


def command(*words: str | Path, **options: Any) -> list[str]:
    """The command line of this environment's patchmix."""
    given = [
        f"--{name}={json.dumps(value) if not isinstance(value, str) else value}" for name, value in options.items()
    ]
    return [sys.executable, "-m", "patchmix", *map(str, words), *given]


def start_pretraining(output: Path, *words: str, **options: Any) -> subprocess.Popen[str]:
    """A small run in a process of its own."""
    line = command("pretrain", "--recipe", "demo", "--output", output, *words, **{**SMALL, **options})
    return subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def wait_for_step(process: subprocess.Popen[str], output: Path, step: int, seconds: float = 120) -> None:
    """Until metrics.jsonl has the step."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise AssertionError(f"ended with {process.returncode}: {process.stderr.read() if process.stderr else ''}")
        path = output / "metrics.jsonl"
        if path.exists() and any(record["step"] >= step for record in read_metrics(path)[0]):
            return
        time.sleep(0.005)
    raise AssertionError(f"step {step} was not reached in {seconds} s")


def stop(process: subprocess.Popen[str], number: signal.Signals) -> tuple[int, str, str]:
    """Send a signal to the process and wait for its end: exit code, standard output, standard error."""
    os.kill(process.pid, number)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def result_of(output: Path) -> tuple[Checkpoint, list[dict[str, Any]]]:
    """What a run came to: its newest checkpoint, and its metrics without times."""
    found, _ = newest_whole(output)
    assert found is not None
    lines = (output / "metrics.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    return found, [{name: value for name, value in record.items() if name not in TIMES} for record in records]


def assert_same_result(first: Path, second: Path) -> None:
    """Bit for bit the same weights, optimiser state and metrics."""
    (one, metrics_of_one), (two, metrics_of_two) = result_of(first), result_of(second)
    assert one.step == two.step
    assert one.tensors.keys() == two.tensors.keys()
    differing = [name for name, value in one.tensors.items() if not value.equal(two.tensors[name])]
    assert not differing
    assert metrics_of_one == metrics_of_two
