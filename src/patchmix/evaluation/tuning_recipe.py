"""The fine-tuning recipe (method.md, Evaluation): learning rates, parameter groups, mixed images and their targets.

shapes: n images, c classes
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from timm.data.mixup import Mixup, mixup_target
from timm.optim import param_groups_layer_decay
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from patchmix.config import FinetuneConfig
from patchmix.config.tuning import Augmentation
from patchmix.models.spec import EncoderSpec
from patchmix.schedules import cosine

BATCH_SIZE, IMAGENET_BATCH_SIZE = 256, 1024
NARROW, NARROW_LR, LR = 192, 1e-3, 5e-4  # width up to which the learning rate per 256 is the first one
PADDED_SIDE = 32  # images of up to so many pixels a side are shifted, larger ones cropped


@dataclass(frozen=True)
class Plan:
    """What the options that are null come to for this network and these images, and how many steps there are."""

    augmentation: Augmentation
    batch_size: int
    lr: float  # per 256 images
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    drop_last: bool

    @property
    def peak(self) -> float:
        """The highest learning rate, of the head."""
        return self.lr * self.batch_size / 256


def make_plan(config: FinetuneConfig, spec: EncoderSpec, network: nn.Module, num_images: int) -> Plan:
    """The plan for so many training images.

    A last batch of a single image is left out where BatchNorm could not be trained on it.
    """
    name = config.data.name
    small = max(spec.image_size) <= PADDED_SIDE
    kind: Augmentation = config.augmentation or ("digits" if name == "mnist5k" else "pad" if small else "crop")
    batch_size = min(num_images, config.batch_size or (IMAGENET_BATCH_SIZE if name == "imagenet" else BATCH_SIZE))
    normalised = any(isinstance(module, _BatchNorm) for module in network.modules())
    drop_last = normalised and num_images % batch_size == 1
    steps_per_epoch = num_images // batch_size if drop_last else math.ceil(num_images / batch_size)
    total = config.epochs * steps_per_epoch
    warmup = min(round(config.warmup_epochs * steps_per_epoch), total // 2)
    lr = config.lr or (NARROW_LR if spec.width <= NARROW else LR)
    return Plan(kind, batch_size, lr, steps_per_epoch, total, warmup, drop_last)


def learning_rate(config: FinetuneConfig, plan: Plan, step: int) -> float:
    """Of the head, at a step counted from 0: linear from warmup_lr to the peak, then cosine to final_lr."""
    if step < plan.warmup_steps:
        return config.warmup_lr + (plan.peak - config.warmup_lr) * step / plan.warmup_steps
    return cosine(plan.peak, config.final_lr, step - plan.warmup_steps, plan.total_steps - plan.warmup_steps)


def layer_groups(network: Any, weight_decay: float, layer_decay: float) -> list[dict[str, Any]]:
    """timm's parameter groups with their "lr_scale"; what the network itself names, and 1-D, is not decayed."""
    spared = network.no_weight_decay() if hasattr(network, "no_weight_decay") else ()
    groups: list[dict[str, Any]] = param_groups_layer_decay(
        network, weight_decay=weight_decay, no_weight_decay_list=spared, layer_decay=layer_decay
    )
    return groups


class Mixing:
    """timm's mixup and CutMix of a batch, with the soft targets that belong to it; both 0: targets alone."""

    def __init__(self, config: FinetuneConfig, num_classes: int) -> None:
        self.num_classes, self.smoothing = num_classes, config.smoothing
        self.enabled = config.mixup > 0 or config.cutmix > 0
        self._mixup = Mixup(
            mixup_alpha=config.mixup,
            cutmix_alpha=config.cutmix,
            label_smoothing=config.smoothing,
            num_classes=num_classes,
        )

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mixed images [n, …] (in place) and targets [n, c]; of an odd number the last stays as it is."""
        even = len(images) - len(images) % 2
        targets = [mixup_target(labels[even:], self.num_classes, smoothing=self.smoothing)]
        if even:
            mixed, soft = self._mixup(images[:even], labels[:even])
            images[:even] = mixed
            targets.insert(0, soft)
        return images, torch.cat(targets)
