"""What a worker spends on an image, by stage, beside the usual PIL pipeline, on one thread and in turns."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from patchmix.benching.plain import NOT_HERE, load_plain
from patchmix.config import Config
from patchmix.data.crops import SMALL
from patchmix.data.kept import MOST_BYTES, kept
from patchmix.data.loading import photometrics_on_device
from patchmix.data.sample import evenly_spaced
from patchmix.data.sources import ImageSource, read_or_next
from patchmix.data.stages import stage_seconds
from patchmix.job import Job

ROUNDS = 5
MOST_PHOTOS, MOST_SMALL = 16, 128  # images of a round
Opener = Callable[[], Image.Image]


@dataclass(frozen=True)
class InputCost:
    """Milliseconds of one thread for all views of an image, medians.

    stages: `decode` (reading the file included), `crops`, `photometrics`.
    worker: what is left to a worker process: all of them, or without the photometrics where the device applies them.
    worker_kept: of the second epoch on, where workers keep decoded images; None where they do not, or need not.
    plain: of the plain pipeline, from the same images in files, or in memory; why_no_plain: None if it was measured.
    on_device: whether the device applies the photometrics.
    """

    stages: dict[str, float]
    worker: float
    worker_kept: float | None
    plain: float | None
    why_no_plain: str | None
    on_device: bool


def input_cost(job: Job, *, in_memory: bool = False) -> InputCost:
    """Measure it on evenly spaced images; a file that cannot be read is replaced by the next, as in training.

    in_memory: the files stand for images that a run has in memory; then nothing is decoded, by the plain pipeline
        neither.
    """
    config, small = job.config, max(job.spec.image_size) <= SMALL
    in_memory = in_memory or job.source.in_memory
    num_images = min(config.optim.batch_size, MOST_SMALL if small else MOST_PHOTOS)
    source = kept(job.source) if in_memory else job.source
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns about what it repairs
        plain, why_not = _plain(job, num_images, in_memory)
        rounds = [_round(source, config, num_images, plain) for _ in range(1 + ROUNDS)]
    # The first round warms up.
    medians = {name: 1000 * statistics.median(each[name] for each in rounds[1:]) for name in rounds[0]}
    stages = {name: medians[name] for name in ("decode", "crops", "photometrics")}
    on_device = photometrics_on_device(config)
    worker = sum(stages.values()) - (stages["photometrics"] if on_device else 0.0)
    keeps = not in_memory and _are_kept(job, num_images)
    return InputCost(
        stages, worker, worker - stages["decode"] if keeps else None, medians.get("plain"), why_not, on_device
    )


def _round(source: ImageSource, config: Config, num_images: int, plain: Callable[[], float] | None) -> dict[str, float]:
    """Seconds by stage, and of the plain pipeline."""
    return stage_seconds(source, config, num_images) | ({} if plain is None else {"plain": plain()})


def _plain(job: Job, num_images: int, in_memory: bool) -> tuple[Callable[[], float] | None, str | None]:
    """What measures the plain pipeline's seconds for an image, or why nothing does."""
    module = load_plain("views")
    if module is None:
        return None, NOT_HERE
    if job.config.views.kind != "photo":
        return None, "its views are those of photographs, not of digits"
    if job.spec.channels != 3:
        return None, "it makes colour images"
    if len(set(job.spec.image_size)) > 1:
        return None, "its views are square"
    images = _images(job.source, evenly_spaced(len(job.source), num_images), None if in_memory else module.decode)
    if not images:
        return None, "it reads image files, and Pillow can read none of these"
    pipeline = module.PlainViews(job.config.views, job.spec.image_size[0])
    return lambda: float(module.seconds_an_image(pipeline, images)), None


def _images(source: ImageSource, indices: Sequence[int], decode: Any) -> list[Opener]:
    """What gives the images that our reader takes for these, decoded by `decode`, or (None) in memory already.

    Without those that `decode` cannot read.
    """
    found: list[Opener] = []
    for index in indices:
        image, used, _ = read_or_next(source, index)
        if decode is None:
            found.append(_held(image.permute(1, 2, 0).contiguous().numpy()))
        elif _can_be_read(opener := _opened(source.path(used), decode)):
            found.append(opener)
    return found


def _held(pixels: Any) -> Opener:
    return lambda: Image.fromarray(pixels)


def _opened(path: str, decode: Any) -> Opener:
    return lambda: decode(path)


def _can_be_read(opener: Opener) -> bool:
    try:
        opener()
    except Exception:  # decoders raise nearly anything on damaged files
        return False
    return True


def _are_kept(job: Job, num_images: int) -> bool:
    """Whether the workers of this run keep decoded images (data/kept.py): its rule, on the images that are measured."""
    copies = len(job.source) * max(1, job.loader.num_workers)
    images = (read_or_next(job.source, index)[0] for index in evenly_spaced(len(job.source), num_images))
    return all(image.nbytes * copies <= MOST_BYTES for image in images)
