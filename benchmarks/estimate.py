"""An estimate, not measured: the paper's ViT-S/16 on 8 H100, from counted operations and bytes, and what limits it.

A step of recipe imagenet-vit-small is run on torch's meta device, which computes shapes only. Every operator takes the
longer of two times: its counted floating-point operations at a share of the GPU's peak, and the bytes that it reads and
writes at a share of the memory's bandwidth. Shares and peaks are assumptions, given as options; --worker_ms is measured
by benchmarks/input_pipeline.py. Prints Markdown. Command: python benchmarks/estimate.py
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from patchmix import recipes
from patchmix.data.statistics import IMAGENET_MEAN, IMAGENET_STD
from patchmix.method import ContrastiveModel, build_model
from patchmix.models.encoders import resolve_spec

RECIPE, NUM_GPUS, NUM_IMAGES = "imagenet-vit-small", 8, 1_281_167
BYTES = 2  # of a number in bfloat16; sums that autocast keeps in float32 are counted so too
MEGA, GIGA, TERA = 1e6, 1e9, 1e12


class Roofline(TorchDispatchMode):
    """Adds up operations, bytes, and the longer time of the two for each operator that runs inside.

    The products of attention count as operations; what they read and write does not, since a fused attention keeps
    scores on the chip, and its queries, keys and values are counted where they are made.

    Args:
        per_second, bandwidth: operations and bytes a second that are reached.
        inner: sizes of a last dimension that only attention has: of a head, and of the scores.
    """

    def __init__(self, per_second: float, bandwidth: float, inner: frozenset[int]) -> None:
        super().__init__()
        self.per_second, self.bandwidth, self.inner = per_second, bandwidth, inner
        self.operations, self.bytes, self.seconds = 0.0, 0.0, 0.0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
        made = [each for each in tree_leaves(result) if isinstance(each, Tensor)]
        count = flop_registry.get(func._overloadpacket)
        operations = count(*args, **kwargs, out_val=result) if count is not None else 0
        # Results that share memory with what was given are views: nothing is moved.
        moves = not func.is_view and "view" not in func.name() and func.name() != "aten::empty.memory_format"
        attends = any(each.ndim > 2 and each.shape[-1] in self.inner for each in made)
        moved = BYTES * sum(each.numel() for each in (*given, *made)) if moves and not attends else 0
        self.operations += operations
        self.bytes += moved
        self.seconds += max(operations / self.per_second, moved / self.bandwidth)
        return result


def run_step(model: ContrastiveModel, batch: int, size: int, local: int, crops: int) -> None:
    """The passes of a step and their backward, in the order of the method; losses are left out (see `lines`)."""
    whole, crop = (torch.empty(n, 3, s, s, device="meta") for n, s in ((batch, size), (crops * batch, local)))
    for asks, answers, images in (
        (1, 1, whole),
        (0, 1, whole),
        (0, 1, whole),
        (1, 0, whole),
        (1, 0, crop),
        (1, 0, crop),
    ):
        if asks:
            model.predictor(model.projector(model.encoder(images))).sum().backward()
        if answers:
            with torch.no_grad():
                model.momentum_projector(model.momentum_encoder(images))


def lines(words: Sequence[str] = ()) -> Iterator[str]:
    """The section, as it is calculated; `words` are options of the command line."""
    given = options().parse_args(words)
    config = recipes.resolve(RECIPE)
    size, local, crops = config.data.image_size or 224, config.views.local_size, config.views.num_local_crops
    spec = resolve_spec(config.model, (size, size), 3, IMAGENET_MEAN, IMAGENET_STD)
    batch = config.optim.batch_size // NUM_GPUS
    with torch.device("meta"):
        model = build_model(config, spec)
    tokens = {1 + (side // spec.patch_size) ** 2 for side in (size, local)}
    mode = Roofline(
        given.products_share * given.peak_tflops * TERA,
        given.bandwidth_share * given.bandwidth_tbps * TERA,
        frozenset({spec.width // spec.num_heads, *tokens}),
    )
    with mode:
        run_step(model, batch, size, local, crops)
    # Losses, [N, K] logits and their gradients: a product each; 3 rows of N queries, 4 of C * N.
    rows = batch * (3 + 4 * crops)
    loss = 4 * rows * config.optim.batch_size * config.model.projection_size
    trained = sum(each.numel() for each in model.parameters() if each.requires_grad)
    kept = sum(each.numel() for each in model.parameters() if not each.requires_grad)
    # AdamW reads and writes parameter and two moments, reads the gradient; the momentum update reads two, writes one.
    update = 4 * (7 * trained + 3 * kept) / (given.bandwidth_share * given.bandwidth_tbps * TERA)
    reduced = 4 * trained * 2 * (NUM_GPUS - 1) / NUM_GPUS / (given.link_gbps * GIGA)
    sent = batch * 3 * (2 * size**2 + crops * local**2)
    step = mode.seconds + loss / mode.per_second + update + reduced
    rate = batch / step
    steps = config.optim.epochs * (NUM_IMAGES // config.optim.batch_size)
    used = (mode.operations + loss) / step / TERA
    yield "## An estimate, not measured: ViT-S/16 on 8 × H100"
    yield ""
    yield (
        f"`python benchmarks/estimate.py`; recipe `{RECIPE}`, {batch} images a GPU, {crops} local crops, bf16. "
        f"Assumed: {given.peak_tflops:.0f} TFLOP/s peak of which products reach {100 * given.products_share:.0f} %, "
        f"{given.bandwidth_tbps} TB/s memory of which {100 * given.bandwidth_share:.0f} % are reached, "
        f"{given.link_gbps:.0f} GB/s between GPUs, nothing overlaps, nothing is fused but attention; a worker takes "
        f"{given.worker_ms} ms for an image."
    )
    yield ""
    yield "| what, for one GPU | value |"
    yield "|---|---|"
    operations = mode.operations + loss
    yield f"| operations of an image, GFLOP (counted on the meta device) | {operations / batch / GIGA:.1f} |"
    yield f"| operations of a step, TFLOP | {operations / TERA:.2f} |"
    yield f"| bytes that operators read and write in a step, GB | {mode.bytes / GIGA:.0f} |"
    yield f"| passes, ms (products alone {1000 * mode.operations / mode.per_second:.0f}, memory alone " + (
        f"{1000 * mode.bytes / mode.bandwidth:.0f}) | {1000 * mode.seconds:.0f} |"
    )
    yield f"| losses, ms | {1000 * loss / mode.per_second:.2f} |"
    yield f"| momentum update and AdamW, ms | {1000 * update:.2f} |"
    yield f"| gradients of {trained / MEGA:.0f} M parameters between 8 GPUs, ms | {1000 * reduced:.2f} |"
    yield f"| **a step, ms** | **{1000 * step:.0f}** |"
    yield f"| images a second | {rate:,.0f} |"
    yield f"| share of the peak | {100 * used / given.peak_tflops:.0f} % |"
    yield f"| views sent to the GPU, uint8, GB/s (PCIe 5 × 16: about 50) | {sent / step / GIGA:.2f} |"
    yield f"| cores that decode and crop, {given.worker_ms} ms an image | {math.ceil(rate * given.worker_ms / 1000)} |"
    yield f"| 300 epochs on eight such GPUs, hours | {steps * step / 3600:.0f} |"
    cores = given.cores_per_gpu
    by_cores = 1000 * cores / given.worker_ms
    limit = "the cores that read images" if by_cores < rate else "the GPU's memory and products"
    yield (
        f"| with {cores} cores a GPU (as 8-GPU machines have): limited by {limit}; images a second, hours | "
        f"{min(rate, by_cores):,.0f}, {steps * config.optim.batch_size / NUM_GPUS / min(rate, by_cores) / 3600:.0f} |"
    )


def options() -> argparse.ArgumentParser:
    """The assumptions, as options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peak_tflops", type=float, default=989.0, help="dense bf16, of the data sheet of an H100 SXM")
    parser.add_argument("--products_share", type=float, default=0.6, help="of the peak, by products of these sizes")
    parser.add_argument("--bandwidth_tbps", type=float, default=3.35, help="memory, of the data sheet")
    parser.add_argument("--bandwidth_share", type=float, default=0.8, help="of the bandwidth, by simple operators")
    parser.add_argument("--link_gbps", type=float, default=300.0, help="NVLink, one direction, in an all-reduce")
    parser.add_argument("--worker_ms", type=float, default=2.7, help="of a core, for an image's decoding and crops")
    parser.add_argument("--cores_per_gpu", type=int, default=14)
    return parser


if __name__ == "__main__":
    for line in lines(sys.argv[1:]):
        print(line)
