"""Everything before the first step: devices, data, model, run directory, and trials of what could fail later."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import Tensor

from patchmix import checkpoint, distributed
from patchmix.config import Config, to_dict
from patchmix.data.datasets import ImageSource, open_dataset, read_or_next, view_size
from patchmix.data.loading import Batch, TrainingLoader, check_batch_size, choose_num_workers, normalise
from patchmix.environment import package_versions, resolve_device, resolve_precision, set_threads
from patchmix.errors import UserError
from patchmix.method import ContrastiveModel, build_model
from patchmix.mixing import MixPlan
from patchmix.models.vit import EncoderSpec, resolve_spec
from patchmix.optim import create_optimizer, load_optimizer_tensors, optimizer_tensors
from patchmix.randomness import draw_plan
from patchmix.run_directory import RunDirectory, open_run_directory

TRIAL_IMAGES = 8  # spread over the data set, read before the first step


@dataclass
class Job:
    """A pre-training run, ready for its next step."""

    config: Config
    recipe: str | None
    fabric: Fabric
    source: ImageSource
    spec: EncoderSpec
    module: ContrastiveModel  # the model itself
    model: Any  # the same, as Fabric wraps it for devices, precision and processes
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

    @property
    def end(self) -> str:
        """The option that says where this start ends."""
        return "optim.epochs" if self.stop_step == self.last_step else "max_steps"

    def views(self, batch: Batch) -> tuple[tuple[Tensor, Tensor], list[Tensor]]:
        """Global and local views on the device, normalised, in float32."""

        def ready(images: Tensor) -> Tensor:
            images = images.to(self.fabric.device, non_blocking=True)
            return normalise(images, self.spec.mean, self.spec.std, torch.float32)

        first, second = batch.views
        return (ready(first), ready(second)), [ready(images) for images in batch.local_views]

    def plans(self, step: int) -> tuple[tuple[MixPlan, MixPlan], list[MixPlan]]:
        """The mix plans of a step: one for each global view, one for each local crop."""

        def plan(view: int, size: tuple[int, int]) -> MixPlan:
            drawn = draw_plan(
                size, self.config.method.num_mix, self.mix_size, seed=self.config.seed, step=step, view=view
            )
            return drawn.to(self.fabric.device)

        local = (self.config.views.local_size,) * 2
        crops = [plan(2 + number, local) for number in range(self.config.views.num_local_crops)]
        return (plan(0, self.spec.image_size), plan(1, self.spec.image_size)), crops

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
            "config": to_dict(self.config),
            "encoder": self.spec.to_dict(),
            "data": describe_data(self.source),
            "versions": package_versions(),
        }


def describe_data(source: ImageSource) -> dict[str, Any]:
    """What must be the same for a run to go on."""
    return {"name": source.name, "num_images": len(source), "fingerprint": source.fingerprint}


def start_fabric(config: Config) -> Fabric:
    """Fabric with the config's device, precision and processes, launched; threads are set."""
    device = resolve_device(config.run.device)
    processes = config.run.num_devices * config.run.num_nodes
    if device.type == "cuda" and config.run.num_devices > torch.cuda.device_count():
        raise UserError(
            f"run.num_devices = {config.run.num_devices}, but this machine has {torch.cuda.device_count()} CUDA devices"
        )
    given = os.environ.get("WORLD_SIZE")
    if given is not None and given.isdigit() and int(given) != processes:
        raise UserError(
            f"started as one of {given} processes (by torchrun or SLURM), but run.num_devices × run.num_nodes = "
            f"{processes}: give --run.num_devices and --run.num_nodes for all of them"
        )
    # Fabric announces every process on stderr, below the line that says what is wrong or what will happen.
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    several = processes > 1 or config.run.strategy == "ddp"
    # BatchNorm is synchronised, so every process has the same buffers and need not be sent them.
    strategy: Any = DDPStrategy(broadcast_buffers=False) if several else "auto"
    fabric = Fabric(
        accelerator=device.type,
        devices=config.run.num_devices,
        num_nodes=config.run.num_nodes,
        strategy=strategy,
        precision=resolve_precision(config.run.precision, device),  # type: ignore[arg-type]
    )
    fabric.launch()
    set_threads(config.run.num_threads)
    if config.run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
        torch.use_deterministic_algorithms(True, warn_only=True)  # bicubic resizing of positions has no such kernel
    return fabric


def prepare(config: Config, resume: bool, recipe: str | None, stack: contextlib.ExitStack) -> Job:
    """Open the data, build the model, claim the run directory, load the checkpoint to go on from.

    The directory is let go when `stack` is closed.

    Raises:
        UserError: anything that the user can mend; nothing has been written then.
    """
    fabric = start_fabric(config)
    with distributed.first_speaks():
        source = open_dataset(config.data, "train")
        check_batch_size(source, config.optim.batch_size, fabric.world_size)
        size = view_size(source, config.data)
        spec = resolve_spec(config.model, size, source.channels, tuple(source.mean), tuple(source.std))
        mix_size = check_mix_size(config, spec)
    module = build_model(config, spec)
    distributed.synchronise_batchnorm(module, fabric.device)
    optimizer = create_optimizer(module, config.optim)
    directory = claim(config, resume, recipe, spec, source)
    stack.callback(directory.close)
    if directory.resumed is not None:
        module.load_state_dict(directory.resumed.model_tensors())
    last_step = config.optim.epochs * (len(source) // config.optim.batch_size)
    loader = TrainingLoader(
        source,
        config,
        steps_done=directory.steps_done,
        total_steps=min(last_step, config.max_steps or last_step),
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        num_workers=choose_num_workers(source, config),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Fabric's advice on loaders and precision is not about our choices
        model, wrapped = fabric.setup(module, optimizer)
    if directory.resumed is not None:
        load_optimizer_tensors(module, optimizer, directory.resumed.optimizer_tensors())
    return Job(config, directory.recipe, fabric, source, spec, module, model, wrapped, loader, directory, mix_size)


def check_mix_size(config: Config, spec: EncoderSpec) -> int:
    """The mixing patch in pixels; a UserError where it does not fit model, views or num_mix."""
    size = config.method.mix_size or spec.patch_size
    if size % spec.patch_size:
        raise UserError(f"method.mix_size = {size} is not a multiple of the model's patch, {spec.patch_size} px")
    views = {"data.image_size": spec.image_size}
    if config.views.num_local_crops:
        views["views.local_size"] = (config.views.local_size,) * 2
    for name, (height, width) in views.items():
        if height % size or width % size:
            raise UserError(f"{name} = {height} × {width} does not divide into mixing patches of {size} px")
        count = (height // size) * (width // size)
        if config.method.num_mix > count:
            raise UserError(
                f"method.num_mix = {config.method.num_mix} is more than the {count} patches of {name} = {height}"
            )
    return size


def claim(config: Config, resume: bool, recipe: str | None, spec: EncoderSpec, source: ImageSource) -> RunDirectory:
    """The main process opens the run directory; the others learn whether that went well, and read along."""
    directory: RunDirectory | None = None
    path: Path | None = None
    with distributed.first_speaks():
        if distributed.rank() == 0:
            directory = open_run_directory(config, resume, recipe, spec.to_dict(), describe_data(source))
            path = None if directory.resumed is None else directory.resumed.path
    path = distributed.from_first(path)
    if directory is None:
        resumed = None if path is None else checkpoint.read(path)
        directory = RunDirectory(Path(config.output or ""), resumed, [], None, recipe)
    return directory


def trials(job: Job) -> None:
    """Read some images, write and read a checkpoint of the real size: neither must fail hours in.

    Raises:
        UserError: no image can be read.
        RunError: the checkpoint cannot be written, or does not come back.
    """
    with distributed.first_speaks():
        if job.main:
            _try_reading_and_writing(job)


def _try_reading_and_writing(job: Job) -> None:
    for index in range(0, len(job.source), max(1, len(job.source) // TRIAL_IMAGES)):
        read_or_next(job.source, index)
    tensors = job.tensors()
    if not job.directory.steps_done:  # the optimiser has no state yet, and will have two tensors a parameter
        trained = {name: value for name, value in job.module.named_parameters() if value.requires_grad}
        for moment in ("exp_avg", "exp_avg_sq"):
            tensors |= {f"optimizer.{moment}.{name}": torch.zeros_like(value) for name, value in trained.items()}
    checkpoint.trial(job.directory.path, tensors)
