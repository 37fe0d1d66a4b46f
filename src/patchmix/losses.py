"""Soft-target InfoNCE: method.md, "Loss of one step", CE(q, k; t).

N  queries     K  keys     q, k  both of length 1     τ  temperature     t  target, [N, K]

The gradient with respect to a query is (softmax(q·kᵀ/τ)·Σt - t)·k/τ, so it is known as soon as the loss is: it is
computed beside it, some rows at a time, and the [N, K] matrix of logits is there once and never kept.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from patchmix import distributed
from patchmix.targets import SoftTargets

MOST_LOGITS = 2**24  # numbers of a part of the [N, K] logits: 64 MiB
SHORTEST = 1e-12  # of a query: shorter ones are divided by this, as F.normalize does


def soft_info_nce(
    queries: Tensor,
    keys: Tensor,
    targets: Tensor | SoftTargets,
    temperature: float,
    gather: bool = True,
) -> Tensor:
    """CE(q, k; t) = mean over rows of -Σ t · log softmax(q·kᵀ / τ), q and k L2-normalised.

    Under autocast everything here stays in float32 or better: normalisation, logits and log-softmax in
    half precision are where peers' NaN losses come from.

    Args:
        queries: [rows, size], not normalised; the gradient flows through them (once: it has none itself).
        keys: [rows of this process, size], not normalised; no gradient.
        targets: dense [rows, num_keys], or the sparse form (the same loss, without the matrix).
        temperature: τ.
        gather: collect the keys of all processes, in the order of their ranks; False: they are complete.

    Returns:
        A scalar in float32, or float64 for float64 queries.
    """
    with torch.autocast(queries.device.type, enabled=False):
        precision = torch.promote_types(queries.dtype, torch.float32)
        keys = keys.detach()
        if gather:
            keys = distributed.gather_rows(keys)
        loss: Tensor = _SoftInfoNCE.apply(queries.to(precision), F.normalize(keys.to(precision)), targets, temperature)
        return loss


def paired_info_nce(queries: Tensor, others: Tensor, temperature: float) -> Tensor:
    """SimCLR's loss (NT-Xent, arXiv:2002.05709, equation 1) of one of the two views; its mean over both is the paper's.

    Mean over rows i of -log softmax at the own image's other view, among all images in the other view and all other
    images in the same view, of all processes. Gradient flows through both sides.

    Args:
        queries, others: projections of the two views, [rows of this process, size], not normalised.
        temperature: τ.

    Returns:
        A scalar in float32, or float64 for float64 projections.
    """
    with torch.autocast(queries.device.type, enabled=False):
        precision = torch.promote_types(queries.dtype, torch.float32)
        query, other = (F.normalize(each.to(precision)) for each in (queries, others))
        same, opposite = (distributed.gather_rows(each, gradient=True) for each in (query, other))
        own = torch.arange(len(query), device=query.device) + distributed.rank() * len(query)
        among = (query @ same.T / temperature).scatter(1, own[:, None], -torch.inf)
        return F.cross_entropy(torch.cat([query @ opposite.T / temperature, among], 1), own)


class _SoftInfoNCE(torch.autograd.Function):
    """Loss and gradient together; keys are normalised, queries are not."""

    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, targets: Tensor | SoftTargets, temperature: float) -> Tensor:
        lengths = torch.linalg.vector_norm(queries, dim=1, keepdim=True).clamp_min_(SHORTEST)
        directions = queries / lengths
        scaled = directions / temperature
        needed = ctx.needs_input_grad[0]
        gradient = torch.empty_like(queries) if needed else None
        total = queries.new_zeros(())
        step = max(1, MOST_LOGITS // len(keys))
        for start in range(0, len(queries), step):
            rows = slice(start, start + step)
            logits = scaled[rows] @ keys.T
            normaliser = logits.logsumexp(1, keepdim=True)
            if isinstance(targets, SoftTargets):
                part = targets.rows(rows)
                # -Σ t·log softmax = logsumexp - Σ t·logits, since every row of t sums to 1.
                total += normaliser.sum() - part.expectation(logits).sum()
                if gradient is not None:
                    torch.mm(part.subtracted_from(logits.sub_(normaliser).exp_()), keys, out=gradient[rows])
            else:
                dense = targets[rows].to(queries.dtype)
                weight = dense.sum(1, keepdim=True)
                total += (weight * normaliser).sum() - (dense * logits).sum()
                if gradient is not None:
                    torch.mm(logits.sub_(normaliser).exp_().mul_(weight).sub_(dense), keys, out=gradient[rows])
        if gradient is not None:
            # Of the normalisation: what points along the query changes its length only.
            along = (gradient * directions).sum(1, keepdim=True)
            gradient.addcmul_(directions, along, value=-1).div_(lengths * (temperature * len(queries)))
            ctx.save_for_backward(gradient)
        return total / len(queries)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, flow: Tensor) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return flow * gradient, None, None, None
