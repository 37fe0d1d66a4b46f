"""Configs and small models of every method for tests, and a step's views and plans."""

from __future__ import annotations

from typing import Any

import torch
from tests.models import SPEC
from torch import Tensor

from patchmix.config import Config, DataConfig, MethodConfig, ModelConfig, ViewsConfig
from patchmix.method import ContrastiveModel, build_model
from patchmix.mixing import MixPlan, Plan

TEMPERATURE = 0.2
BATCH = 6


def config_of(name: str, **options: Any) -> Config:
    crops = options.pop("num_local_crops", 0)
    return Config(
        data=DataConfig(image_size=16),
        model=ModelConfig(drop_path=0.0, projector_width=32, projection_size=8, patch_size=4),
        method=MethodConfig(**{"name": name, "momentum": 0.9, **options}),
        views=ViewsConfig(num_local_crops=crops, local_size=8),
    )


def model_of(name: str, **options: Any) -> ContrastiveModel:
    return build_model(config_of(name, **options), SPEC).double()


def views(size: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(BATCH, 3, size, size, generator=generator, dtype=torch.float64) for _ in range(2))
    return first, second


def plans() -> tuple[Plan, Plan]:
    generator = torch.Generator().manual_seed(1)
    return MixPlan.draw(16, 2, 4, generator), MixPlan.draw(16, 2, 4, generator)
