"""Training of a whole network with labels: the paper's recipe (method.md, Evaluation), from timm's parts.

One step: learning rate → erase → mix → forward → loss → backward → clip → AdamW → moving average. What is drawn in it
(drop path, erasing, mixing) is a function of (seed, step), so there is no random state to save (decision 0022).

shapes: n images, c classes
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any, cast

import torch
from rich.console import Console
from timm.data.random_erasing import RandomErasing
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from patchmix.checkpoint import OPTIMIZER_PREFIX, Checkpoint, below
from patchmix.config import FinetuneConfig
from patchmix.data.augmentation import create_augment
from patchmix.data.batches import LabelledBatch
from patchmix.data.datasets import ImageSource
from patchmix.data.labelled import LabelledLoader
from patchmix.data.loading import normalise
from patchmix.data.streams import Purpose, keyed_generator, libraries_seeded
from patchmix.errors import RunError, UserError
from patchmix.evaluation.features import Features, extract
from patchmix.evaluation.tuning_recipe import Mixing, layer_groups, learning_rate, make_plan
from patchmix.fabric import launch_fabric
from patchmix.models.loading import LoadedEncoder
from patchmix.models.spec import EncoderSpec
from patchmix.optim import load_optimizer_tensors, optimizer_tensors
from patchmix.randomness import seed_step

NETWORK_PREFIX, EMA_PREFIX = "network.", "ema."


class Tuner:
    """A network in training, ready for its next step.

    Args:
        spec: what images it gets; its size may differ from that of `loaded`.
        num_workers: processes that read images.
    """

    def __init__(
        self,
        loaded: LoadedEncoder,
        train: ImageSource,
        spec: EncoderSpec,
        config: FinetuneConfig,
        *,
        device: torch.device,
        precision: str,
        num_workers: int = 0,
    ) -> None:
        self.config, self.spec, self.train, self.num_workers = config, spec, train, num_workers
        self.precision = precision
        drop_path = 0.0 if config.freeze else config.drop_path
        self.network = loaded.classifier(len(train.classes), drop_path=drop_path, seed=config.seed)
        if config.freeze:
            self.network.requires_grad_(False)
            cast(Any, self.network).get_classifier().requires_grad_(True)
        self.plan = make_plan(config, spec, self.network, len(train))
        self.fabric = launch_fabric(device, precision)
        groups = layer_groups(self.network, config.weight_decay, config.layer_decay)
        # Fused AdamW unscales gradients itself, and they could not be clipped before.
        fused = not (precision == "16-mixed" and config.clip_grad_norm)
        optimizer = torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.999), fused=fused)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Fabric's advice on precision is not about our choices
            self.model, self.optimizer = self.fabric.setup(self.network, optimizer)
        self.ema = ModelEmaV3(self.network, decay=config.ema_decay) if config.ema_decay else None
        plain = self.plan.augmentation in ("digits", "none")
        self._erase = RandomErasing(0 if plain else config.erasing, mode="pixel", device=str(self.fabric.device))
        self._mixing = Mixing(config, len(train.classes))
        self._loss: nn.Module = (
            SoftTargetCrossEntropy()
            if self._mixing.enabled
            else LabelSmoothingCrossEntropy(config.smoothing)
            if config.smoothing
            else nn.CrossEntropyLoss()
        )

    def batches(self, steps_done: int = 0) -> LabelledLoader:
        """The batches that are left."""
        augment = create_augment(
            self.plan.augmentation,
            self.spec,
            self.config.seed,
            rand_augment=self.config.rand_augment,
            jitter=self.config.jitter,
        )
        return LabelledLoader(
            self.train,
            augment,
            seed=self.config.seed,
            batch_size=self.plan.batch_size,
            epochs=self.config.epochs,
            steps_done=steps_done,
            num_workers=self.num_workers,
            drop_last=self.plan.drop_last,
            pin_memory=self.fabric.device.type == "cuda",
        )

    def step(self, step: int, batch: LabelledBatch) -> Tensor:
        """Train on one batch, as step 1, 2, …; returns the loss, on the device. Seeds torch's global generators.

        Raises:
            UserError: the device has too little memory.
        """
        lr = learning_rate(self.config, self.plan, step - 1)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group["lr_scale"]
        self.network.train(not self.config.freeze)
        seed_step(self.config.seed, step, 0)
        try:
            images, targets = self._prepared(step, batch)
            loss: Tensor = self._loss(self.model(images).float(), targets)
            self.fabric.backward(loss)
            if self.config.clip_grad_norm:
                self.fabric.clip_gradients(
                    self.model, self.optimizer, max_norm=self.config.clip_grad_norm, error_if_nonfinite=False
                )
            self.optimizer.step()
            self.optimizer.zero_grad()
        except torch.OutOfMemoryError:
            raise UserError(
                f"the device has too little memory for batch_size = {self.plan.batch_size}: lower it"
            ) from None
        if self.ema is not None:
            self.ema.update(self.network)
        return loss.detach()

    def _prepared(self, step: int, batch: LabelledBatch) -> tuple[Tensor, Tensor]:
        """Normalised, erased and mixed images on the device, and labels [n] or targets [n, c]."""
        device = self.fabric.device
        images = normalise(batch.images.to(device, non_blocking=True), self.spec.mean, self.spec.std, torch.float32)
        labels = batch.labels.to(device, non_blocking=True)
        number = int(keyed_generator(Purpose.MIXUP, self.config.seed, step).integers(2**32))
        with libraries_seeded(number):
            images = self._erase(images)
            return self._mixing(images, labels) if self._mixing.enabled else (images, labels)

    def logits(
        self, source: ImageSource, *, ema: bool = False, console: Console | None = None, title: str = "fine-tuned"
    ) -> Features:
        """Logits [n, c] (as `features`) of every readable image, of the network or of its moving average.

        Raises:
            UserError: not one image can be read; too little memory.
            RunError: logits that are not finite.
        """
        assert self.ema is not None or not ema
        try:
            found = extract(
                self.ema.module if ema and self.ema is not None else self.network,
                source,
                self.spec,
                batch_size=self.config.run.batch_size,
                device=self.fabric.device,
                precision=self.precision,
                crop_ratio=self.config.crop_ratio,
                num_workers=self.num_workers,
                inference=False,
                console=console,
                title=title,
            )
        except torch.OutOfMemoryError:
            size = self.config.run.batch_size
            raise UserError(f"the device has too little memory for run.batch_size = {size}: lower it") from None
        if bad := int((~torch.isfinite(found.features).all(dim=1)).sum()):
            raise RunError(
                f"the logits of the {'moving average' if ema else 'trained network'} are not finite for {bad:,} of "
                f"{len(found.features):,} {source.split} images: begin anew with a lower lr, with clip_grad_norm 1, or "
                "with run.precision 32-true or bf16-mixed"
            )
        return found

    def tensors(self) -> dict[str, Tensor]:
        """Everything that a checkpoint needs: network, moving average, optimiser."""
        found = {NETWORK_PREFIX + name: value for name, value in self.network.state_dict().items()}
        if self.ema is not None:
            found |= {EMA_PREFIX + name: value for name, value in self.ema.module.state_dict().items()}
        state = optimizer_tensors(self.network, self.optimizer.optimizer)
        return found | {OPTIMIZER_PREFIX + name: value for name, value in state.items()}

    def scaler(self) -> dict[str, Any]:
        """The state of 16-mixed's loss scaling, which a checkpoint needs too; empty otherwise."""
        state: dict[str, Any] = self.fabric.strategy.precision.state_dict()
        return state

    def load(self, saved: Checkpoint) -> None:
        """Go on from a checkpoint of `tensors`, whose metadata has `scaler`."""
        self.network.load_state_dict(below(saved.tensors, NETWORK_PREFIX))
        if self.ema is not None:
            self.ema.module.load_state_dict(below(saved.tensors, EMA_PREFIX))
        load_optimizer_tensors(self.network, self.optimizer.optimizer, saved.optimizer_tensors())
        if scaler := saved.metadata.get("scaler"):
            self.fabric.strategy.precision.load_state_dict(scaler)


def tune(
    loaded: LoadedEncoder,
    train: ImageSource,
    test: ImageSource,
    spec: EncoderSpec,
    config: FinetuneConfig,
    *,
    device: torch.device,
    precision: str,
    num_workers: int = 0,
    console: Console | None = None,
) -> Tensor:
    """Train on `train` from beginning to end, without files, and return the logits [n, c] of `test`'s readable images.

    The caller's random state is as before. Raises UserError, and RunError where the loss or logits are not finite.
    """
    with random_state_kept(device):
        tuner = Tuner(loaded, train, spec, config, device=device, precision=precision, num_workers=num_workers)
        for step, batch in enumerate(tuner.batches(), start=1):
            refuse_non_finite(tuner.step(step, batch), step)
        return tuner.logits(test, console=console).features


def refuse_non_finite(losses: Tensor, last_step: int) -> None:
    """RunError unless the losses of the steps up to `last_step` are finite (on a GPU this waits for them)."""
    bad = (~torch.isfinite(losses.reshape(-1))).nonzero().flatten().tolist()
    if bad:
        step = last_step - losses.numel() + 1 + bad[0]
        raise RunError(
            f"the loss of step {step} is not finite; nothing was saved after it. Lower lr, set clip_grad_norm to 1, or "
            "take run.precision 32-true or bf16-mixed"
        )


@contextlib.contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """torch's global generators are put back afterwards."""
    devices = [torch.cuda.current_device()] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        yield
