"""Peak memory of training steps, each kind in a process of its own, so that nothing else is counted.

The process that is started here: python -m patchmix.benching.memory FOLDER ours|plain
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import torch

from patchmix import recipes
from patchmix.benching.plain import load_plain
from patchmix.benching.steps import noise_job, wait_for
from patchmix.config import Config
from patchmix.errors import RunError
from patchmix.pretraining import take_step

CONFIG = "config.yaml"
GROUP = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "NODE_RANK", "GROUP_RANK")
STEPS = 2  # in the first, AdamW makes its state; the second has it from the start
Kind = Literal["ours", "plain"]


def peak_memory(config: Config, kind: Kind, folder: Path) -> int:
    """Most bytes that two training steps took beyond what the process had before them: activations, gradients, AdamW.

    The model, its momentum copy and one batch are there before. On CUDA the device's memory is counted, else the
    process's, by the kernel's high-water mark.

    Args:
        config: of a run with `data.image_size` and `data.channels`; its images are not read.
        folder: absent yet, for the files of that process; the caller removes it.

    Raises:
        RunError: the process failed, for want of memory for instance.
    """
    folder.mkdir(parents=True)
    (folder / CONFIG).write_text(recipes.dump(config), encoding="utf-8")
    command = [sys.executable, "-m", "patchmix.benching.memory", str(folder), kind]
    # A group of processes that this one has begun is not for the other to join.
    own = {name: value for name, value in os.environ.items() if name not in GROUP and not name.startswith("MASTER_")}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=own)
    try:
        return int(json.loads(done.stdout)["bytes"])
    except (ValueError, KeyError):
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise RunError(
            f"the process that measures peak memory failed (a smaller optim.batch_size may help): {last}"
        ) from None


def growth(function: Callable[[], object], device: torch.device) -> int:
    """Most bytes that a call takes beyond what is there before it."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        function()
        wait_for(device)
        return torch.cuda.max_memory_allocated(device) - before
    with contextlib.suppress(OSError, AttributeError):  # glibc: what is free goes back, or it would not be counted anew
        ctypes.CDLL(None).malloc_trim(0)
    before = _resident()
    function()
    return _highest() - before


def _resident() -> int:
    """Bytes of the process's memory now; on Linux the kernel's high-water mark begins here anew."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        return _status("VmRSS")
    return _highest()


def _highest() -> int:
    with contextlib.suppress(OSError):
        return _status("VmHWM")
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def _status(name: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{name}:")).split()[1])


def main(folder: Path, kind: str) -> None:
    """What the process does."""
    config = recipes.resolve(None, folder / CONFIG)
    with contextlib.ExitStack() as stack:
        job, batch = noise_job(config, folder, stack)
        if kind == "ours":
            found = growth(lambda: [take_step(job, step, batch) for step in range(1, 1 + STEPS)], job.fabric.device)
        else:
            plain = load_plain("step").PlainStep(config, job.spec, job.fabric.device)
            del job.module, job.model, job.optimizer  # ours is not measured
            found = growth(lambda: [plain(batch.views, batch.local_views) for _ in range(STEPS)], plain.device)
    print(json.dumps({"bytes": found}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
