"""Everything that talks to other processes; no other module imports torch.distributed.

Without an initialised process group every function is the one-process case, so nothing else in the
package asks whether there is one. DIFFERS: the reference's mixer and losses ask the group themselves
(decision 0008), and it needs CUDA and NCCL (decision 0005).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.nn.functional import all_gather
from torch.nn.modules.batchnorm import _BatchNorm

from patchmix.errors import RunError, SaidElsewhereError, UserError


def world_size() -> int:
    """R, the number of processes."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """r, this process's rank, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def gather_rows(tensor: Tensor, gradient: bool = False) -> Tensor:
    """[R * N, …] from every process's [N, …], in the order of ranks; gradient flows through it only on request."""
    if world_size() == 1:
        return tensor
    if gradient:
        return torch.cat(all_gather(tensor.contiguous()))  # type: ignore[no-untyped-call]  # torch's own
    tensor = tensor.detach().contiguous()
    gathered = [torch.empty_like(tensor) for _ in range(world_size())]
    dist.all_gather(gathered, tensor)
    return torch.cat(gathered)


def highest(value: int, device: torch.device) -> int:
    """The largest value of any process; all processes must call it. Waits for the device if there are several."""
    if world_size() == 1:
        return value
    tensor = torch.tensor(value, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor.item())


def gather_objects(value: Any) -> list[Any]:
    """Every process's value (picklable), in the order of ranks; all processes must call it."""
    if world_size() == 1:
        return [value]
    gathered: list[Any] = [None] * world_size()
    dist.all_gather_object(gathered, value)
    return gathered


def from_first(value: Any) -> Any:
    """Rank 0's value (picklable), on every process; all processes must call it."""
    if world_size() == 1:
        return value
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]


def mean_over_ranks(tensor: Tensor) -> Tensor:
    """The mean of all processes' tensors, without gradient; all processes must call it."""
    if world_size() == 1:
        return tensor
    total = tensor.detach().clone()
    dist.all_reduce(total)
    return total / world_size()


def leave(failed: bool = False) -> None:
    """End this process's part in the group; its threads would abort the interpreter at times when it ends.

    failed: an error ends the process. NCCL's group is left alone then, since ending it may wait for the others.
    """
    if dist.is_available() and dist.is_initialized() and (not failed or dist.get_backend() == "gloo"):
        dist.destroy_process_group()


@contextlib.contextmanager
def first_speaks() -> Iterator[None]:
    """What goes wrong inside on the first process ends them all and is said once.

    All processes must enter. The first raises its own error, the others SaidElsewhereError. May be nested.
    """
    error: UserError | RunError | SaidElsewhereError | None = None
    try:
        yield
    except (UserError, RunError, SaidElsewhereError) as caught:  # the last: of a block inside this one
        error = caught
    exit_code = from_first(0 if error is None else 2 if isinstance(error, UserError) else 1)
    if error is not None and (rank() == 0 or not exit_code):
        raise error
    if exit_code:
        raise SaidElsewhereError(exit_code)


class _MeanOverRanks(torch.autograd.Function):
    """Mean over processes of equally many rows; its gradient is the mean of the gradients."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone()
        dist.all_reduce(total)
        return total / world_size()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone()
        dist.all_reduce(total)
        return total / world_size()


class SyncBatchNorm(_BatchNorm):
    """BatchNorm of [rows, channels, …] over all processes, on any device (torch's SyncBatchNorm refuses the CPU).

    Every process must bring equally many rows, as pre-training does. Two-pass variance: the mean of all
    rows first, so that nothing is lost to cancellation.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions from two."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        precision = torch.promote_types(input.dtype, torch.float32)
        rows = input.to(precision).movedim(1, -1)
        over = tuple(range(rows.ndim - 1))
        mean = _MeanOverRanks.apply(rows.mean(over))
        variance = _MeanOverRanks.apply((rows - mean).square().mean(over))
        if self.track_running_stats:
            self._track(mean.detach(), variance.detach(), rows[..., 0].numel() * world_size())
        output = (rows - mean) * (variance + self.eps).rsqrt()
        if self.affine:
            output = output * self.weight + self.bias
        result: Tensor = output.movedim(-1, 1).to(input.dtype)
        return result

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: int) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        weight = 0.1 if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
        self.running_var.lerp_((variance * count / max(count - 1, 1)).to(self.running_var.dtype), weight)


class SyncBatchNormAct2d(SyncBatchNorm):
    """The same for timm's BatchNormAct2d, which an activation follows."""

    drop: nn.Module
    act: nn.Module

    def forward(self, input: Tensor) -> Tensor:
        result: Tensor = self.act(self.drop(super().forward(input)))
        return result


def synchronise_batchnorm(module: nn.Module, device: torch.device) -> nn.Module:
    """The module with every BatchNorm synchronised over processes; unchanged when there is only one."""
    if world_size() == 1:
        return module
    from timm.layers import BatchNormAct2d, convert_sync_batchnorm  # slow to import, and data workers import this file

    if device.type == "cuda":
        converted: nn.Module = convert_sync_batchnorm(module)  # timm's: torch's would drop its activations
        return converted
    kinds: dict[type[nn.Module], type[SyncBatchNorm]] = {
        nn.BatchNorm1d: SyncBatchNorm,
        nn.BatchNorm2d: SyncBatchNorm,
        nn.BatchNorm3d: SyncBatchNorm,
        BatchNormAct2d: SyncBatchNormAct2d,
    }
    for child in module.modules():
        if isinstance(child, _BatchNorm):
            if type(child) not in kinds:
                raise UserError(
                    f"the model has a {type(child).__name__}, which is not synchronised over processes on the CPU: "
                    "set run.num_devices to 1, or take another model.name"
                )
            child.__class__ = kinds[type(child)]  # same parameters, buffers and names: only forward differs
    return module
