"""The usual way to make method.md's views: PIL images and torchvision's transforms, one image at a time.

What this package's input pipeline is compared with. No needless slowness: one decoding for all views of an image, PIL's
own C code for resizing, enhancing and blurring.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence

import torch
from PIL import Image, ImageFilter
from torchvision import transforms

from patchmix.config import ViewsConfig
from patchmix.data.statistics import IMAGENET_MEAN, IMAGENET_STD

View = Callable[[Image.Image], torch.Tensor]


class GaussianBlur:
    """Blur by PIL with a σ that is drawn uniformly."""

    def __init__(self, low: float = 0.1, high: float = 2.0) -> None:
        self.low, self.high = low, high

    def __call__(self, image: Image.Image) -> Image.Image:
        return image.filter(ImageFilter.GaussianBlur(random.uniform(self.low, self.high)))


class PlainViews:
    """Two global views and the local crops of a PIL image, normalised float32 [3, size, size] each."""

    def __init__(self, views: ViewsConfig, image_size: int) -> None:
        sizes = [image_size, image_size, *[views.local_size] * views.num_local_crops]
        self.views = [_view(views, number, size) for number, size in enumerate(sizes)]

    def __call__(self, image: Image.Image) -> list[torch.Tensor]:
        return [view(image) for view in self.views]


def decode(path: str) -> Image.Image:
    """The file's image, its pixels decoded."""
    with Image.open(path) as opened:
        return opened.convert("RGB")


def _view(views: ViewsConfig, number: int, size: int) -> View:
    kind = min(number, 2)
    jitter = transforms.ColorJitter(views.brightness, views.contrast, views.saturation, views.hue)
    scale = views.local_scale if kind == 2 else views.global_scale
    composed: View = transforms.Compose(
        [
            transforms.RandomResizedCrop(size, scale, views.ratio, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomApply([jitter], p=views.jitter),
            transforms.RandomGrayscale(p=views.grey),
            transforms.RandomApply([GaussianBlur()], p=views.blur[kind]),
            transforms.RandomSolarize(128, p=views.solarise[kind]),
            transforms.RandomHorizontalFlip(p=views.flip),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_MEAN, IMAGENET_STD),
        ]
    )
    return composed


def seconds_an_image(pipeline: PlainViews, images: Sequence[Callable[[], Image.Image]]) -> float:
    """Seconds that all views of an image take, from reading it on, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    began = time.perf_counter()
    for image in images:
        pipeline(image())
    taken = time.perf_counter() - began
    torch.set_num_threads(threads)
    return taken / len(images)
