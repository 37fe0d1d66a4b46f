"""Where the time of `patchmix knn` goes: the encoder's forward pass, images, neighbours, the rest.

A randomly initialised ViT-T/4 for 32 px is written as a checkpoint and evaluated on CIFAR-10 as JPEG class folders,
from the start of the process to the written result.
Command: python benchmarks/evaluation_profile.py [--root data/cifar10] [--limit N] [--num_threads N] [--baselines true]
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from patchmix import checkpoint
from patchmix.config import DataConfig, EvalRunConfig, KnnConfig
from patchmix.evaluation import knn as knn_module
from patchmix.evaluation import opening
from patchmix.models.spec import EncoderSpec
from patchmix.models.vit import create_vit

SPEC = EncoderSpec("vit_tiny", (32, 32), 4, 192, 12, 3, 3, "token", (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))


def process_age() -> float:
    """Seconds since this process began; on Linux."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return time.clock_gettime(time.CLOCK_BOOTTIME) - int(fields[19]) / os.sysconf("SC_CLK_TCK")


def write_encoder(directory: Path) -> Path:
    """A checkpoint of the untrained encoder; returns its file."""
    torch.manual_seed(0)
    tensors = {f"encoder.{name}": value for name, value in create_vit(SPEC).state_dict().items()}
    path = checkpoint.checkpoint_path(directory, 0)
    checkpoint.write(path, tensors, {"step": 0, "encoder": SPEC.to_dict()})
    return path


def timed(times: Counter[str], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, adding its seconds to times[name]."""

    def run(*given: Any, **options: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*given, **options)
        finally:
            times[name] += time.perf_counter() - started

    return run


def lines(root: str, limit: int | None, num_threads: int | None, baselines: bool) -> Iterator[str]:
    """The table, once it is measured."""
    imports = process_age()
    times: Counter[str] = Counter()
    names = {"extract": "features", "open_labelled": "listing files"}
    for attribute, name in names.items():
        setattr(opening, attribute, timed(times, name, getattr(opening, attribute)))
    knn_module._measure = timed(times, "neighbours and average precision", knn_module._measure)
    encoder_class = type(create_vit(SPEC))
    encoder_class.forward = timed(times, "encoder's forward pass", encoder_class.forward)
    with tempfile.TemporaryDirectory() as directory:
        config = KnnConfig(
            checkpoint=str(write_encoder(Path(directory))),
            output=directory,
            baselines=baselines,
            data=DataConfig(name="folder", root=root, limit=limit),
            run=EvalRunConfig(device="cpu", num_threads=num_threads),
        )
        result = knn_module.knn(config)
    total = process_age()
    times["images: decoding, resizing, waiting for them"] = times.pop("features") - times["encoder's forward pass"]
    times["imports"] = imports
    times["rest"] = total - times.total()
    data, used = result["data"], result["settings"]["used"]
    yield ""
    yield (
        f"{data['num_train']:,} training and {data['num_test']:,} test images, {used['num_threads']} threads, "
        f"baselines {str(baselines).lower()}: {total:.1f} s"
    )
    yield ""
    yield "| part | seconds | share |"
    yield "|---|---|---|"
    for name, seconds in times.most_common():
        yield f"| {name} | {seconds:.1f} | {100 * seconds / total:.1f} % |"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", default="data/cifar10")
    parser.add_argument("--limit", type=int, default=None, help="training images")
    parser.add_argument("--num_threads", type=int, default=None)
    parser.add_argument("--baselines", type=lambda text: text == "true", default=False)
    given = parser.parse_args()
    for line in lines(given.root, given.limit, given.num_threads, given.baselines):
        print(line, flush=True)


if __name__ == "__main__":
    main()
