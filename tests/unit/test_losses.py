"""Soft-target InfoNCE against a plain loop; its precision under autocast."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from patchmix import losses
from patchmix.losses import soft_info_nce
from patchmix.offsets import mix_to_mix_offsets
from patchmix.targets import mix_to_mix, origin_to_origin, soft_targets


def plain_loss(queries: Tensor, keys: Tensor, targets: Tensor, temperature: float) -> float:
    """CE of method.md, "Loss of one step", row by row in Python floats."""
    total = 0.0
    for query, target in zip(queries.tolist(), targets.tolist(), strict=True):
        logits = []
        for key in keys.tolist():
            norms = math.hypot(*query) * math.hypot(*key)
            logits.append(sum(a * b for a, b in zip(query, key, strict=True)) / norms / temperature)
        log_sum = math.log(sum(math.exp(logit) for logit in logits))
        total -= sum(t * (logit - log_sum) for t, logit in zip(target, logits, strict=True))
    return total / len(queries)


@pytest.fixture
def pairs() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(6, 5, generator=generator, dtype=torch.float64) for _ in range(2))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_equals_a_plain_loop_with_dense_and_with_sparse_targets(pairs: tuple[Tensor, Tensor], smoothing: float) -> None:
    queries, keys = pairs
    dense = mix_to_mix(6, 3, smoothing=smoothing, dtype=torch.float64)
    sparse = soft_targets(mix_to_mix_offsets((1,) * 3, (1,) * 3), 6, smoothing=smoothing)
    expected = plain_loss(queries, keys, dense, 0.2)
    assert soft_info_nce(queries, keys, dense, 0.2).item() == pytest.approx(expected, rel=1e-12)
    assert soft_info_nce(queries, keys, sparse, 0.2).item() == pytest.approx(expected, rel=1e-12)


def test_gradient_is_right_and_reaches_the_queries_only(pairs: tuple[Tensor, Tensor]) -> None:
    queries, keys = (pair.requires_grad_() for pair in pairs)
    sparse = soft_targets(mix_to_mix_offsets((1, 1), (1, 1)), 6)
    assert torch.autograd.gradcheck(lambda q: soft_info_nce(q, keys, sparse, 0.5), (queries,))
    soft_info_nce(queries, keys, sparse, 0.5).backward()
    assert keys.grad is None


def test_does_not_depend_on_the_lengths_of_queries_and_keys(pairs: tuple[Tensor, Tensor]) -> None:
    queries, keys = pairs
    target = origin_to_origin(6, dtype=torch.float64)
    torch.testing.assert_close(
        soft_info_nce(queries, keys, target, 0.2), soft_info_nce(3 * queries, 0.1 * keys, target, 0.2)
    )


def test_is_the_logarithm_of_the_number_of_keys_when_all_keys_are_alike() -> None:
    loss = soft_info_nce(torch.randn(7, 4), torch.ones(7, 4), origin_to_origin(7), 0.2)
    assert loss.item() == pytest.approx(math.log(7), rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_stays_in_float32_under_autocast(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    # Of such length that squares overflow float16, and so similar that bfloat16 could not tell them apart.
    base = 300 * torch.ones(8, 64)
    queries = base + torch.randn(8, 64, generator=generator)
    keys = base + torch.randn(8, 64, generator=generator)
    expected = soft_info_nce(queries.to(dtype).float(), keys.to(dtype).float(), origin_to_origin(8), 0.01)
    with torch.autocast("cpu", dtype=dtype):
        loss = soft_info_nce(queries.to(dtype), keys.to(dtype), origin_to_origin(8), 0.01)
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_rows_in_parts_change_neither_loss_nor_gradient(smoothing: float, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    queries = torch.randn(7, 5, generator=generator, dtype=torch.float64, requires_grad=True)
    keys = torch.randn(7, 5, generator=generator, dtype=torch.float64)
    sparse = soft_targets(mix_to_mix_offsets((1,) * 3, (1,) * 3), 7, smoothing=smoothing)
    found = []
    for most in (2**24, 14, 1):  # all rows, two, one
        monkeypatch.setattr(losses, "MOST_LOGITS", most)
        for targets in (sparse, sparse.dense(torch.float64)):
            loss = soft_info_nce(queries, keys, targets, 0.3)
            found.append((loss.detach(), *torch.autograd.grad(loss, queries)))
    for loss, gradient in found[1:]:
        torch.testing.assert_close(loss, found[0][0])
        torch.testing.assert_close(gradient, found[0][1])
    assert torch.autograd.gradcheck(lambda q: soft_info_nce(q, keys, sparse, 0.3), (queries,))


def test_dense_targets_need_not_sum_to_one_and_a_query_may_be_zero() -> None:
    queries = torch.zeros(3, 4, dtype=torch.float64, requires_grad=True)
    keys, target = torch.randn(3, 4, dtype=torch.float64), torch.rand(3, 3, dtype=torch.float64)
    loss = soft_info_nce(queries, keys, target, 0.2)
    torch.testing.assert_close(loss, F.cross_entropy(torch.zeros(3, 3, dtype=torch.float64), target))
    loss.backward()
    assert queries.grad is not None
    assert queries.grad.isfinite().all()
    other = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda q: soft_info_nce(q, keys, target, 0.2), (other,))
