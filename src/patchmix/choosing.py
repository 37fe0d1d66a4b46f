"""The rules of recipe `folder`: input size, model, batch and epochs, by the images and by this machine.

The numbers are those of recipes: of `cifar10-cpu` on a CPU (measured on two cores), of the paper's columns on a
GPU. What is between their data sets' sizes is interpolated; what is given is kept, and the rest follows it.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from patchmix.choices import Choice, Choices, Machine
from patchmix.errors import UserError

if TYPE_CHECKING:
    from patchmix.data.sample import ImageSample

CPU_IMAGES = 200_000  # images seen by a run per core: cifar10-cpu's 400,000 take half an hour on two
MOST_CPU_CORES = 16  # more do not make a small model faster
MOST_CPU_EPOCHS = 400
LARGEST_BATCH = {"cpu": 128, "cuda": 512}  # over all processes: cifar10-cpu's, the paper's for CIFAR
GRIDS = {"cpu": 8, "cuda": 14}  # patches a side: cifar10-cpu's, ViT-S/16's at 224 px
SIZES = {"cpu": ((48, 32), (math.inf, 64)), "cuda": ((48, 32), (96, 64), (160, 128), (math.inf, 224))}
CIFAR, IMAGENET = (50_000, 800), (1_281_167, 300)  # images and epochs of the paper
MEMORY_SHARE = 0.6  # of a GPU's, for what a step keeps; the rest for weights, heads, views and kernels
FEWEST_MEASURED = 16  # fewer decoded images say little about mean and deviation
FEW_IMAGES = 10_000  # below, the smallest published model is large enough

# method.md, "Pre-training recipes": lr per 256, weight decay, momentum.
COLUMNS: dict[str, dict[str, Any]] = {
    "vit_tiny": {
        "optim.lr": 2e-3,
        "optim.weight_decay": 0.02,
        "optim.final_weight_decay": 0.2,
        "method.momentum": None,
    },
    "vit_small": {
        "optim.lr": 5e-4,
        "optim.weight_decay": 0.04,
        "optim.final_weight_decay": 0.4,
        "method.momentum": 0.996,
    },
    "vit_base": {
        "optim.lr": 7.5e-4,
        "optim.weight_decay": 0.04,
        "optim.final_weight_decay": 0.4,
        "method.momentum": 0.996,
    },
}
# Recipe cifar10-cpu's.
SMALL: dict[str, Any] = {
    "model.name": "vit_tiny",
    "model.width": 64,
    "model.depth": 3,
    "model.num_heads": 2,
    "model.drop_path": 0.0,
    "model.position_std": 1.5,
    "model.projector_width": 512,
    "model.projection_size": 128,
    "method.momentum": None,
    "optim.lr": 8e-3,
    "optim.weight_decay": 0.02,
    "optim.final_weight_decay": 0.02,
    "views.global_scale": (0.4, 1.0),
    "views.blur": (0.0, 0.0, 0.0),
    "views.solarise": (0.0, 0.0, 0.0),
}
SIZES_OF = {"vit_tiny": (192, 12), "vit_small": (384, 12), "vit_base": (768, 12)}  # width, depth
DEFAULT_SIZE, DEFAULT_PATCH = 224, 16  # what null means for a folder


def choose(sample: ImageSample, machine: Machine, given: Mapping[str, Any]) -> Choices:
    """Settings for these images on this machine.

    Args:
        sample: the images, by a look at some of them.
        machine: where the run will run.
        given: {'section.key': value} of what the user gave; it is kept, and never among the choices.

    Raises:
        UserError: a single image; a given image size that no patch size fits.
    """
    if sample.num_images < 2:
        raise UserError("there is 1 image: pre-training compares images and needs at least two")
    found: list[Choice] = []
    known = dict(given)
    if "data.image_size" in known:
        known["data.image_size"] = known["data.image_size"] or DEFAULT_SIZE
    for rule in (_pixels, _image_size, _model, _patch, _batch, _length, _watching):
        settled = {option: value for each in found for option, value in each.options.items()} | known
        choice = rule(sample, machine, settled)
        left = {} if choice is None else {name: value for name, value in choice.options.items() if name not in given}
        if choice is not None and left:
            found.append(dataclasses.replace(choice, options=left))
    tried = sample.num_tried
    low, high = round(sample.shorter_sides.low), round(sample.shorter_sides.high)
    looked = "" if tried == sample.num_images else f" ({tried:,} looked at)"
    subject = (
        f"{sample.num_images:,} images{looked}, shorter side {low if low == high else f'mostly {low} to {high}'} px, "
        f"{'grey' if sample.grey else 'colour'}; {machine.text}"
    )
    return Choices(subject, tuple(found))


def _pixels(sample: ImageSample, machine: Machine, settled: Mapping[str, Any]) -> Choice | None:
    """One channel where no image has colour; measured statistics where ImageNet's are far off."""
    from patchmix.data.statistics import GREY_PHOTO_MEAN, GREY_PHOTO_STD, IMAGENET_MEAN, IMAGENET_STD

    given = settled.get("data.mean")
    grey = sample.grey and (given is None or len(given) == 1)
    what = "grey, one channel" if grey else "measured mean and standard deviation"
    options: dict[str, Any] = {"data.channels": 1} if grey else {}
    why = "no image looked at has colour" if grey else ""
    channels = settled.get("data.channels") or (1 if grey else 3)
    if channels != len(sample.mean) or "data.mean" in settled:
        return Choice(what, why, options) if options else None
    mean, std = tuple(round(m, 3) for m in sample.mean), tuple(round(s, 3) for s in sample.std)
    usual_mean, usual_std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else (GREY_PHOTO_MEAN, GREY_PHOTO_STD)
    near = all(abs(m - usual) < 0.1 for m, usual in zip(mean, usual_mean, strict=True))
    near = sample.num_decoded < FEWEST_MEASURED or (
        near and all(2 / 3 < s / usual < 3 / 2 for s, usual in zip(std, usual_std, strict=True))
    )
    if not near and min(std) > 0:
        options |= {"data.mean": mean, "data.std": std}
        why += ("; " if why else "") + "mean and spread are far from photographs', so the measured ones normalise"
    return Choice(what, why, options) if options else None


def _image_size(sample: ImageSample, machine: Machine, settled: Mapping[str, Any]) -> Choice:
    side = int(sample.shorter_sides.median)
    patch = settled.get("model.patch_size") or _sizes(settled)[2]
    if side < 32:
        size = _multiple(max(8, side - side % 4), patch)
        return Choice(f"views of {size} px", f"the images are that small ({side} px)", {"data.image_size": size})
    size = _multiple(next(size for limit, size in SIZES[machine.device] if side < limit), patch)
    why = f"the shorter sides' median is {side} px"
    if machine.device == "cpu" and side >= 48:
        why += "; larger views would take a GPU"
    return Choice(f"views of {size} px", why, {"data.image_size": size})


def _multiple(size: int, patch: int | None) -> int:
    """The size that is nearest to `size` and divides into at least four patches a side."""
    return size if patch is None else patch * max(4, round(size / patch))


def _sizes(settled: Mapping[str, Any]) -> tuple[int | None, int | None, int | None]:
    """Width, depth and patch of the model by its name; None where that does not say it."""
    name = settled.get("model.name")
    if name is None:
        return None, None, None
    if name in SIZES_OF:
        return (*SIZES_OF[name], None)
    from patchmix.models.encoders import own_sizes

    return own_sizes(name)


def _model(sample: ImageSample, machine: Machine, settled: Mapping[str, Any]) -> Choice:
    """The model, and the optimisation that goes with it."""
    name = settled.get("model.name")
    if name is None and machine.device == "cpu":
        options = {
            key: value for key, value in SMALL.items() if key != "model.num_heads" or "model.width" not in settled
        }
        return Choice(
            "a ViT of width 64, depth 3", "no GPU: the model and the optimisation of recipe cifar10-cpu", options
        )
    if name is None:
        few = sample.num_images < FEW_IMAGES
        name, words = ("vit_tiny", "ViT-T") if few else ("vit_small", "ViT-S")
        why = f"{'fewer than' if few else 'at least'} {FEW_IMAGES:,} images; the paper's settings for it"
        return Choice(words, why, {"model.name": name, **COLUMNS[name]})
    why = "the paper's" if name in COLUMNS else "the paper's for ViT-S; not tried with this model"
    column = COLUMNS.get(name, COLUMNS["vit_small"])
    return Choice(f"optimisation for {name}", why, column)


def _patch(sample: ImageSample, machine: Machine, settled: Mapping[str, Any]) -> Choice | None:
    """The patch that divides the view into about the usual grid; none for models that have their own."""
    if settled["model.name"] not in COLUMNS or "model.patch_size" in settled:
        return None
    size, usual = settled["data.image_size"], GRIDS[machine.device]
    fitting = [patch for patch in range(1, size + 1) if size % patch == 0 and 4 <= size // patch <= 28]
    if not fitting:
        raise UserError(
            f"data.image_size = {size} does not divide into patches: give a multiple of 16 or 8, such as "
            f"{max(8, size - size % 8)}, or --model.patch_size"
        )
    patch = min(fitting, key=lambda patch: abs(size // patch - usual))
    grid = size // patch
    return Choice(f"patches of {patch} px", f"{grid} × {grid} of them in a view", {"model.patch_size": patch})


def _batch(sample: ImageSample, machine: Machine, settled: Mapping[str, Any]) -> Choice:
    """A power of two per process: two steps an epoch or more, within a GPU's memory (a rough estimate)."""
    processes, largest = machine.num_processes, LARGEST_BATCH[machine.device]
    most = min(largest, sample.num_images // 2) // processes
    why = "as many as pay on a CPU" if machine.device == "cpu" else "as many as the paper has for CIFAR"
    if sample.num_images // 2 < largest:
        why = "at most half of the images, so that an epoch has two steps"
    if machine.device == "cuda":
        fitting = int(MEMORY_SHARE * machine.gpu_memory) // image_bytes(settled)
        if fitting < most:
            most, why = fitting, f"by an estimate of the memory of {machine.gpu_name}"
    size = 2 ** int(math.log2(max(2, most))) * processes
    if sample.num_images < 4 * processes:
        why = "the fewest images that can be compared"
    each = f", {size // processes} in each process" if processes > 1 else ""
    return Choice(f"{size} images a step{each}", why, {"optim.batch_size": size})


def image_bytes(settled: Mapping[str, Any]) -> int:
    """About what one image takes of a GPU's memory: activations of the largest view that has a gradient.

    That is a whole view, or all local crops: the views follow each other (decision 0026).

    36 bytes per token, width and block under bfloat16 autocast were counted for ViT-T, S and B (docs/recipes.md);
    half as much again for the kernels' own memory.
    """
    own_width, own_depth, own_patch = _sizes(settled)
    width = settled.get("model.width") or own_width or SIZES_OF["vit_base"][0]
    depth = settled.get("model.depth") or own_depth or SIZES_OF["vit_base"][1]
    patch = settled.get("model.patch_size") or own_patch or DEFAULT_PATCH
    tokens = (settled["data.image_size"] // patch) ** 2 + 1
    crops = settled.get("views.num_local_crops", 0) * ((settled.get("views.local_size", 96) // patch) ** 2 + 1)
    return int(1.5 * 36 * max(tokens, crops) * width * depth)


def _length(sample: ImageSample, machine: Machine, settled: Mapping[str, Any]) -> Choice:
    count = sample.num_images
    cpu = machine.device == "cpu"
    if cpu:
        budget = CPU_IMAGES * min(machine.cores, MOST_CPU_CORES)
        epochs = max(1, min(MOST_CPU_EPOCHS, round(budget / count)))
        why = f"about {epochs * count:,} images seen, half an hour's worth where recipe cifar10-cpu was measured"
        if epochs == 1:
            why = "once through so many images takes a CPU hours: --data.limit takes a part, a GPU more"
        elif epochs == MOST_CPU_EPOCHS:
            why = "more passes over so few images bring little"
    else:
        share = math.log(count / CIFAR[0]) / math.log(IMAGENET[0] / CIFAR[0])
        epochs = 10 * round((CIFAR[1] + min(1.0, max(0.0, share)) * (IMAGENET[1] - CIFAR[1])) / 10)
        why = f"the paper has {CIFAR[1]} for {CIFAR[0]:,} images, {IMAGENET[1]} for {IMAGENET[0]:,}"
    given = settled.get("optim.epochs")
    if given is not None:
        epochs, why = given, f"the share that {'recipe cifar10-cpu' if cpu else 'the paper'} has"
    # The paper's: 100 of 800 epochs, 10 of 300.
    warmup = round(0.3 * epochs, 1) if cpu else epochs / 8 if epochs > 550 else min(10.0, epochs / 8)
    words = f"{warmup:g} epochs of warm-up" if given is not None else f"{epochs} epochs, {warmup:g} of them warm-up"
    return Choice(words, why, {"optim.epochs": epochs, "optim.warmup_epochs": warmup})


def _watching(sample: ImageSample, machine: Machine, settled: Mapping[str, Any]) -> Choice:
    every = max(1, settled["optim.epochs"] // 20)
    words = "the encoder is looked at every epoch" if every == 1 else f"the encoder is looked at every {every} epochs"
    return Choice(words, "about twenty times a run", {"run.eval_every_epochs": every})
