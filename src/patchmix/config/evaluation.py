"""The options of evaluations: one dataclass per command."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from patchmix.config.options import NON_NEGATIVE, POSITIVE, POSITIVES, Accept, Checked, option, require
from patchmix.config.training import DataConfig, Device, Precision

# ruff: noqa: RUF009  (`option` makes a dataclass field, which the rule does not see)


def _are_percentages(values: tuple[float, ...]) -> bool:
    return all(0 < value <= 100 for value in values)


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
    seed: int = option(0, "seed of all random choices", NON_NEGATIVE)
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
class FrozenConfig(EvalConfig):
    """What evaluations of frozen features have in common."""

    baselines: bool = option(True, "measure the untrained encoder and raw pixels too")
    cache: str | None = option(
        None, "folder that keeps frozen features, so that an interrupted or later evaluation reads them (null: none)"
    )


@dataclass(frozen=True)
class KnnConfig(FrozenConfig):
    """Weighted nearest-neighbour classification of frozen features."""

    k: tuple[int, ...] = option((10, 20, 100, 200), "numbers of neighbours, bounded by the training images", POSITIVES)
    temperature: float = option(0.07, "votes are weighted exp(similarity / temperature)", POSITIVE)
    chunk_size: int = option(1024, "test images compared at once; bounds memory", POSITIVE)
    leave_one_out: bool = option(False, "no test images: classify each training image by the nearest of all the others")
    recall_at: tuple[int, ...] = option(
        (1, 5, 10), "retrieval: is an image of the same class among the N nearest?", POSITIVES
    )
    average_precision: bool = option(
        True, "retrieval: mAP too; it sorts all training images for each test image, several times the work of kNN"
    )


MOST_BESIDE = 4


def _are_few_and_different(values: tuple[str, ...]) -> bool:
    return len(set(values)) == len(values) <= MOST_BESIDE and all(values)


@dataclass(frozen=True)
class SimilarityConfig(FrozenConfig):
    """Similarity of images of one class, against that of images of two classes."""

    beside: tuple[str, ...] = option(
        (),
        "other checkpoints to compare, on the same images and in the same picture; each takes images as it was "
        "trained, whatever data.image_size, data.mean and data.std say",
        Accept(_are_few_and_different, f"(run directories, files, or timm:MODEL; at most {MOST_BESIDE}, each once)"),
    )
    split: Literal["train", "test"] = option("test", "which images; train needs no test images")
    num_queries: int = option(5, "rows of the picture, each a query of another class", POSITIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.checkpoint not in self.beside, "beside", self.beside, "checkpoints other than --checkpoint")


FewshotClassifier = Literal["logistic", "knn", "finetune"]


@dataclass(frozen=True)
class FewshotConfig(FrozenConfig):
    """Classification from a few labelled images per class."""

    labels_per_class: tuple[int, ...] | None = option(
        None,
        "labelled images per class (null: 1 5 10, as far as every class has so many; none where percent is given)",
        POSITIVES,
    )
    percent: tuple[float, ...] = option(
        (),
        "also this share of each class's labels, in per cent, at least one: 1 10",
        Accept(_are_percentages, "above 0, at most 100"),
    )
    draws: int = option(5, "random draws of the labelled images", POSITIVE)
    classifiers: tuple[FewshotClassifier, ...] = option(
        ("logistic",),
        "what learns from the labels: logistic (regression on frozen features), knn, finetune (the whole network; "
        "begins anew when it was interrupted)",
        Accept(bool, "(at least one)"),
    )
    k: int = option(20, "neighbours of classifier knn, bounded by the labelled images", POSITIVE)
    finetune_epochs: int | None = option(
        None,
        "epochs of classifier finetune (null: 100, or as many as make 400 steps); everything else as `patchmix "
        "finetune`",
        POSITIVE,
    )


Pool = Literal["default", "token", "mean", "both"]


@dataclass(frozen=True)
class EmbedConfig(EvalConfig):
    """Features of any images, in a file."""

    output: str | None = option(
        None, "where embeddings.npz and results/embed.json are written (null: the run, or here)"
    )
    split: Literal["train", "test"] = option("train", "which images; a folder without a folder train is all train")
    layers: int = option(1, "last blocks whose tokens are concatenated (Vision Transformers)", POSITIVE)
    pool: Pool = option(
        "default", "default: what the encoder gives; token: class token; mean: mean of the patch tokens; both"
    )
    normalize: bool = option(False, "L2-normalise the vectors")
    format: Literal["npz", "parquet"] = option(
        "npz", "npz: embeddings.npz; parquet: embeddings.parquet (needs pyarrow)"
    )
    chunk_size: int = option(
        10_000, "images per chunk: an interrupted command goes on after the last whole one", POSITIVE
    )
    resume: bool = option(False, "go on after the chunks that an interrupted command has written")
    overwrite: bool = option(False, "replace embeddings that are there, finished or not")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not (self.resume and self.overwrite), "overwrite", True, "false together with resume: take one of them")
