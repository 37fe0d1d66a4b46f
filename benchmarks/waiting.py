"""How long a training step takes by how threads wait for each other, alone and beside other work.

Prints a table. Each cell is a process of its own that takes steps of recipe `cifar10-cpu`'s model; the settings take
turns, several rounds of them. GOMP_SPINCOUNT is how often a thread of GNU OpenMP (torch's on Linux) looks again before
it lets the core go. Command: python benchmarks/waiting.py (nothing else should run)
"""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator

from patchmix.environment import SPINS, usable_cores

SETTINGS = {
    "torch's default": {},
    f"{SPINS} spins (ours)": {"GOMP_SPINCOUNT": SPINS},
    "no spins": {"GOMP_SPINCOUNT": "0"},
}
ROUNDS = 2
STEPS = """
import statistics, sys, time
import torch
from patchmix import recipes
from patchmix.method import build_model
from patchmix.models.encoders import resolve_spec
from patchmix.randomness import draw_plan
torch.set_num_threads(int(sys.argv[1]))
config = recipes.resolve("cifar10-cpu")
model = build_model(config, resolve_spec(config.model, (32, 32), 3, (0.5,) * 3, (0.5,) * 3))
views = torch.rand(2, config.optim.batch_size, 3, 32, 32)
plans = [draw_plan((32, 32), 2, 4, seed=0, step=1, view=view) for view in (0, 1)]
times = []
for _ in range(9):
    start = time.perf_counter()
    model(tuple(views), tuple(plans), 0.2).total.backward()
    times.append(time.perf_counter() - start)
print(statistics.median(times[2:]))
"""
BUSY = "while True: pass"


def seconds(threads: int, setting: dict[str, str]) -> float:
    """Median of 7 steps in a process of their own."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_"))}
    call = [sys.executable, "-c", STEPS, str(threads)]
    done = subprocess.run(call, env=environment | setting, capture_output=True, text=True, check=True)
    return float(done.stdout)


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """So many other processes that never wait."""
    others = [subprocess.Popen([sys.executable, "-c", BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for each in others:
            each.kill()
            each.wait()


def lines() -> Iterator[str]:
    """This benchmark's section of results.md, as it is measured."""
    cores = usable_cores()
    yield "## How threads wait for each other: a step of recipe `cifar10-cpu`"
    yield ""
    yield f"`python benchmarks/waiting.py`; ms, mean of {ROUNDS} processes (lowest–highest), settings taking turns."
    yield ""
    yield "| threads | other busy processes | " + " | ".join(SETTINGS) + " |"
    yield "|---" * (2 + len(SETTINGS)) + "|"
    for threads, others in ((1, 0), (cores, 0), (cores, 1), (cores, cores)):
        with busy(others):
            rounds = [[seconds(threads, setting) for setting in SETTINGS.values()] for _ in range(ROUNDS)]
        cells = [
            f"{1000 * statistics.fmean(times):.0f} ({1000 * min(times):.0f}–{1000 * max(times):.0f})"
            for times in zip(*rounds, strict=True)
        ]
        yield f"| {threads} | {others} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    for line in lines():
        print(line, flush=True)
