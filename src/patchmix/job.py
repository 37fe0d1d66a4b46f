"""A pre-training run, ready for its next step: what the loop asks of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor

from patchmix import checkpoint, distributed
from patchmix.config import Config, to_dict
from patchmix.data.datasets import ImageSource
from patchmix.data.loading import Batch, TrainingLoader, normalise
from patchmix.data.views import change_views
from patchmix.environment import package_versions
from patchmix.evaluation.online import online_evaluation
from patchmix.method import ContrastiveModel
from patchmix.mixing import Plan
from patchmix.models.spec import EncoderSpec
from patchmix.optim import optimizer_tensors
from patchmix.randomness import draw_any_plan
from patchmix.run_directory import RunDirectory


@dataclass
class Job:
    """A pre-training run, ready for its next step."""

    config: Config
    recipe: str | None
    fabric: Fabric
    source: ImageSource
    spec: EncoderSpec
    module: ContrastiveModel  # the model itself
    model: Any  # its StageLoss, as Fabric wraps it for devices, precision and processes
    optimizer: Any
    loader: TrainingLoader
    directory: RunDirectory
    mix_size: int

    @property
    def main(self) -> bool:
        """Whether this process writes and shows."""
        return bool(self.fabric.is_global_zero)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch; its incomplete last batch is dropped."""
        return self.loader.steps_per_epoch

    @property
    def last_step(self) -> int:
        """The step after which the schedules end."""
        return self.config.optim.epochs * self.steps_per_epoch

    @property
    def stop_step(self) -> int:
        """The step after which this start ends: the last one, or max_steps."""
        return min(self.last_step, self.config.max_steps or self.last_step)

    @property
    def precision(self) -> str:
        """Fabric's name of the precision in use."""
        return str(self.fabric.strategy.precision.precision)

    def is_due(self, step: int) -> bool:
        """Whether a checkpoint is written after this step."""
        every = self.config.run.checkpoint_every_steps or self.steps_per_epoch
        return step % every == 0 or step == self.stop_step

    def is_evaluated(self, step: int) -> bool:
        """Whether the encoder is looked at after this step: at the ends of epochs.

        Not where max_steps or a signal happens to stop: a resumed run logs what an uninterrupted one does.
        """
        every, epoch = self.config.run.eval_every_epochs, step // self.steps_per_epoch
        return every > 0 and step % self.steps_per_epoch == 0 and (epoch % every == 0 or step == self.last_step)

    @property
    def end(self) -> str:
        """The option that says where this start ends."""
        return "optim.epochs" if self.stop_step == self.last_step else "max_steps"

    def views(self, batch: Batch) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
        """Global and local views on the device, normalised, in float32."""
        sent = change_views((*batch.views, *batch.local_views), batch.photometrics, device=self.fabric.device)
        first, second, *local = (normalise(view, self.spec.mean, self.spec.std, torch.float32) for view in sent)
        return (first, second), local

    def plans(self, step: int) -> tuple[tuple[Plan, Plan], list[Plan]]:
        """The mix plans of a step: one for each global view, one for each local crop."""
        batch = self.config.optim.batch_size // self.fabric.world_size

        def plan(view: int, size: tuple[int, int]) -> Plan:
            drawn = draw_any_plan(
                size,
                self.config.method,
                self.mix_size,
                seed=self.config.seed,
                step=step,
                view=view,
                images=(self.fabric.global_rank * batch, batch),
            )
            return drawn.to(self.fabric.device)

        local = (self.config.views.local_size,) * 2
        crops = [plan(2 + number, local) for number in range(self.config.views.num_local_crops)]
        return (plan(0, self.spec.image_size), plan(1, self.spec.image_size)), crops

    def evaluate(self, step: int) -> dict[str, Any]:
        """The record of an online evaluation, on training images only (the main process does it)."""
        found = online_evaluation(
            self.module.evaluation_encoder,
            self.source,
            self.config,
            self.fabric.device,
            spec=self.spec,
            precision=self.precision,
            num_workers=self.loader.num_workers,
        )
        return {"step": step, "epoch": step // self.steps_per_epoch, **found}

    def save(self, step: int) -> Path:
        """Write the checkpoint after `step` steps (the main process does) and drop old ones."""
        path = checkpoint.checkpoint_path(self.directory.path, step)
        with distributed.first_speaks():
            if self.main:
                checkpoint.write(path, self.tensors(), self.metadata(step))
                checkpoint.prune(self.directory.path, self.config.run.keep_checkpoints)
        return path

    def tensors(self) -> dict[str, Tensor]:
        """Everything a checkpoint holds: the model's state and the optimiser's."""
        state = optimizer_tensors(self.module, self.optimizer.optimizer)
        named = {checkpoint.OPTIMIZER_PREFIX + name: value for name, value in state.items()}
        return {**self.module.state_dict(), **named}

    def metadata(self, step: int) -> dict[str, Any]:
        """What a checkpoint says about itself."""
        return {
            "step": step,
            "epoch": step / self.steps_per_epoch,
            "recipe": self.recipe,
            "precision": self.precision,
            "config": to_dict(self.config),
            "encoder": self.spec.to_dict(),
            "data": describe_data(self.source),
            "versions": package_versions(),
            "scaler": self.fabric.strategy.precision.state_dict(),  # of 16-mixed; empty otherwise
        }


def describe_data(source: ImageSource) -> dict[str, Any]:
    """What must be the same for a run to go on."""
    return {"name": source.name, "num_images": len(source), "fingerprint": source.fingerprint}
