"""The options of what trains on labels: the linear probe and fine-tuning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from patchmix.config.evaluation import EvalConfig, FrozenConfig
from patchmix.config.options import (
    BELOW_ONE,
    FRACTION,
    NON_NEGATIVE,
    POSITIVE,
    POSITIVES,
    Accept,
    option,
    own_options,
    require,
)

# ruff: noqa: RUF009  (`option` makes a dataclass field, which the rule does not see)

Augmentation = Literal["crop", "pad", "digits", "none"]
Pooling = Literal["token", "mean", "both", "last4"]


@dataclass(frozen=True)
class TuningConfig(EvalConfig):
    """What the linear probe and fine-tuning have in common."""

    resume: bool = option(False, "go on with the work in results/COMMAND/ from its newest checkpoint")
    overwrite: bool = option(False, "begin anew where results/COMMAND/ holds work, finished or not")
    checkpoint_every_epochs: int = option(1, "epochs between checkpoints", POSITIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not (self.resume and self.overwrite), "overwrite", True, "false together with resume: take one of them")


@dataclass(frozen=True)
class ProbeConfig(TuningConfig, FrozenConfig):
    """Linear classification of frozen features, many heads in one pass of the encoder."""

    fast: bool = option(
        False, "cache the features of a few augmented copies and fit the heads by L-BFGS, in place of the protocol"
    )
    epochs: int = option(100, "passes over the training images (protocol)", POSITIVE)
    batch_size: int | None = option(None, "images per step (null: 256; 1024 for imagenet)", POSITIVE)
    lr: tuple[float, ...] | None = option(
        None,
        "learning rates per 256 images, one head each (null: the published one of this width, and it times 1/10, 1/3, "
        "3, 10, 30, 100)",
        POSITIVES,
    )
    poolings: tuple[Pooling, ...] = option(
        ("token", "mean", "both", "last4"),
        "what heads read: class token, mean of the patch tokens, both, class tokens of the last four blocks",
    )
    holdout: float = option(
        0.1,
        "share of the TRAINING images that choose the head to report",
        Accept(lambda value: 0 < value < 1, "between 0 and 1"),
    )
    augmentation: Augmentation | None = option(
        None,
        "of training images: crop (random resized crop and flip), pad (shift by up to 4 px and flip), digits (small "
        "warps), none (null: digits for mnist5k, else crop)",
    )
    copies: int = option(4, "fast: augmented copies of each training image, beside the plain one", NON_NEGATIVE)
    penalties: tuple[float, ...] = option(
        (0.001, 0.01, 0.1, 1.0, 10.0, 100.0, 1000.0),
        "fast: inverse L2 penalties (scikit-learn's C), one head each",
        POSITIVES,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        expected = "null with --fast, which has no learning rates but --penalties"
        require(not (self.fast and self.lr is not None), "lr", self.lr, expected)
        if not self.fast:
            return
        for name in ("resume", "overwrite"):
            expected = "false with --fast, which keeps no work to go on with (--cache keeps features)"
            require(not getattr(self, name), name, True, expected)
        expected = "null with --fast, which has no steps (run.batch_size: images per forward pass)"
        require(self.batch_size is None, "batch_size", self.batch_size, expected)
        usual = own_options(ProbeConfig)["epochs"].default  # whether it was given cannot be told
        expected = "with --fast, which has no epochs but --copies, leave it out"
        require(self.epochs == usual, "epochs", self.epochs, expected)


@dataclass(frozen=True)
class FinetuneConfig(TuningConfig):
    """Training of the whole network with labels, by the published recipe."""

    checkpoint: str = option(
        "", "a run directory, a file of ours, a reference .pth, timm:MODEL, or none: from scratch, with --architecture"
    )
    architecture: str | None = option(
        None,
        "with --checkpoint none: the network to train from scratch, as a run or file has it, or timm:MODEL",
    )
    epochs: int = option(100, "passes over the training images", POSITIVE)
    warmup_epochs: float = option(10.0, "epochs of linear warm-up (at most half of them)", NON_NEGATIVE)
    batch_size: int | None = option(None, "images per step (null: 256; 1024 for imagenet)", POSITIVE)
    lr: float | None = option(
        None, "learning rate per 256 images (null: 1e-3 for width up to 192, else 5e-4)", POSITIVE
    )
    warmup_lr: float = option(1e-6, "learning rate at the start of the warm-up (absolute)", NON_NEGATIVE)
    final_lr: float = option(1e-5, "learning rate at the end of the cosine (absolute)", NON_NEGATIVE)
    weight_decay: float = option(0.05, "AdamW's weight decay", NON_NEGATIVE)
    layer_decay: float = option(
        0.75,
        "learning rate of a block over that of the next (1: all alike)",
        Accept(lambda value: 0 < value <= 1, "above 0 and up to 1"),
    )
    drop_path: float = option(0.1, "stochastic depth", BELOW_ONE)
    ema_decay: float = option(0.99996, "moving average of the weights, measured too (0: none)", BELOW_ONE)
    clip_grad_norm: float | None = option(None, "clip the gradient to this norm (null: no clipping)", POSITIVE)
    augmentation: Augmentation | None = option(
        None,
        "crop (random resized crop and flip), pad (shift by up to 4 px and flip), digits (small warps), none (null: "
        "digits for mnist5k, pad for inputs of up to 32 px, else crop); RandAugment, jitter and erasing belong to crop "
        "and pad",
    )
    rand_augment: str | None = option("rand-m9-mstd0.5-inc1", "timm's RandAugment (null: none)")
    jitter: float = option(
        0.4, "colour jitter where RandAugment is off (timm, as published, does not combine them)", NON_NEGATIVE
    )
    erasing: float = option(0.25, "probability of random erasing", FRACTION)
    mixup: float = option(0.8, "mixup's alpha (0: none)", NON_NEGATIVE)
    cutmix: float = option(1.0, "CutMix's alpha (0: none)", NON_NEGATIVE)
    smoothing: float = option(0.1, "label smoothing", BELOW_ONE)
    freeze: bool = option(False, "train the head alone, on augmented images")

    def __post_init__(self) -> None:
        super().__post_init__()
        scratch = self.checkpoint == "none"
        expected = "a run, a file, or timm:MODEL with --checkpoint none, null otherwise"
        require((self.architecture is not None) == scratch, "architecture", self.architecture, expected)
