"""What the last block for the class token alone saves of an encoder's forward and backward pass.

Prints a table. Each row alternates, in one process and on the same images, between timm's forward, which computes
the whole last block, and ours, which computes its class token only (models/class_token.py), both with
their backward. The saving is the ratio of medians. Command: python benchmarks/class_token.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from patchmix.models.spec import EncoderSpec
from patchmix.models.vit import create_vit

# Width, blocks, heads, image size, channels, patch, batch, timed repeats: the demo's encoder, and ViT-Ti as on CIFAR.
CASES = ((64, 3, 2, 28, 1, 7, 64, 200), (192, 12, 3, 32, 3, 4, 16, 40))


def measure(
    width: int, depth: int, num_heads: int, size: int, channels: int, patch_size: int, batch: int, repeats: int
) -> str:
    """One row of the table."""
    half = (0.5,) * channels
    spec = EncoderSpec("vit_tiny", (size, size), patch_size, width, depth, num_heads, channels, "token", half, half)
    encoder = create_vit(spec).train()
    images = torch.randn(batch, channels, size, size)

    def seconds(forward: Callable[[Tensor], Tensor]) -> float:
        start = time.perf_counter()
        forward(images).sum().backward()
        taken = time.perf_counter() - start
        encoder.zero_grad()
        return taken

    pairs = [(seconds(lambda x: VisionTransformer.forward(encoder, x)), seconds(encoder)) for _ in range(repeats + 1)]
    whole, alone = zip(*pairs[1:], strict=True)  # the first is not counted
    ratio = statistics.median(alone) / statistics.median(whole)
    return (
        f"| {width} × {depth}, {size} px / {patch_size} | {batch} | {repeats} | {in_ms(whole)} | {in_ms(alone)} | "
        f"{ratio:.3f} |"
    )


def in_ms(times: tuple[float, ...]) -> str:
    """Median (lowest–highest)."""
    return f"{1000 * statistics.median(times):.1f} ({1000 * min(times):.1f}–{1000 * max(times):.1f})"


def lines() -> Iterator[str]:
    """This benchmark's section of results.md, as it is measured."""
    torch.manual_seed(0)
    yield "## The last block for the class token alone: forward and backward of the encoder"
    yield ""
    yield "`python benchmarks/class_token.py`; float32. Medians in ms (lowest–highest), alternating in one process."
    yield ""
    yield "| width × depth, image / patch | batch | repeats | whole last block | class token only | ratio of medians |"
    yield "|---|---|---|---|---|---|"
    for case in CASES:
        yield measure(*case)


if __name__ == "__main__":
    for line in lines():
        print(line, flush=True)
