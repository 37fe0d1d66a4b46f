"""The commands as Python functions; `patchmix.pretrain` and the others are these."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchmix import recipes
from patchmix.config import FewshotConfig, KnnConfig

if TYPE_CHECKING:
    from timm.models.vision_transformer import VisionTransformer

    from patchmix.pretraining import RunResult

StrPath = str | os.PathLike[str]


def pretrain(
    recipe: str | None = None,
    *,
    config: StrPath | None = None,
    output: StrPath | None = None,
    resume: bool = False,
    **options: Any,
) -> RunResult:
    """Pre-train an encoder, as `patchmix pretrain` does.

    `config` is a YAML file; options are those of the command line, nested or dotted:
    `pretrain("demo", output="runs/a", optim={"epochs": 3}, **{"data.limit": 1000})`.
    Raises UserError where the command would exit with 2, RunError where it would exit with 1.
    """
    resolved = recipes.resolve(recipe, _path(config), _given(options, output=output), resume=resume)
    from patchmix import pretraining

    return pretraining.pretrain(resolved, resume=resume, recipe=recipe)


def knn(checkpoint: StrPath, *, output: StrPath | None = None, **options: Any) -> dict[str, Any]:
    """Classify by nearest neighbours of frozen features; returns what `results/knn.json` holds.

    Options as in `patchmix knn`: `knn("runs/a", k=(20,), data={"name": "cifar10"})`. Data options that are
    not given are the run's. Raises UserError and RunError.
    """
    config = recipes.resolve_evaluation(KnnConfig, _given(options, checkpoint=checkpoint, output=output))
    from patchmix.evaluation import knn as module

    return module.knn(config)


def fewshot(checkpoint: StrPath, *, output: StrPath | None = None, **options: Any) -> dict[str, Any]:
    """Classify from a few labelled images per class; returns what `results/fewshot.json` holds.

    Options as in `patchmix fewshot`; see `knn`. Raises UserError and RunError.
    """
    config = recipes.resolve_evaluation(FewshotConfig, _given(options, checkpoint=checkpoint, output=output))
    from patchmix.evaluation import fewshot as module

    return module.fewshot(config)


def report(run: StrPath) -> Path:
    """Write the report page of a run directory; returns its path. Raises UserError."""
    from patchmix import reporting

    return reporting.report(os.fspath(run))


def load_encoder(checkpoint: StrPath, *, num_heads: int | None = None) -> VisionTransformer:
    """A timm ViT in eval mode from a run (its newest checkpoint), a weights file, or timm:MODEL.

    It maps normalised images [n, channels, height, width] to features [n, width]. Raises UserError.
    """
    from patchmix.models.loading import resolve_encoder

    return resolve_encoder(os.fspath(checkpoint), num_heads=num_heads).encoder


def _path(path: StrPath | None) -> str | None:
    return None if path is None else os.fspath(path)


def _given(options: Mapping[str, Any], **paths: StrPath | None) -> dict[str, Any]:
    """The keyword arguments that were given; a path that is None was not."""
    return {**options, **{name: path for name, path in paths.items() if path is not None}}
