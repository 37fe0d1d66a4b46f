"""What a worker spends on an image, by stage, beside the usual PIL pipeline, on one thread and in turns."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

from PIL import Image

from patchmix.benching.plain import load_plain
from patchmix.data.crops import SMALL
from patchmix.data.kept import kept
from patchmix.data.loading import photometrics_on_device
from patchmix.data.sample import evenly_spaced
from patchmix.data.sources import ImageSource
from patchmix.data.stages import stage_seconds
from patchmix.job import Job

ROUNDS = 5
MOST_PHOTOS, MOST_SMALL = 16, 128  # images of a round


def worker_stages(job: Job) -> dict[str, float]:
    """Milliseconds of one thread for an image, medians: `decode`, `crops`, `photometrics`, and `worker`, `plain`.

    `worker` is what is left to a worker process: without the photometrics where the device applies them. `plain` is
    missing where the plain version cannot make these views. Images that workers keep in memory are read once, in the
    round that does not count; the plain pipeline has small ones in memory too.
    """
    config, small = job.config, max(job.spec.image_size) <= SMALL
    num_images = min(config.optim.batch_size, MOST_SMALL if small else MOST_PHOTOS)
    source, plain = kept(job.source), _plain(job, num_images, in_memory=small)
    rounds: list[dict[str, float]] = []
    for _ in range(1 + ROUNDS):
        found = stage_seconds(source, config, num_images)
        everything = found.pop("everything")
        found["worker"] = everything - (found["photometrics"] if photometrics_on_device(config) else 0.0)
        if plain is not None:
            found["plain"] = plain()
        rounds.append(found)
    # The first round warms up.
    return {name: 1000 * statistics.median(each[name] for each in rounds[1:]) for name in rounds[0]}


def _plain(job: Job, num_images: int, in_memory: bool) -> Callable[[], float] | None:
    """What measures the plain pipeline's seconds for an image; None where there is none of these views."""
    views, module = job.config.views, load_plain("views")
    if module is None or views.kind != "photo" or job.spec.channels != 3 or len(set(job.spec.image_size)) > 1:
        return None
    indices = evenly_spaced(len(job.source), num_images)
    in_memory = in_memory or job.source.in_memory
    if not in_memory and not all(Path(job.source.path(index)).is_file() for index in indices):
        return None
    images = [
        _held(job.source, index) if in_memory else _opened(job.source.path(index), module.decode) for index in indices
    ]
    pipeline = module.PlainViews(views, job.spec.image_size[0])

    return lambda: float(module.seconds_an_image(pipeline, images))


def _held(source: ImageSource, index: int) -> Callable[[], Image.Image]:
    pixels = source.read(index).permute(1, 2, 0).contiguous().numpy()
    return lambda: Image.fromarray(pixels)


def _opened(path: str, decode: Any) -> Callable[[], Image.Image]:
    return lambda: decode(path)
