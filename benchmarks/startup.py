"""Seconds from the start of the process to the first training step of recipe demo, beside those of the imports alone.

Prints a table. Processes of both kinds take turns; the command runs as a user starts it, until the first line of a step
is in its metrics.jsonl. Command: python benchmarks/startup.py
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

IMPORTS = "import torch, torchvision, timm, lightning.fabric, patchmix"
REPEATS = 5
POLL = 0.005  # seconds


def seconds_of_imports() -> float:
    """A process that only imports."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", IMPORTS], check=True)
    return time.perf_counter() - began


def seconds_to_first_step() -> float:
    """`patchmix pretrain --recipe demo` until its first step is logged; then it is stopped."""
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        command = [sys.executable, "-m", "patchmix", "pretrain", "--recipe", "demo", "--output", str(run)]
        began = time.perf_counter()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            while not has_a_step(run / "metrics.jsonl"):
                if process.poll() is not None:
                    raise RuntimeError(f"pretrain ended: {process.communicate()[1].decode()}")
                time.sleep(POLL)
            return time.perf_counter() - began
        finally:
            process.kill()
            process.communicate()


def has_a_step(metrics: Path) -> bool:
    """Whether the record of a training step is in the file."""
    return metrics.exists() and '"loss"' in metrics.read_text(encoding="utf-8")


def lines() -> Iterator[str]:
    """This benchmark's section of results.md, as it is measured."""
    yield "## Start-up: from the process's start to the first step of recipe `demo`"
    yield ""
    yield f"`python benchmarks/startup.py`; seconds, medians of {REPEATS} processes (lowest–highest), taking turns."
    yield ""
    pairs = [(seconds_of_imports(), seconds_to_first_step()) for _ in range(1 + REPEATS)]
    imports, steps = zip(*pairs[1:], strict=True)  # the first fills the disk's cache
    yield "| imports alone | to the first step | ratio of medians |"
    yield "|---|---|---|"
    ratio = statistics.median(steps) / statistics.median(imports)
    yield f"| {shown(imports)} | {shown(steps)} | {ratio:.2f} |"


def shown(times: tuple[float, ...]) -> str:
    """Median (lowest–highest)."""
    return f"{statistics.median(times):.2f} ({min(times):.2f}–{max(times):.2f})"


if __name__ == "__main__":
    for line in lines():
        print(line, flush=True)
