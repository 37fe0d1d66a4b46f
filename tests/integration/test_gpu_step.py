"""A whole training step on a GPU: it gives work to the device and waits for nothing."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
import torch

from patchmix import recipes
from patchmix.benching.steps import noise_job
from patchmix.pretraining import take_step

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


METHODS: list[dict[str, Any]] = [
    *({"method.name": name} for name in ("patchmix", "patchmix-lean", "simclr", "sdmp", "unmix")),
    *({"method.mixers": [mixer]} for mixer in ("mixup", "cutmix")),
    {"method.permutations": "image"},
]


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("crops", [0, 2])
@pytest.mark.parametrize("method", METHODS)
def test_a_step_never_waits_for_the_device(method: dict[str, Any], recompute: bool, crops: int, tmp_path: Path) -> None:
    options = {
        **method,
        "model.depth": 2,
        "model.patch_size": 4,
        "method.momentum": 0.996,
        "views.num_local_crops": crops,
        "views.local_size": 16,
        "optim.batch_size": 32,
        "data.num_workers": 0,
        "run.device": "cuda",
        "run.activation_checkpointing": recompute,
    }
    with contextlib.ExitStack() as stack:
        job, batch = noise_job(recipes.resolve("cifar10-vit-tiny", None, options), tmp_path, stack)
        for step in (1, 2):  # memory is taken, AdamW makes its state, targets are made
            take_step(job, step, batch)
        torch.cuda.set_sync_debug_mode("error")
        try:
            record = take_step(job, 3, batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert record["loss"].isfinite()
