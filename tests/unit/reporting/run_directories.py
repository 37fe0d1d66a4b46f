"""Run directories for tests of the report: real file formats, made-up numbers."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

from patchmix.config import Config, DataConfig, MethodConfig, ModelConfig, OptimConfig, ViewsConfig
from patchmix.recipes import dump

BATCH, STEPS_PER_EPOCH = 64, 5


def config(root: str | None, *, channels: Literal[1, 3] = 1, views: ViewsConfig | None = None, **method: Any) -> Config:
    return Config(
        data=DataConfig(name="folder", root=root, image_size=28, channels=channels),
        model=ModelConfig(width=16, depth=1, num_heads=2, patch_size=7, projector_width=32, projection_size=16),
        method=MethodConfig(momentum=None, **method),
        views=views or ViewsConfig(kind="digits", global_scale=(0.8, 1.25)),
        optim=OptimConfig(epochs=4, warmup_epochs=1, batch_size=BATCH),
    )


def write_run(
    directory: Path, settings: Config, steps: int = 20, loss: float | None = None, full: bool = False
) -> Path:
    """A run of `steps` steps; its losses fall from guessing, or stay at `loss`. `full`: every curve there is."""
    (directory / "checkpoints").mkdir(parents=True)
    (directory / "config.yaml").write_text(dump(settings))
    with (directory / "metrics.jsonl").open("w") as file:
        for step in range(1, steps + 1):
            value = loss if loss is not None else math.log(BATCH) * (1 - step / 40)
            parts = dict.fromkeys(("loss_origin_to_origin", "loss_mix_to_origin", "loss_mix_to_mix"), value)
            record = {"step": step, "epoch": (step - 1) // STEPS_PER_EPOCH, "loss": 2 * value, **parts}
            record["images_per_second"] = 640.0
            if full:
                record |= {"lr": 0.1, "momentum": None, "grad_norm": 1.0}
            file.write(json.dumps(record) + "\n")
            if step % STEPS_PER_EPOCH == 0:
                watched = {"knn_top1": 60.0 + step} | ({"rankme": 5.0, "feature_std": 0.5} if full else {})
                evaluation = {"step": step, "epoch": step // STEPS_PER_EPOCH, "kind": "evaluation", **watched}
                file.write(json.dumps(evaluation) + "\n")
    (directory / "checkpoints" / f"step-{steps:08d}.safetensors").touch()
    return directory


def write_knn(
    directory: Path, run: float, untrained: float, pixels: float, half: float = 1.0, loaded: str = ""
) -> None:
    values = {"top1_k20": run, "random_init_top1_k20": untrained, "pixels_top1_k20": pixels}
    result = {
        "command": "knn",
        "checkpoint": "a-run",
        "data": {"name": "folder", "num_train": 100, "num_test": 1000},
        "metrics": values,
        "intervals": {name: [value - half, value + half] for name, value in values.items()},
        "settings": {"loaded": loaded},
    }
    (directory / "results").mkdir(exist_ok=True)
    (directory / "results" / "knn.json").write_text(json.dumps(result))
