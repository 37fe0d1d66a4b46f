"""The options of pre-training: a run is one `Config`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from patchmix.config.options import (
    AT_LEAST_TWO,
    BELOW_ONE,
    FRACTION,
    FRACTIONS,
    NON_NEGATIVE,
    POSITIVE,
    RANGE,
    Accept,
    Checked,
    option,
    require,
)

# ruff: noqa: RUF009  (`option` makes a dataclass field, which the rule does not see)

DATA_NAMES = ("mnist5k", "cifar10", "cifar100", "imagenet", "imagenette", "folder")
HUGGINGFACE, TORCHVISION = "huggingface:", "torchvision:"  # and a name: which there are, those packages know
_DATA = Accept(
    lambda name: name in DATA_NAMES or (name.startswith((HUGGINGFACE, TORCHVISION)) and not name.endswith(":")),
    f"one of {', '.join(DATA_NAMES)}, torchvision:NAME, huggingface:NAME",
    names=DATA_NAMES,
)
ViewKind = Literal["photo", "digits"]
Device = Literal["auto", "cpu", "cuda"]
MethodName = Literal["patchmix", "patchmix-lean", "moco-v3", "simclr", "sdmp", "unmix"]
Mixer = Literal["patches", "mixup", "cutmix"]
Precision = Literal["auto", "32-true", "bf16-mixed", "16-mixed"]


@dataclass(frozen=True)
class DataConfig(Checked):
    """Which images, and how they are read."""

    section: ClassVar[str] = "data"
    name: str = option(
        "folder",
        "data set: a name, folder for images of your own, torchvision:NAME (such as torchvision:Flowers102), or "
        "huggingface:NAME of the hub or a directory",
        _DATA,
    )
    root: str | None = option(
        None,
        "where the data lies, or is downloaded to; required for folder and imagenet (null: data/, for huggingface:NAME "
        "its own cache)",
    )
    subset: str | None = option(None, "configuration of huggingface:NAME to load (null: the only one)")
    image_column: str | None = option(None, "column of huggingface:NAME with the images (null: the only one)")
    label_column: str | None = option(
        None, "column of huggingface:NAME with the classes (null: the only one that has class labels)"
    )
    num_workers: int | None = option(
        None, "processes that read images (null: by cores; 0 where reading costs little)", NON_NEGATIVE
    )
    image_size: int | None = option(
        None, "height and width in pixels of what the encoder sees (null: the data set's, 224 for folder)", POSITIVE
    )
    limit: int | None = option(
        None, "training images to use: a fixed subset, stratified where labels exist (null: all)", POSITIVE
    )
    channels: Literal[1, 3] | None = option(None, "1 grey or 3 RGB (null: as the data set has them; folder 3)")
    mean: tuple[float, ...] | None = option(None, "per-channel mean in [0, 1] (null: the data set's)", FRACTIONS)
    std: tuple[float, ...] | None = option(
        None,
        "per-channel standard deviation in [0, 1] (null: the data set's)",
        Accept(lambda value: bool(value) and all(0 < item <= 1 for item in value), "above 0, at most 1"),
    )
    max_unreadable: float = option(
        0.1, "end the run when, of at least 200 files tried, more than this share cannot be read", FRACTION
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for given, other in (("mean", "std"), ("std", "mean")):
            lone = getattr(self, given) is not None and getattr(self, other) is None
            require(not lone, f"data.{given}", getattr(self, given), f"it needs data.{other} beside it")
        for only in ("subset", "image_column", "label_column"):
            fits = getattr(self, only) is None or self.name.startswith(HUGGINGFACE)
            require(fits, f"data.{only}", getattr(self, only), f"it is for huggingface:NAME, not {self.name}")


@dataclass(frozen=True)
class ModelConfig(Checked):
    """The encoder (any timm model that gives pooled features) and the two heads."""

    section: ClassVar[str] = "model"
    name: str = option(
        "vit_tiny",
        "vit_tiny, vit_small, vit_base (the paper's sizes), or any timm model, such as resnet50 or convnext_tiny; "
        "patch_size, width, depth, num_heads, pooling and position_std are for plain ViTs",
    )
    patch_size: int | None = option(
        None, "pixels a side of the model's patches (null: 16, or the timm model's own)", POSITIVE
    )
    width: int | None = option(None, "embedding dimension (null: the named model's)", POSITIVE)
    depth: int | None = option(None, "transformer blocks (null: the named model's)", POSITIVE)
    num_heads: int | None = option(
        None, "attention heads (null: the named model's; the paper's ViT-S has 12)", POSITIVE
    )
    pooling: Literal["token", "avg"] | None = option(
        None, "embedding: class token, or mean of the patch tokens (null: class token where there is one)"
    )
    drop_path: float = option(0.1, "stochastic depth in the trained encoder, never in the momentum encoder", BELOW_ONE)
    position_std: float | None = option(
        None, "standard deviation of the initial position embeddings (null: 0.02)", NON_NEGATIVE
    )
    projector_width: int = option(4096, "hidden width of projector and predictor", POSITIVE)
    projection_size: int = option(256, "size of a projection", POSITIVE)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.width is not None and self.num_heads is not None:
            divisor = f"a divisor of model.width = {self.width}"
            require(self.width % self.num_heads == 0, "model.num_heads", self.num_heads, divisor)


@dataclass(frozen=True)
class MethodConfig(Checked):
    """The contrastive method: which views are compared, with which targets."""

    section: ClassVar[str] = "method"
    name: MethodName = option("patchmix", "the method: a table of contrasts (docs/methods.md)")
    num_mix: int = option(2, "M, images mixed into one (1: no mixing)", POSITIVE)
    temperature: float = option(0.2, "temperature of the softmax (τ)", POSITIVE)
    temperature_final: float | None = option(
        None, "temperature at the end of the run, reached by a cosine (null: the same all along)", POSITIVE
    )
    smoothing: float = option(0.0, "share of every target spread evenly over all keys (ε)", BELOW_ONE)
    momentum: float | None = option(
        0.996,
        "the momentum encoder's at the start, cosine to momentum_final (null: no such encoder)",
        FRACTION,
    )
    momentum_final: float = option(1.0, "momentum at the end of the run", FRACTION)
    mix_size: int | None = option(
        None,
        "pixels a side of the squares that are mixed (null: a ViT's patch; else the largest of 16, 8, 4, 2, 1 that "
        "divides views and crops and leaves 14 a side: 16 at 224, 2 at 32)",
        POSITIVE,
    )
    target_weights: Literal["groups", "patches"] = option(
        "groups",
        "weights of the mixed images in the targets: groups, alike as published; patches, their shares of the patches "
        "(differs where num_mix does not divide the number of patches)",
    )
    mixers: tuple[Mixer, ...] | None = option(
        None,
        "how images are mixed: patches, mixup, cutmix; of several each step draws one (null: the method's own, patches "
        "for patchmix). The weights of mixup and cutmix are exact",
    )
    permutations: Literal["batch", "image"] = option(
        "batch", "whether all images of a view are cut alike (batch, as published) or each in its own way (image)"
    )
    symmetric: bool = option(False, "compute each contrast with the two views exchanged as well")
    mix_to_origin_weight: float | None = option(
        None, "weight of the losses mix to origin (null: the method's, 0.5 for patchmix; 0: without)", NON_NEGATIVE
    )
    mix_to_mix_weight: float | None = option(
        None, "weight of the loss mix to mix (null: the method's, 0.5 for patchmix; 0: without)", NON_NEGATIVE
    )
    local_mix_weight: float | None = option(
        None, "weight of the loss of mixed local crops (null: the method's, 1 for patchmix; 0: without)", NON_NEGATIVE
    )
    mix_group: int | None = option(
        None,
        "images among which mixing wraps (null: one process's; set it to compare process counts)",
        POSITIVE,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.mixers != (), "method.mixers", self.mixers, "name one at least, or null")
        soft = "0: simclr has no targets to smooth"
        require(self.name != "simclr" or self.smoothing == 0, "method.smoothing", self.smoothing, soft)
        two = "2: cutmix mixes two images (or give --method.mixers without it)"
        require("cutmix" not in (self.mixers or ()) or self.num_mix <= 2, "method.num_mix", self.num_mix, two)


@dataclass(frozen=True)
class ViewsConfig(Checked):
    """Augmentation: method.md's table (photo), or geometric views for digits and glyphs (digits)."""

    section: ClassVar[str] = "views"
    kind: ViewKind = option("photo", "photo: crops, flips, colour; digits: affine and elastic warps")
    global_scale: tuple[float, float] = option((0.1, 1.0), "area of a global crop, as a share of the image", RANGE)
    num_local_crops: int = option(0, "local crops per image", NON_NEGATIVE)
    local_size: int = option(96, "height and width of a local crop in pixels", POSITIVE)
    local_scale: tuple[float, float] = option((0.05, 0.35), "area of a local crop, as a share of the image", RANGE)
    ratio: tuple[float, float] = option((3 / 4, 4 / 3), "aspect ratio of a crop, lowest and highest", RANGE)
    flip: float = option(0.5, "probability of a horizontal flip (photo)", FRACTION)
    jitter: float = option(0.8, "probability of colour jitter (photo)", FRACTION)
    brightness: float = option(0.4, "strength of brightness jitter (photo)", NON_NEGATIVE)
    contrast: float = option(0.4, "strength of contrast jitter (photo)", NON_NEGATIVE)
    saturation: float = option(0.2, "strength of saturation jitter (photo)", NON_NEGATIVE)
    hue: float = option(0.1, "strength of hue jitter (photo)", Accept(lambda value: 0 <= value <= 0.5, "from 0 to 0.5"))
    grey: float = option(0.2, "probability of turning grey (photo)", FRACTION)
    blur: tuple[float, float, float] = option(
        (1.0, 0.1, 0.5), "probability of blur in view 1, view 2, local crops (photo)", FRACTIONS
    )
    solarise: tuple[float, float, float] = option(
        (0.0, 0.2, 0.0), "probability of solarising view 1, view 2, local crops (photo)", FRACTIONS
    )
    shift: float = option(0.1, "largest shift, as a share of the image (digits)", NON_NEGATIVE)
    rotation: float = option(12.0, "largest rotation in degrees (digits)", NON_NEGATIVE)
    shear: float = option(0.15, "largest shear (digits)", NON_NEGATIVE)
    elastic: float = option(0.07, "largest elastic displacement, as a share of the image (digits)", NON_NEGATIVE)
    elastic_grid: int = option(5, "control points a side of the elastic displacement (digits)", AT_LEAST_TWO)
    thickness: float = option(0.0, "largest change of stroke thickness, 0 to 1 (digits)", FRACTION)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("global_scale", "local_scale"):
            value = getattr(self, name)
            whole = "at most 1 (the whole image) for photo views"
            require(self.kind != "photo" or value[1] <= 1, f"views.{name}", value, whole)


@dataclass(frozen=True)
class OptimConfig(Checked):
    """AdamW, its schedules, and how long to train."""

    section: ClassVar[str] = "optim"
    epochs: int = option(100, "passes over the data", POSITIVE)
    warmup_epochs: float = option(10.0, "epochs of linear warm-up from 0 (at most half the run)", NON_NEGATIVE)
    batch_size: int = option(512, "images per step, over all processes", POSITIVE)
    lr: float = option(5e-4, "learning rate per 256 images; the peak is lr * batch_size / 256", POSITIVE)
    final_lr: float = option(1e-6, "learning rate at the end of the cosine (absolute)", NON_NEGATIVE)
    weight_decay: float = option(0.04, "weight decay at first, cosine to final_weight_decay", NON_NEGATIVE)
    final_weight_decay: float = option(0.4, "weight decay at the end", NON_NEGATIVE)
    beta1: float = option(0.9, "AdamW's first coefficient", BELOW_ONE)
    beta2: float = option(0.999, "AdamW's second coefficient", BELOW_ONE)
    clip_grad_norm: float | None = option(
        None, "clip the gradient to this norm (null: no clipping, as published)", POSITIVE
    )


@dataclass(frozen=True)
class RunConfig(Checked):
    """Machine, bookkeeping, and what is watched while training."""

    section: ClassVar[str] = "run"
    device: Device = option("auto", "auto takes CUDA where there is a device")
    precision: Precision = option(
        "auto", "auto: bf16-mixed on CUDA and on CPUs that multiply in it, else 32-true; 16-mixed on request"
    )
    photometrics: Literal["auto", "workers", "device"] = option(
        "auto", "who applies jitter, grey, blur and solarising: auto: the device on CUDA, else the workers"
    )
    num_devices: int = option(1, "processes on this machine, one device each", POSITIVE)
    num_nodes: int = option(1, "machines (launched by torchrun or SLURM)", POSITIVE)
    num_threads: int | None = option(None, "threads of each process (null: the cores it may use)", POSITIVE)
    strategy: Literal["auto", "ddp"] = option("auto", "auto: ddp where there are several processes")
    checkpoint_every_steps: int | None = option(None, "steps between checkpoints (null: each epoch's end)", POSITIVE)
    keep_checkpoints: int = option(2, "newest checkpoints to keep", POSITIVE)
    deterministic: bool = option(False, "deterministic kernels on CUDA too (slower); the CPU always is")
    activation_checkpointing: bool = option(
        False,
        "keep no activations of the encoder and compute them again in the backward pass: a fraction of the memory for "
        "about a quarter more time (ViTs)",
    )
    log_every_steps: int | None = option(None, "steps between metrics (null: 1 on the CPU, 20 on CUDA)", POSITIVE)
    eval_every_epochs: int = option(1, "epochs between online evaluations (0: never)", NON_NEGATIVE)
    eval_images: int = option(1000, "training images that an online evaluation looks at", POSITIVE)
    tensorboard: bool = option(True, "write TensorBoard event files")


@dataclass(frozen=True)
class Config(Checked):
    """A whole run. `output` is its directory; `max_steps` stops early, the schedules stay as they are."""

    seed: int = option(0, "seed of every random choice", Accept(lambda value: 0 <= value < 2**32, "from 0 to 2^32 - 1"))
    output: str | None = option(None, "run directory (null: runs/RECIPE)")
    max_steps: int | None = option(
        None, "stop after so many steps, counted from the run's beginning (null: to the end)", POSITIVE
    )
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    views: ViewsConfig = field(default_factory=ViewsConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        batch, group = self.optim.batch_size, self.method.mix_group
        processes = self.run.num_devices * self.run.num_nodes
        multiple = f"a multiple of the number of processes, {processes}"
        require(batch % processes == 0, "optim.batch_size", batch, multiple)
        require(batch // processes >= 2, "optim.batch_size", batch, "at least 2 images per process, to compare")
        divisor = f"a divisor of the images per process, {batch // processes}"
        require(group is None or (batch // processes) % group == 0, "method.mix_group", group, divisor)
