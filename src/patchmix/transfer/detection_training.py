"""Training of a detector: one step after the other, each a function of (seed, step) and the images.

One step: learning rate → forward (torchvision's five losses) → sum → backward → clip → AdamW.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from patchmix.checkpoint import OPTIMIZER_PREFIX, Checkpoint, below
from patchmix.config.detection import DetectConfig
from patchmix.errors import UserError
from patchmix.fabric import launch_fabric
from patchmix.models.loading import LoadedEncoder
from patchmix.optim import load_optimizer_tensors, optimizer_tensors
from patchmix.randomness import seed_step
from patchmix.schedules import cosine
from patchmix.transfer.detector import build_detector, parameter_groups
from patchmix.transfer.scenes import CANVAS

DETECTOR_PREFIX = "detector."
GPU_SIZE, CPU_SIZE = 1024, 320
GPU_BATCH, CPU_BATCH = 64, 4
LR_BATCH = 64  # images a step that config.lr is given for
MOST_WARMUP = 0.1  # of all steps
LEAST_STRIDE = 3


@dataclass(frozen=True)
class Plan:
    """What the options that are null come to for this device and these images, and how many steps there are."""

    image_size: int
    scales: tuple[float, ...]  # of the pyramid's levels
    flip: bool
    batch_size: int
    steps_per_epoch: int
    total_steps: int
    warmup_steps: int
    peak: float  # learning rate of heads and pyramid


def make_plan(config: DetectConfig, num_images: int, device: torch.device, patch_size: int | None) -> Plan:
    """The plan for so many training images. An epoch's incomplete last batch is a step too.

    The learning rate follows the square root of the batch size, as Adam's noise does.

    Raises:
        UserError: the encoder is no plain ViT.
    """
    if patch_size is None:
        raise UserError("detection has backbones of plain Vision Transformers only, and this encoder is none")
    gpu = device.type == "cuda"
    scenes = config.data.name == "digits-scenes"
    size = config.image_size or (CANVAS if scenes else GPU_SIZE if gpu else CPU_SIZE)
    batch = min(num_images, config.batch_size or (GPU_BATCH if gpu else CPU_BATCH))
    steps = math.ceil(num_images / batch)
    total = config.epochs * steps
    peak = config.lr * math.sqrt(batch / LR_BATCH)
    scales = pyramid_scales(patch_size)
    flip = not scenes if config.flip is None else config.flip
    return Plan(size, scales, flip, batch, steps, total, min(config.warmup_steps, int(MOST_WARMUP * total)), peak)


def pyramid_scales(patch_size: int) -> tuple[float, ...]:
    """Four levels, the finest with the smallest stride of at least LEAST_STRIDE pixels.

    For patches of 16 pixels these are ViTDet's, strides 4 to 32; for 4 pixels the finest level is the map itself.
    """
    finest = 2.0 ** math.floor(math.log2(patch_size / LEAST_STRIDE))
    return tuple(finest / 2**level for level in range(4))


def learning_rate(plan: Plan, step: int) -> float:
    """Of heads and pyramid, at a step counted from 0: linear warm-up, then half a cosine to 0."""
    if step < plan.warmup_steps:
        return plan.peak * (step + 1) / plan.warmup_steps
    return cosine(plan.peak, 0.0, step - plan.warmup_steps, plan.total_steps - plan.warmup_steps + 1)


class DetectionTrainer:
    """A detector in training, ready for its next step.

    Args:
        num_categories: without the background.
    """

    def __init__(
        self,
        loaded: LoadedEncoder,
        num_categories: int,
        plan: Plan,
        config: DetectConfig,
        *,
        device: torch.device,
        precision: str,
    ) -> None:
        self.config, self.plan = config, plan
        self.detector = build_detector(
            loaded,
            num_categories,
            image_size=plan.image_size,
            masks=config.masks,
            frozen=config.freeze,
            drop_path=config.drop_path,
            window=config.window,
            global_blocks=config.global_blocks,
            channels=config.channels,
            scales=plan.scales,
            seed=config.seed,
            box_batch_size_per_image=config.regions,
        )
        self.fabric = launch_fabric(device, precision)
        groups = parameter_groups(
            self.detector, lr=plan.peak, weight_decay=config.weight_decay, layer_decay=config.layer_decay
        )
        # Fused AdamW unscales gradients itself, and they could not be clipped before.
        optimizer = torch.optim.AdamW(groups, lr=0.0, fused=not (precision == "16-mixed" and config.clip_grad_norm))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Fabric's advice on precision is not about our choices
            self.model, self.optimizer = self.fabric.setup(self.detector, optimizer)

    def step(
        self, step: int, images: Sequence[Tensor], targets: Sequence[Mapping[str, Any]]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Train on one batch, as step 1, 2, …: the loss, and torchvision's losses by name, on the device.

        Seeds torch's global generators.

        Raises:
            UserError: the device has too little memory.
        """
        lr = learning_rate(self.plan, step - 1)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        self.model.train()
        seed_step(self.config.seed, step, 0)
        device = self.fabric.device
        try:
            parts: dict[str, Tensor] = self.model(
                [each.to(device, non_blocking=True) for each in images],
                [
                    {key: value.to(device) if isinstance(value, Tensor) else value for key, value in each.items()}
                    for each in targets
                ],
            )
            loss = torch.stack([each.float() for each in parts.values()]).sum()
            self.fabric.backward(loss)
            if self.config.clip_grad_norm:
                self.fabric.clip_gradients(
                    self.model, self.optimizer, max_norm=self.config.clip_grad_norm, error_if_nonfinite=False
                )
            self.optimizer.step()
            self.optimizer.zero_grad()
        except torch.OutOfMemoryError:
            raise UserError(
                f"the device has too little memory for batch_size = {self.plan.batch_size} at image_size = "
                f"{self.plan.image_size}: lower one of them"
            ) from None
        return loss.detach(), {name: each.detach() for name, each in parts.items()}

    @torch.no_grad()
    def detect(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        """What it finds in uint8 images [3, h, w]: boxes [n, 4] in their pixels, labels, scores, masks [n, 1, h, w]."""
        self.model.eval()
        try:
            found: list[dict[str, Tensor]] = self.model([each.to(self.fabric.device) for each in images])
        except torch.OutOfMemoryError:
            raise UserError(
                f"the device has too little memory for run.batch_size = {self.config.run.batch_size}: lower it"
            ) from None
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint needs: detector and optimiser."""
        found = {DETECTOR_PREFIX + name: value for name, value in self.detector.state_dict().items()}
        state = optimizer_tensors(self.detector, self.optimizer.optimizer)
        return found | {OPTIMIZER_PREFIX + name: value for name, value in state.items()}

    def scaler(self) -> dict[str, Any]:
        """The state of 16-mixed's loss scaling, which a checkpoint needs too; empty otherwise."""
        state: dict[str, Any] = self.fabric.strategy.precision.state_dict()
        return state

    def load(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint of `tensors`, whose metadata has `scaler`."""
        self.detector.load_state_dict(below(saved.tensors, DETECTOR_PREFIX))
        load_optimizer_tensors(self.detector, self.optimizer.optimizer, saved.optimizer_tensors())
        if scaler := saved.metadata.get("scaler"):
            self.fabric.strategy.precision.load_state_dict(scaler)
