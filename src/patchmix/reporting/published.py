"""The paper's numbers, and whether a figure may stand beside them: same data, recipe and protocol, to the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from patchmix.config import Config
from patchmix.config.options import shown
from patchmix.errors import UserError
from patchmix.recipes import resolve
from patchmix.reporting.evaluations import Evaluation
from patchmix.reporting.settings import MACHINE, flat_options

SOURCE = "arXiv:2306.12243"


@dataclass(frozen=True)
class Published:
    """Top-1 in per cent of one recipe, by what was done with the encoder."""

    knn: float
    probe: float
    finetune: float


PUBLISHED = {
    "cifar10-vit-tiny": Published(92.9, 94.4, 97.5),
    "cifar10-vit-small": Published(94.6, 96.0, 98.1),
    "cifar10-vit-base": Published(95.8, 96.6, 98.3),
    "cifar100-vit-tiny": Published(68.8, 74.7, 84.9),
    "cifar100-vit-small": Published(75.4, 78.7, 86.0),
    "cifar100-vit-base": Published(75.7, 79.7, 86.0),
    "imagenet-vit-small": Published(73.3, 77.4, 82.8),
    "imagenet-vit-base": Published(76.2, 80.2, 84.1),
}
NUM_IMAGES = {"cifar10": (50_000, 10_000), "cifar100": (50_000, 10_000), "imagenet": (1_281_167, 50_000)}
METRICS = {"knn": "top1_k20", "probe": "top1_published", "finetune": "top1"}
"""The metric of each command that is compared. The paper does not say which k its kNN takes; peers report 20. Its probe
is one head of ours, whose learning rate and pooling are fixed."""


def published(recipe: str | None, command: str, metric: str) -> float | None:
    """The paper's number for a metric of an evaluation of that recipe's encoder, None where there is none."""
    if recipe not in PUBLISHED or METRICS.get(command) != metric:
        return None
    value: float = getattr(PUBLISHED[recipe], command)
    return value


def differences(evaluation: Evaluation) -> list[str]:
    """Why this evaluation must not stand beside its recipe's published numbers, in words; empty if it may."""
    recipe, directory = evaluation.run.recipe, evaluation.run.directory
    if recipe not in PUBLISHED or directory is None:
        return ["it belongs to no recipe of the paper's"]
    try:
        wanted, own = resolve(recipe), resolve(config_file=directory / "config.yaml")
    except UserError as error:
        return [str(error)]
    return [*_of_data(evaluation, wanted), *_of_run(evaluation, wanted, own), *_of_protocol(evaluation, own)]


def _of_data(evaluation: Evaluation, wanted: Config) -> list[str]:
    name, numbers = evaluation.data.get("name"), (evaluation.data.get("num_train"), evaluation.data.get("num_test"))
    if name != wanted.data.name:
        return [f"measured on {name}, published on {wanted.data.name}"]
    if numbers != NUM_IMAGES[wanted.data.name]:
        counts = " and ".join(f"{each:,}" if isinstance(each, int) else "?" for each in numbers)
        return [f"measured with {counts} images, published with {' and '.join(f'{n:,}' for n in NUM_IMAGES[name])}"]
    return []


def _of_run(evaluation: Evaluation, wanted: Config, own: Config) -> list[str]:
    before, after = flat_options(wanted), flat_options(own)
    changed = [
        f"{name} = {_text(after[name])} (recipe: {_text(value)})"
        for name, value in before.items()
        if after[name] != value and name != "seed" and not name.startswith(MACHINE)
    ]
    found = [f"pre-trained with {', '.join(changed)}"] if changed else []
    steps = NUM_IMAGES[wanted.data.name][0] // own.optim.batch_size * own.optim.epochs
    if evaluation.step != steps and not changed:
        found.append(f"measured at step {'?' if evaluation.step is None else f'{evaluation.step:,}'} of {steps:,}")
    return found


def _of_protocol(evaluation: Evaluation, own: Config) -> list[str]:
    data = {name: value for name, value in flat_options(own).items() if name.startswith("data.")}
    defaults = evaluation.defaults | {name: value for name, value in data.items() if name in evaluation.options}
    changed = [
        f"{name} = {_text(value)} (protocol: {_text(defaults[name])})"
        for name, value in evaluation.protocol.items()
        if name in defaults and value != _plain(defaults[name])
    ]
    return [f"evaluated with {', '.join(changed)}"] if changed else []


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


def _text(value: object) -> str:
    return value if isinstance(value, str) else shown(value)


def run_settings(directory: Path) -> dict[str, Any] | None:
    """The options of a run that say what was computed, and `seed`; None where config.yaml cannot be read."""
    try:
        config = resolve(config_file=directory / "config.yaml")
    except UserError:
        return None
    return {name: value for name, value in flat_options(config).items() if not name.startswith(MACHINE)}
