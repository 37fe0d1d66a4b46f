"""Floating-point operations: those of a step, counted, and how many a second this machine does at its best."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from patchmix.benching.steps import seconds_of

SIZES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}
DTYPES = {"32-true": torch.float32, "bf16-mixed": torch.bfloat16, "16-mixed": torch.float16}
Shape = Sequence[int]


class ProductLimit:
    """The matrix-product limit: operations a second of square products, the best of a few sizes.

    The machine's pace changes with what else it does, so the limit is sampled between the steps it is compared with.

    Args:
        precision: Fabric's name; the products are in its lower precision.
    """

    def __init__(self, device: torch.device, precision: str) -> None:
        self.device = device
        dtype = DTYPES[precision]
        sizes = SIZES.get(device.type, SIZES["cpu"])
        # Two factors and the place of their product: taking memory for it is no arithmetic.
        self.matrices = {size: torch.randn(3, size, size, device=device).to(dtype) for size in sizes}
        self.seconds: dict[int, list[float]] = {size: [] for size in sizes}
        for size in sizes:
            self._multiply(size)  # warms up

    def sample(self) -> None:
        """One product of each size."""
        for size, seconds in self.seconds.items():
            seconds.append(seconds_of(functools.partial(self._multiply, size), self.device))

    def _multiply(self, size: int) -> None:
        first, second, product = self.matrices[size]
        torch.mm(first, second, out=product)

    @property
    def per_second(self) -> float:
        """Operations a second: the best size's median."""
        return max(2 * size**3 / statistics.median(seconds) for size, seconds in self.seconds.items())


def counted_operations(function: Callable[[], object]) -> int:
    """Floating-point operations of matrix products, convolutions and attention in a call, by torch's counter.

    A multiplication and an addition are two. What is computed again in a backward pass counts again.
    """
    aten = torch.ops.aten
    # torch counts the fused attention of GPUs only; that of the CPU takes the same arguments first. It counts no
    # operator of oneDNN either.
    missing = {
        torch.ops.mkldnn._linear_pointwise: _linear,
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    with FlopCounterMode(display=False, custom_mapping=missing) as counter:
        function()
    return int(counter.get_total_flops())


def _linear(tokens: Shape, weight: Shape, *_: Any, **__: Any) -> int:
    return 2 * math.prod(tokens) * weight[0]


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))  # type: ignore[no-untyped-call]  # torch's own, untyped


def _attention_backward(gradient: Shape, query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return int(sdpa_backward_flop_count(gradient, query, key, value))  # type: ignore[no-untyped-call]  # the same
