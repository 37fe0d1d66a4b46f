"""How a machine is shared out among runs at once: threads to each, and the GPUs in turn."""

from __future__ import annotations

import os

from patchmix.config import RunConfig
from patchmix.environment import resolve_device, usable_cores


def at_once_here(run: RunConfig, asked: int | None) -> int:
    """How many runs at once: as asked, else 1 on a GPU and half the cores without one."""
    on_gpu = resolve_device(run.device).type == "cuda"
    return asked or (1 if on_gpu else max(1, usable_cores() // 2))


def threads_each(run: RunConfig, at_once: int) -> int:
    """Threads of each run: what `run.num_threads` says, else its share of the cores."""
    return run.num_threads or max(1, usable_cores() // at_once)


def places(run: RunConfig, at_once: int) -> list[dict[str, str]]:
    """The variables of each run at once: its threads, and where there are several GPUs, which of them it sees.

    Runs that take several devices themselves (run.num_devices) see all.
    """
    threads = {"OMP_NUM_THREADS": str(threads_each(run, at_once))}
    gpus = _gpus() if run.num_devices == 1 and resolve_device(run.device).type == "cuda" else []
    shared = len(gpus) > 1
    return [
        threads | ({"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if shared else {}) for number in range(at_once)
    ]


def _gpus() -> list[str]:
    """Names of the GPUs that this process sees, as CUDA_VISIBLE_DEVICES takes them."""
    import torch

    given = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return given[: torch.cuda.device_count()] or [str(number) for number in range(torch.cuda.device_count())]
