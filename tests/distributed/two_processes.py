"""Run by test_two_processes.py: starts two gloo processes, compares them with one, writes what it found.

Every answer is a list of one number per process.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from timm.layers import BatchNormAct2d
from torch import nn

from patchmix import distributed
from patchmix.losses import paired_info_nce, soft_info_nce
from patchmix.targets import mix_to_origin


def batchnorm(whole: nn.BatchNorm1d | nn.BatchNorm2d, rank: int) -> dict[str, float]:
    """Largest differences between two synchronised processes and one BatchNorm over all rows."""
    generator = torch.Generator().manual_seed(0)
    shape = (8, 5) if isinstance(whole, nn.BatchNorm1d) else (8, 5, 3, 2)
    rows = 3 * torch.randn(shape, generator=generator, dtype=torch.float64) + 10
    weights = torch.randn(shape, generator=generator, dtype=torch.float64)
    own = slice(4 * rank, 4 * rank + 4)
    whole.double()
    shared = copy.deepcopy(whole)
    distributed.synchronise_batchnorm(shared, torch.device("cpu"))
    one, two = rows.clone().requires_grad_(), rows[own].clone().requires_grad_()
    expected, found = whole(one), shared(two)
    # Each process has a mean over its rows, and gradients are averaged over processes (as DDP does).
    (expected * weights).mean().backward()
    (found * weights[own]).mean().backward()
    assert one.grad is not None
    assert two.grad is not None
    answers = {
        "output": (found - expected[own]).abs().max().item(),
        "input_gradient": (two.grad / 2 - one.grad[own]).abs().max().item(),
        "running_mean": (shared.running_mean - whole.running_mean).abs().max().item(),
        "running_var": (shared.running_var - whole.running_var).abs().max().item(),
    }
    if whole.affine:
        gradient = shared.weight.grad.clone()
        dist.all_reduce(gradient)
        answers["weight_gradient"] = (gradient / 2 - whole.weight.grad).abs().max().item()
    return answers


def simclr(rank: int) -> dict[str, float]:
    """Largest differences between SimCLR's loss of two processes and of all images in one."""
    generator = torch.Generator().manual_seed(2)
    both = [torch.randn(6, 4, generator=generator, dtype=torch.float64) for _ in range(2)]
    own = slice(3 * rank, 3 * rank + 3)
    one = [each.clone().requires_grad_() for each in both]
    query, other = (F.normalize(each) for each in one)
    among = (query @ query.T / 0.2).masked_fill(torch.eye(6, dtype=torch.bool), -torch.inf)
    expected = F.cross_entropy(torch.cat([query @ other.T / 0.2, among], 1), torch.arange(6))
    expected.backward()
    two = [each[own].clone().requires_grad_() for each in both]
    found = paired_info_nce(two[0], two[1], 0.2)
    found.backward()  # DDP takes the mean over the processes, as below
    mean = found.detach().clone()
    dist.all_reduce(mean)
    differences = [(there.grad / 2 - here.grad[own]).abs().max() for there, here in zip(two, one, strict=True)]
    return {
        "paired_loss": (mean / 2 - expected.detach()).abs().item(),
        "paired_gradient": torch.stack(differences).max().item(),
    }


def compare(rank: int, rendezvous: str, results: str) -> None:
    """One of the two processes."""
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=2)
    generator = torch.Generator().manual_seed(1)
    queries, keys = (torch.randn(6, 4, generator=generator) for _ in range(2))
    own = slice(3 * rank, 3 * rank + 3)
    targets = [mix_to_origin(3, 2, rank=each, world_size=2) for each in (0, 1)]
    losses = [
        soft_info_nce(queries[3 * each : 3 * each + 3], keys, targets[each], 0.2, gather=False) for each in (0, 1)
    ]
    answers = {
        "gather": float(torch.equal(distributed.gather_rows(keys[own]), keys)),
        "loss": float(soft_info_nce(queries[own], keys[own], targets[rank], 0.2) == losses[rank]),
        "highest": float(distributed.highest(rank, torch.device("cpu")) == 1),
        "from_first": float(distributed.from_first(f"said by {rank}") == "said by 0"),
    }
    answers |= simclr(rank)
    kinds = {
        "affine": nn.BatchNorm1d(5),
        "plain": nn.BatchNorm1d(5, affine=False),
        "images": nn.BatchNorm2d(5),
        "activated": BatchNormAct2d(5),
    }
    for name, whole in kinds.items():
        answers |= {f"{name}_{key}": value for key, value in batchnorm(whole, rank).items()}
    Path(results, f"{rank}.json").write_text(json.dumps(answers))
    dist.destroy_process_group()


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(compare, args=(os.path.join(folder, "rendezvous"), folder), nprocs=2)
        found = [json.loads(Path(folder, f"{rank}.json").read_text()) for rank in (0, 1)]
    Path(sys.argv[1]).write_text(json.dumps({name: [each[name] for each in found] for name in found[0]}))
