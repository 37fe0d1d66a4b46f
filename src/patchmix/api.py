"""The commands as Python functions; `patchmix.pretrain` and the others are these."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchmix import recipes
from patchmix.config import (
    EmbedConfig,
    EvalConfig,
    FewshotConfig,
    FinetuneConfig,
    KnnConfig,
    ProbeConfig,
    SimilarityConfig,
)
from patchmix.starting import start

if TYPE_CHECKING:
    from torch import nn

    from patchmix.data.survey import Survey
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
    `pretrain("demo", output="runs/a", optim={"epochs": 3}, **{"data.limit": 1000})`. A folder alone is enough:
    `pretrain(data={"root": "photos"})` chooses the rest by its images.
    Raises UserError where the command would exit with 2, RunError where it would exit with 1.
    """
    started = start(recipe, _path(config), _given(options, output=output), resume=resume)
    from patchmix import pretraining

    return pretraining.pretrain(started.config, resume=resume, recipe=started.recipe, choices=started.choices)


def knn(checkpoint: StrPath, *, output: StrPath | None = None, **options: Any) -> dict[str, Any]:
    """Classify by nearest neighbours of frozen features; returns what `results/knn.json` holds.

    Options as in `patchmix knn`: `knn("runs/a", k=(20,), data={"name": "cifar10"})`. Data options that are
    not given are the run's. Raises UserError and RunError.
    """
    result: dict[str, Any] = _evaluate("knn", KnnConfig, checkpoint, output, options)
    return result


def probe(checkpoint: StrPath, *, output: StrPath | None = None, **options: Any) -> dict[str, Any]:
    """Train linear classifiers on frozen features; returns what `results/probe.json` holds.

    Options as in `patchmix probe`: `probe("runs/a", fast=True)`; see `knn`. Raises UserError and RunError.
    """
    result: dict[str, Any] = _evaluate("probe", ProbeConfig, checkpoint, output, options)
    return result


def fewshot(checkpoint: StrPath, *, output: StrPath | None = None, **options: Any) -> dict[str, Any]:
    """Classify from a few labelled images per class; returns what `results/fewshot.json` holds.

    Options as in `patchmix fewshot`; see `knn`. Raises UserError and RunError.
    """
    result: dict[str, Any] = _evaluate("fewshot", FewshotConfig, checkpoint, output, options)
    return result


def finetune(checkpoint: StrPath, *, output: StrPath | None = None, **options: Any) -> dict[str, Any]:
    """Train the whole network with labels; returns what `results/finetune.json` holds.

    Options as in `patchmix finetune`: `finetune("none", architecture="runs/a")` trains from scratch; see `knn`.
    Raises UserError and RunError.
    """
    result: dict[str, Any] = _evaluate("finetune", FinetuneConfig, checkpoint, output, options)
    return result


def similarity(
    checkpoint: StrPath, *, beside: Sequence[StrPath] = (), output: StrPath | None = None, **options: Any
) -> dict[str, Any]:
    """Compare pairs of images of one class with pairs of two; returns what `results/similarity.json` holds.

    `beside` are other checkpoints, measured on the same images and drawn in the same results/similarity.png. Options as
    in `patchmix similarity`: `similarity("runs/a", beside=["runs/b"], num_queries=3)`; see `knn`. Raises UserError and
    RunError.
    """
    options |= {"beside": [os.fspath(each) for each in beside]}
    result: dict[str, Any] = _evaluate("similarity", SimilarityConfig, checkpoint, output, options)
    return result


def detect(checkpoint: StrPath, *, output: StrPath | None = None, **options: Any) -> dict[str, Any]:
    """Train an object detector on an encoder and score it as COCO does; returns what `results/detect.json` holds.

    Options as in `patchmix detect`: `detect("runs/a", data={"name": "digits-scenes"}, epochs=3)`. Raises UserError and
    RunError.
    """
    resolved = recipes.resolve_detection(_given(options, checkpoint=checkpoint, output=output))
    from patchmix.transfer import detect as command

    return command.detect(resolved)


def embed(checkpoint: StrPath, *, output: StrPath | None = None, **options: Any) -> Path:
    """Write features of any images to `embeddings.npz` (or `.parquet`); returns its path.

    Options as in `patchmix embed`: `embed("runs/a", data={"root": "photos"}, output="vectors")`; see `knn`.
    Raises UserError and RunError.
    """
    path: Path = _evaluate("embed", EmbedConfig, checkpoint, output, options)
    return path


def _evaluate(
    command: str, config: type[EvalConfig], checkpoint: StrPath, output: StrPath | None, options: Mapping[str, Any]
) -> Any:
    resolved = recipes.resolve_evaluation(config, _given(options, checkpoint=checkpoint, output=output))
    return getattr(importlib.import_module(f"patchmix.evaluation.{command}"), command)(resolved)


def survey(folder: StrPath, *, images: int = 20_000, decode: int = 2000) -> Survey:
    """Look at a folder of images, as `patchmix data` does: sizes, kinds, statistics, unreadable and duplicate files.

    `images` files are looked at, evenly spaced if there are more, and `decode` of them decoded. Raises UserError.
    """
    from patchmix.data.survey import survey_folder

    return survey_folder(folder, images=images, decode=decode)


def report(run: StrPath) -> Path:
    """Write the report page of a run directory; returns its path. Raises UserError."""
    from patchmix import reporting

    return reporting.report(os.fspath(run))


def results(*runs: StrPath) -> dict[str, Any]:
    """All evaluations of some runs, as `patchmix results --format json` prints them.

    `figures` has one record for every figure of every evaluation, `means` those over seeds, `notes` what must not be
    compared. Raises UserError.
    """
    from patchmix.errors import UserError
    from patchmix.reporting.results_table import collect

    if not runs:
        raise UserError('runs are missing: results("runs/a", "runs/b")')
    return collect([os.fspath(run) for run in runs])


def bench(
    recipe: str | None = None,
    *,
    config: StrPath | None = None,
    output: StrPath | None = None,
    steps: int | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Measure what a training step costs on this machine; returns what `results/bench.json`, or `output`, holds.

    Options as in `patchmix bench`: `bench("demo", output="bench.json", optim={"batch_size": 32})`. Raises UserError
    and RunError.
    """
    from patchmix.benching.request import request

    own = {} if steps is None else {"steps": steps}
    asked = request(recipe, _path(config), _given({**options, **own}, output=output))
    from patchmix.benching import command

    return command.bench(asked)


def compare(
    recipe: str | None = None,
    *,
    config: StrPath | None = None,
    output: StrPath | None = None,
    methods: Sequence[str] | str | None = None,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    vary: Mapping[str, Sequence[Any]] | None = None,
    seeds: int | Sequence[int] | str | None = None,
    **options: Any,
) -> dict[str, Any]:
    """Compare methods and settings at the same cost, over seeds; returns what `comparison.json` holds.

    Options as in `patchmix compare`: `compare("demo", methods=["patchmix", "moco-v3"], seeds=5, output="study",
    variants={"unmixed": {"method.num_mix": 1}}, optim={"epochs": 20})`. With `output` alone the comparison there goes
    on. Runs that failed have status `failed`. Raises UserError and RunError, and after Ctrl-C SaidElsewhereError.
    """
    from patchmix.comparing.request import request

    own = {"methods": methods, "variant": variants, "vary": vary, "seeds": seeds}
    given = {**options, **{name: value for name, value in own.items() if value is not None}}
    asked = request(recipe, _path(config), _given(given, output=output))
    from patchmix.comparing import command

    return command.compare(asked)


def load_encoder(checkpoint: StrPath, *, num_heads: int | None = None) -> nn.Module:
    """A timm model in eval mode from a run (its newest checkpoint), a weights file, or timm:MODEL.

    It maps normalised images [n, channels, height, width] to features [n, width]. Raises UserError.
    """
    from patchmix.models.loading import resolve_encoder

    return resolve_encoder(os.fspath(checkpoint), num_heads=num_heads).encoder


def _path(path: StrPath | None) -> str | None:
    return None if path is None else os.fspath(path)


def _given(options: Mapping[str, Any], **paths: StrPath | None) -> dict[str, Any]:
    """The keyword arguments that were given; a path that is None was not."""
    return {**options, **{name: path for name, path in paths.items() if path is not None}}
