"""Soft targets of the contrasts: method.md, "Targets". Rows are queries, columns are all R * N keys.

    N  images per process (batch_size)     R, r  number of processes, this one's rank
    M  images mixed into one (num_mix)     ε     smoothing

A target is kept as offsets and weights: row i has weight w_d at the own column (i + d) mod N, for a few
offsets d (offsets.py). Offsets that wrap onto each other add up. The dense [N, R * N] matrix is derived from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from patchmix.offsets import Offsets, Shares, mix_to_mix_offsets, mix_to_origin_offsets, origin_offsets


class SoftTargets(NamedTuple):
    """Targets of one contrast, sparse.

    columns: [rows, num_offsets], int64, column of each weighted key.
    weights: [num_offsets], float64, summing to 1.
    num_keys: R * N.
    smoothing: ε, spread evenly over all columns; the weights are scaled by 1 - ε.
    """

    columns: Tensor
    weights: Tensor
    num_keys: int
    smoothing: float

    def dense(self, dtype: torch.dtype | None = None) -> Tensor:
        """[rows, num_keys]; every row sums to 1. Default type: torch's."""
        dtype = dtype or torch.get_default_dtype()
        shape = (self.columns.shape[0], self.num_keys)
        # Made in double precision, so that a row sums to 1 as closely as `dtype` can say.
        floor = self.smoothing / self.num_keys
        target = torch.full(shape, floor, dtype=torch.float64, device=self.columns.device)
        weights = ((1 - self.smoothing) * self.weights).expand_as(self.columns)
        # DIFFERS: wrapped offsets are added; the reference overwrites (method.md, "Targets"; decision 0008).
        return target.scatter_add_(1, self.columns, weights).to(dtype)

    def rows(self, rows: slice) -> SoftTargets:
        """The targets of some of the queries."""
        return self._replace(columns=self.columns[rows])

    def expectation(self, logits: Tensor) -> Tensor:
        """[rows]: Σ t · logits, of logits [rows, num_keys]."""
        expected = logits.gather(1, self.columns) @ self.weights.to(logits.dtype)
        if self.smoothing:
            expected = (1 - self.smoothing) * expected + self.smoothing * logits.mean(1)
        return expected

    def subtracted_from(self, matrix: Tensor) -> Tensor:
        """matrix - t, in place, of a matrix [rows, num_keys]."""
        weights = ((self.smoothing - 1) * self.weights).to(matrix.dtype)
        matrix.scatter_add_(1, self.columns, weights.expand_as(self.columns))
        return matrix.sub_(self.smoothing / self.num_keys) if self.smoothing else matrix

    def repeat(self, times: int) -> SoftTargets:
        """The same rows again and again: the C local crops of a batch, concatenated crop by crop."""
        return self._replace(columns=self.columns.repeat(times, 1))


def soft_targets(
    offsets: Offsets,
    batch_size: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    mix_group: int | None = None,
    smoothing: float = 0.0,
    device: torch.device | str | None = None,
) -> SoftTargets:
    """Targets with the given offsets for rank r's N queries; mix_group as in `target_columns`."""
    columns = target_columns(tuple(offsets), batch_size, rank=rank, mix_group=mix_group, device=device)
    return SoftTargets(columns, target_weights(offsets, device), world_size * batch_size, smoothing)


def target_columns(
    offsets: Sequence[int],
    batch_size: int,
    *,
    rank: int = 0,
    mix_group: int | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """[batch_size, num_offsets], int64: the key at each distance from each of rank r's N queries.

    mix_group: images among which offsets wrap, as in `MixPlan.sources` (None: the N of this process).
    """
    group = mix_group or batch_size
    if batch_size % group:
        raise ValueError(f"mix_group = {group} does not divide the batch of {batch_size}")
    image = torch.arange(batch_size, device=device)[:, None]
    steps = torch.tensor(offsets, device=device)
    return rank * batch_size + image - image % group + (image % group + steps) % group


def target_weights(offsets: Offsets, device: torch.device | str | None = None) -> Tensor:
    """[num_offsets], float64; sent without letting a GPU wait."""
    return torch.tensor(list(offsets.values()), dtype=torch.float64).to(device, non_blocking=True)


def origin_to_origin(
    batch_size: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    smoothing: float = 0.0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """[batch_size, world_size * batch_size]: 1 at the own image (then smoothed)."""
    offsets = origin_offsets((1,), (1,))
    return soft_targets(
        offsets, batch_size, rank=rank, world_size=world_size, smoothing=smoothing, device=device
    ).dense(dtype)


def mix_to_origin(
    batch_size: int,
    num_mix: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    smoothing: float = 0.0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    shares: Shares | None = None,
) -> Tensor:
    """[batch_size, world_size * batch_size]: 1/M at each image that was mixed in (then smoothed).

    shares: of the M groups, such as a plan's `group_sizes`, for weights in their proportion (None: equal).
    """
    offsets = mix_to_origin_offsets(_shares(shares, num_mix), (1,))
    return soft_targets(
        offsets, batch_size, rank=rank, world_size=world_size, smoothing=smoothing, device=device
    ).dense(dtype)


def mix_to_mix(
    batch_size: int,
    num_mix: int,
    *,
    rank: int = 0,
    world_size: int = 1,
    smoothing: float = 0.0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    shares: Shares | None = None,
) -> Tensor:
    """[batch_size, world_size * batch_size]: the share of groups in common, (M - |d|)/M² (then smoothed).

    shares: of the M groups of queries and keys, as in `mix_to_origin`.
    """
    groups = _shares(shares, num_mix)
    offsets = mix_to_mix_offsets(groups, groups)
    return soft_targets(
        offsets, batch_size, rank=rank, world_size=world_size, smoothing=smoothing, device=device
    ).dense(dtype)


def _shares(shares: Shares | None, num_mix: int) -> Shares:
    if shares is not None and len(shares) != num_mix:
        raise ValueError(f"{len(shares)} shares do not fit num_mix = {num_mix} groups")
    return (1,) * num_mix if shares is None else shares
