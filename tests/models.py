"""Small models for tests."""

from __future__ import annotations

import dataclasses
from typing import Any

from patchmix.config import Config, MethodConfig, ModelConfig
from patchmix.method import ContrastiveModel, build_model
from patchmix.models.spec import EncoderSpec

SPEC = EncoderSpec(
    name="vit_tiny",
    image_size=(16, 16),
    patch_size=4,
    width=24,
    depth=2,
    num_heads=3,
    channels=3,
    pooling="token",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)


def small_spec(**changes: Any) -> EncoderSpec:
    """An encoder of 24 numbers a token for 16 × 16 px in 4 × 4 patches."""
    return dataclasses.replace(SPEC, **changes)


def small_model(momentum: bool = False, drop_path: float = 0.0, seed: int = 0, **spec: Any) -> ContrastiveModel:
    """A whole pre-training model on `small_spec`."""
    config = Config(
        seed=seed,
        model=ModelConfig(drop_path=drop_path, projector_width=32, projection_size=8),
        method=MethodConfig(momentum=0.9 if momentum else None),
    )
    return build_model(config, small_spec(**spec))
