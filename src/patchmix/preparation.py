"""Everything before the first step: devices, data, model, run directory, and trials of what could fail later."""

from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies.ddp import DDPStrategy

from patchmix import checkpoint, distributed
from patchmix.choices import Choices
from patchmix.config import Config
from patchmix.data.datasets import ImageSource, open_dataset, read_or_next, view_size
from patchmix.data.loading import TrainingLoader, check_batch_size, choose_num_workers
from patchmix.environment import resolve_device, resolve_precision, set_threads
from patchmix.errors import UserError
from patchmix.fabric import launch_fabric
from patchmix.job import Job, describe_data
from patchmix.method import StageLoss, build_model
from patchmix.mix_size import check_mix_size
from patchmix.models.backbones import check_size
from patchmix.models.encoders import resolve_spec
from patchmix.models.spec import EncoderSpec
from patchmix.optim import create_optimizer, load_optimizer_tensors
from patchmix.run_directory import RunDirectory, open_run_directory

TRIAL_IMAGES = 8  # spread over the data set, read before the first step


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
    several = processes > 1 or config.run.strategy == "ddp"
    # BatchNorm is synchronised, so every process has the same buffers and need not be sent them.
    strategy: Any = DDPStrategy(broadcast_buffers=False) if several else "auto"
    fabric = launch_fabric(
        device,
        resolve_precision(config.run.precision, device, training=True),
        devices=config.run.num_devices,
        num_nodes=config.run.num_nodes,
        strategy=strategy,
    )
    set_threads(config.run.num_threads)
    if config.run.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS asks for
        torch.use_deterministic_algorithms(True, warn_only=True)  # bicubic resizing of positions has no such kernel
    return fabric


def prepare(
    config: Config, resume: bool, recipe: str | None, choices: Choices | None, stack: contextlib.ExitStack
) -> Job:
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
        if config.views.num_local_crops and not spec.is_vit:
            check_size(spec, (config.views.local_size,) * 2, "views.local_size")
        if config.run.activation_checkpointing and not spec.is_vit:
            raise UserError(
                f"run.activation_checkpointing is for plain Vision Transformers, not {spec.name}: computed again, its "
                "BatchNorm would count every image twice"
            )
        mix_size = check_mix_size(config, spec)
    module = build_model(config, spec)
    with distributed.first_speaks():
        distributed.synchronise_batchnorm(module, fabric.device)
    optimizer = create_optimizer(module, config.optim)
    reasons = choices.reasons if choices else {}
    directory = claim(config, resume, recipe, reasons, spec, source)
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
        model, wrapped = fabric.setup(StageLoss(module), optimizer)
    if directory.resumed is not None:
        load_optimizer_tensors(module, optimizer, directory.resumed.optimizer_tensors())
        before = directory.resumed.metadata.get("precision") or resolve_precision(config.run.precision, fabric.device)
        precision = str(fabric.strategy.precision.precision)
        if before != precision:
            directory.messages.append(f"Goes on in {precision}; it was trained in {before} (--run.precision {before}).")
        if scaler := directory.resumed.metadata.get("scaler"):
            fabric.strategy.precision.load_state_dict(scaler)
    return Job(config, directory.recipe, fabric, source, spec, module, model, wrapped, loader, directory, mix_size)


def claim(
    config: Config,
    resume: bool,
    recipe: str | None,
    reasons: dict[str, str],
    spec: EncoderSpec,
    source: ImageSource,
) -> RunDirectory:
    """The main process opens the run directory; the others learn whether that went well, and read along."""
    directory: RunDirectory | None = None
    path: Path | None = None
    with distributed.first_speaks():
        if distributed.rank() == 0:
            directory = open_run_directory(config, resume, recipe, reasons, spec.to_dict(), describe_data(source))
            path = None if directory.resumed is None else directory.resumed.path
    path = distributed.from_first(path)
    if directory is None:
        resumed = None if path is None else checkpoint.read(path)
        directory = RunDirectory(Path(config.output or ""), resumed, [], None, recipe, reasons)
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
