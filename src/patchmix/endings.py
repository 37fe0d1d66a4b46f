"""How a run ends when it cannot go on: one line that says why, what is safe, and what to change."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from patchmix import distributed
from patchmix.checkpoint import list_checkpoints
from patchmix.config import Config
from patchmix.errors import RunError
from patchmix.job import Job


def refuse_non_finite(job: Job, step: int | None) -> None:
    """End the run on all processes if a step's loss or gradient was not finite; nothing is saved after it.

    The logged numbers are means over processes, so all of them see the same.
    """
    if step is None:
        return
    whole = list_checkpoints(job.directory.path)
    last = f"the last good checkpoint is {whole[0]}" if whole else "there is no checkpoint yet"
    with distributed.first_speaks():
        raise RunError(
            f"the loss or gradient of step {step} is not finite; {last}, nothing was overwritten. Lower optim.lr, "
            "lengthen optim.warmup_epochs, set optim.clip_grad_norm to 1, or take run.precision 32-true or bf16-mixed"
        )


@contextlib.contextmanager
def memory_advice(config: Config) -> Iterator[None]:
    """Out of memory, on any device, becomes one line that names what to lower."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        text = str(error).lower()
        if isinstance(error, RuntimeError) and "out of memory" not in text and "can't allocate memory" not in text:
            raise
        raise RunError(
            "out of memory: set run.activation_checkpointing, or lower optim.batch_size (now "
            f"{config.optim.batch_size}), data.image_size, the model's size "
            "or views.num_local_crops"
        ) from error
