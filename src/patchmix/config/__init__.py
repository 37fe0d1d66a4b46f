"""Every option, as frozen dataclasses that check themselves on construction. Imports no torch.

The names are those of `docs/configuration.md` and of the YAML recipes; `--section.option VALUE` on the
command line sets the same keys. A check names the option, the value it got and what would be accepted.
Fields whose default is None are filled in from the data, the model or the machine; their help says how.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from patchmix.config.evaluation import (
    EmbedConfig,
    EvalConfig,
    EvalRunConfig,
    FewshotConfig,
    FrozenConfig,
    KnnConfig,
    Pool,
    SimilarityConfig,
)
from patchmix.config.options import option, require
from patchmix.config.training import (
    Config,
    DataConfig,
    Device,
    MethodConfig,
    ModelConfig,
    OptimConfig,
    Precision,
    RunConfig,
    ViewKind,
    ViewsConfig,
)
from patchmix.config.tuning import Augmentation, FinetuneConfig, Pooling, ProbeConfig, TuningConfig

__all__ = [
    "Augmentation",
    "Config",
    "DataConfig",
    "Device",
    "EmbedConfig",
    "EvalConfig",
    "EvalRunConfig",
    "FewshotConfig",
    "FinetuneConfig",
    "FrozenConfig",
    "KnnConfig",
    "MethodConfig",
    "ModelConfig",
    "OptimConfig",
    "Pool",
    "Pooling",
    "Precision",
    "ProbeConfig",
    "RunConfig",
    "SimilarityConfig",
    "TuningConfig",
    "ViewKind",
    "ViewsConfig",
    "option",
    "require",
    "to_dict",
]


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain dictionaries, lists and numbers: what `config.yaml` holds."""

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items()}
        return list(value) if isinstance(value, tuple) else value

    return {key: plain(value) for key, value in dataclasses.asdict(config).items()}
