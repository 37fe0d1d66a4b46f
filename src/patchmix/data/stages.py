"""What the input pipeline costs, stage by stage: seconds of one thread for each image."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import torch

from patchmix.config import Config
from patchmix.data.datasets import ImageSource, read_or_next, view_size
from patchmix.data.sample import evenly_spaced
from patchmix.data.views import ViewMaker, change_views

Result = TypeVar("Result")


def stage_seconds(source: ImageSource, config: Config, num_images: int) -> dict[str, float]:
    """Seconds per image of `decode`, `crops`, `photometrics` and `everything`, of all its views, on one thread.

    `everything` is their sum: what a worker does for a batch of these images. Drawing is counted with the crops, and so
    are the warps of digits, which have no photometrics.

    Args:
        source: evenly spaced images of it are read; unreadable ones are replaced, as in training.
        num_images: of one batch.

    Raises:
        UserError: no image can be read.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _measure(source, ViewMaker(config.views, view_size(source, config.data), config.seed), num_images)
    finally:
        torch.set_num_threads(threads)


def _measure(source: ImageSource, maker: ViewMaker, num_images: int) -> dict[str, float]:
    indices = evenly_spaced(len(source), num_images)
    keys = [(0, index) for index in indices]
    read, decode = _timed(lambda: [read_or_next(source, index)[0] for index in indices])
    (views, changes), geometric = _timed(lambda: maker.geometric(read, keys))
    changing = _timed(lambda: change_views(views, changes))[1] if changes else 0.0
    total = {
        "decode": decode,
        "crops": geometric,
        "photometrics": changing,
        "everything": decode + geometric + changing,
    }
    return {name: seconds / len(indices) for name, seconds in total.items()}


def _timed(function: Callable[[], Result]) -> tuple[Result, float]:
    began = time.perf_counter()
    result = function()
    return result, time.perf_counter() - began
