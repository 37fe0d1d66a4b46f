"""Soft-target InfoNCE: method.md, "Loss of one step", CE(q, k; t)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from patchmix import distributed
from patchmix.targets import SoftTargets


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
        queries: [rows, size], not normalised; the gradient flows through them.
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
        logits = F.normalize(queries.to(precision)) @ F.normalize(keys.to(precision)).T / temperature
        if isinstance(targets, Tensor):
            return F.cross_entropy(logits, targets.to(precision))
        # -Σ t·log softmax = logsumexp - Σ t·logits, since every row of t sums to 1.
        expected = logits.gather(1, targets.columns) @ targets.weights.to(precision)
        if targets.smoothing:
            expected = (1 - targets.smoothing) * expected + targets.smoothing * logits.mean(1)
        return (logits.logsumexp(1) - expected).mean()
