"""The options of `patchmix detect`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from patchmix.config.options import (
    BELOW_ONE,
    FRACTION,
    NON_NEGATIVE,
    POSITIVE,
    RANGE,
    Accept,
    Checked,
    option,
    require,
)
from patchmix.config.training import Device, Precision

# ruff: noqa: RUF009  (`option` makes a dataclass field, which the rule does not see)

SPLITS = ("train", "val")


@dataclass(frozen=True)
class DetectDataConfig(Checked):
    """Images with objects marked in them, in COCO's format."""

    section: ClassVar[str] = "data"
    name: Literal["coco", "digits-scenes"] = option(
        "coco", "coco: folders and annotation files in COCO's format; digits-scenes: scenes made of the demo's digits"
    )
    train: str | None = option(None, "folder of the training images")
    train_annotations: str | None = option(None, "their annotations, a JSON file in COCO's format")
    val: str | None = option(None, "folder of the images to score on")
    val_annotations: str | None = option(None, "their annotations")
    limit: int | None = option(None, "use so many training images only (null: all)", POSITIVE)
    num_scenes: int = option(2000, "digits-scenes: training scenes; a fifth as many to score on", POSITIVE)
    max_unreadable: float = option(
        0.1, "share of a split's images that may be missing, and share of the others that may be unreadable", FRACTION
    )
    num_workers: int | None = option(
        None, "processes that read images (null: one a core but for the first)", NON_NEGATIVE
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.name != "coco":
            return
        for split in SPLITS:
            for key, what in ((split, "a folder of images"), (f"{split}_annotations", "a JSON file in COCO's format")):
                require(bool(getattr(self, key)), f"data.{key}", getattr(self, key), what)


@dataclass(frozen=True)
class DetectRunConfig(Checked):
    """Machine settings."""

    section: ClassVar[str] = "run"
    device: Device = option("auto", "auto takes CUDA where there is a device")
    precision: Precision = option("auto", "auto: bf16-mixed on CUDA, 32-true on the CPU")
    num_threads: int | None = option(None, "threads (null: the cores it may use)", POSITIVE)
    batch_size: int = option(4, "images at once while scoring; lower it when memory is short", POSITIVE)


@dataclass(frozen=True)
class DetectConfig(Checked):
    """Training of a Mask R-CNN on an encoder, and its score as COCO scores."""

    checkpoint: str = option(
        "", "a run directory, a file of ours, a reference .pth, timm:MODEL, or none: from scratch, with --architecture"
    )
    architecture: str | None = option(
        None, "with --checkpoint none: the network to train from scratch, as a run or file has it, or timm:MODEL"
    )
    output: str | None = option(None, "where results/ is written (null: the run, or results/ here)")
    num_heads: int | None = option(None, "heads of a reference .pth of an unpublished width", POSITIVE)
    seed: int = option(0, "seed of all random choices", NON_NEGATIVE)
    resume: bool = option(False, "go on with the work in results/detect/ from its newest checkpoint")
    overwrite: bool = option(False, "begin anew where results/detect/ holds work, finished or not")
    checkpoint_every_epochs: int = option(1, "epochs between checkpoints", POSITIVE)
    image_size: int | None = option(
        None,
        "longest side of images, px; that of training images varies by the jitter (null: 1024 on a GPU, else 320; "
        "96 for digits-scenes)",
        POSITIVE,
    )
    masks: bool = option(True, "instance segmentation too; false: boxes alone")
    epochs: int = option(12, "passes over the training images", POSITIVE)
    batch_size: int | None = option(
        None, "images a step (null: 64 on a GPU, 4 on the CPU, at most all images)", POSITIVE
    )
    lr: float = option(1e-4, "AdamW's learning rate for 64 images a step; it follows the batch's square root", POSITIVE)
    warmup_steps: int = option(250, "steps of linear warm-up (at most a tenth of all)", NON_NEGATIVE)
    weight_decay: float = option(0.1, "AdamW's weight decay", NON_NEGATIVE)
    layer_decay: float = option(
        0.7,
        "learning rate of a block over that of the next (1: all alike)",
        Accept(lambda value: 0 < value <= 1, "above 0 and up to 1"),
    )
    drop_path: float = option(0.1, "stochastic depth", BELOW_ONE)
    clip_grad_norm: float | None = option(1.0, "clip the gradient to this norm (null: no clipping)", POSITIVE)
    jitter: tuple[float, float] = option((0.1, 2.0), "large-scale jitter: how much images are scaled", RANGE)
    flip: bool | None = option(
        None, "mirror half of the training images (null: true, but for digits-scenes, where left and right differ)"
    )
    freeze: bool = option(False, "train the pyramid and the heads alone")
    window: int | None = option(14, "side of attention's windows in patches (null: all attention is global)", POSITIVE)
    global_blocks: int = option(4, "blocks with global attention, evenly spaced, where there are windows", POSITIVE)
    channels: int = option(256, "channels of the pyramid and the heads; 64 for small images on a CPU", POSITIVE)
    regions: int = option(
        512, "proposed regions of an image that the box head is trained on; 128 for small images on a CPU", POSITIVE
    )
    overlays: int = option(8, "val images to draw what was found into, beside what is marked", NON_NEGATIVE)
    data: DetectDataConfig = field(default_factory=DetectDataConfig)
    run: DetectRunConfig = field(default_factory=DetectRunConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.checkpoint), "checkpoint", self.checkpoint, "a run directory, a weights file, or timm:MODEL")
        require(not (self.resume and self.overwrite), "overwrite", True, "false together with resume: take one of them")
        scratch = self.checkpoint == "none"
        expected = "a run, a file, or timm:MODEL with --checkpoint none, null otherwise"
        require((self.architecture is not None) == scratch, "architecture", self.architecture, expected)
