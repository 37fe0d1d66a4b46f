"""The options of evaluations: one dataclass per command."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from patchmix.config.options import NON_NEGATIVE, POSITIVE, POSITIVES, Accept, Checked, option, require
from patchmix.config.training import DataConfig, Device, Precision

# ruff: noqa: RUF009  (`option` makes a dataclass field, which the rule does not see)


@dataclass(frozen=True)
class EvalRunConfig(Checked):
    """Machine settings of an evaluation."""

    section: ClassVar[str] = "run"
    device: Device = option("auto", "auto takes CUDA where there is a device")
    precision: Precision = option("auto", "auto: bf16-mixed on CUDA, 32-true on the CPU")
    num_threads: int | None = option(None, "threads (null: the cores it may use)", POSITIVE)
    batch_size: int = option(256, "images per forward pass; lower it when memory is short", POSITIVE)


@dataclass(frozen=True)
class EvalConfig(Checked):
    """What every evaluation command takes."""

    checkpoint: str = option("", "a run directory, a file of ours, a reference .pth, or timm:MODEL")
    output: str | None = option(None, "where results/ is written (null: the run, or results/ here)")
    num_heads: int | None = option(None, "heads of a reference .pth of an unpublished width", POSITIVE)
    seed: int = option(0, "seed of the untrained encoder and of random draws", NON_NEGATIVE)
    baselines: bool = option(True, "measure the untrained encoder and raw pixels too")
    crop_ratio: float | None = option(
        None,
        "central crop over the resized shorter side (null: 224/256, or 1 for images of the input size)",
        Accept(lambda value: 0 < value <= 1, "above 0 and up to 1"),
    )
    data: DataConfig = field(default_factory=DataConfig)
    run: EvalRunConfig = field(default_factory=EvalRunConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        expected = "a run directory, a weights file, or timm:MODEL"
        require(bool(self.checkpoint), "checkpoint", self.checkpoint, expected)


@dataclass(frozen=True)
class KnnConfig(EvalConfig):
    """Weighted nearest-neighbour classification of frozen features."""

    k: tuple[int, ...] = option((10, 20, 100, 200), "numbers of neighbours, bounded by the training images", POSITIVES)
    temperature: float = option(0.07, "votes are weighted exp(similarity / temperature)", POSITIVE)
    chunk_size: int = option(1024, "test images compared at once; bounds memory", POSITIVE)


@dataclass(frozen=True)
class FewshotConfig(EvalConfig):
    """Logistic regression on frozen features of a few labelled images per class."""

    labels_per_class: int = option(10, "labelled images per class", POSITIVE)
    draws: int = option(5, "random draws of the labelled images", POSITIVE)
