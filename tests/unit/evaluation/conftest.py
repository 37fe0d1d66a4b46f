"""Small image sources and encoders for the evaluation tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

from patchmix import checkpoint
from patchmix.config import Config, to_dict
from patchmix.data.datasets import UnreadableImage
from patchmix.models.spec import EncoderSpec
from patchmix.models.vit import Encoder, create_vit


class MemorySource:
    """An ImageSource over a list of uint8 tensors, with some images that cannot be read."""

    def __init__(
        self,
        images: Sequence[Tensor],
        labels: Tensor | None = None,
        classes: tuple[str, ...] = (),
        split: str = "train",
        unreadable: Sequence[int] = (),
    ) -> None:
        self.name, self.split, self.fingerprint = "memory", split, f"{len(images):04x}"
        self.images, self.labels, self.classes = images, labels, classes
        self.unreadable = frozenset(unreadable)
        self.channels = images[0].shape[0]
        sizes = {tuple(image.shape[1:]) for image in images}
        self.image_size = next(iter(sizes)) if len(sizes) == 1 else None
        self.mean, self.std = (0.5,) * self.channels, (0.25,) * self.channels
        self.in_memory = True
        self.reads: list[int] = []

    def __len__(self) -> int:
        return len(self.images)

    def read(self, index: int) -> Tensor:
        self.reads.append(index)
        if index in self.unreadable:
            raise UnreadableImage(self.path(index), "the file is cut off")
        return self.images[index]

    def path(self, index: int) -> str:
        return f"memory/{self.split}/{index}"


def drawn_images(number: int, channels: int, height: int, width: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randint(0, 256, (number, channels, height, width), generator=generator).to(torch.uint8))


def striped(number: int, split: str = "train", unreadable: Sequence[int] = ()) -> MemorySource:
    """Two classes that any feature tells apart: dark left or dark top, with noise."""
    noise = drawn_images(number, 1, 16, 16, seed=len(split))
    labels = torch.arange(number) % 2
    for image, label in zip(noise, labels.tolist(), strict=True):
        image.div_(4, rounding_mode="floor")
        if label:
            image[:, :8] += 150
        else:
            image[:, :, :8] += 150
    return MemorySource(noise, labels, ("left", "top"), split, unreadable)


@pytest.fixture
def make_striped() -> Callable[..., MemorySource]:
    return striped


@pytest.fixture
def make_source() -> Callable[..., MemorySource]:
    def build(number: int, channels: int, height: int, width: int, **options: object) -> MemorySource:
        return MemorySource(drawn_images(number, channels, height, width), **options)  # type: ignore[arg-type]

    return build


@pytest.fixture
def spec() -> EncoderSpec:
    return EncoderSpec("vit_tiny", (16, 16), 8, 16, 2, 2, 1, "token", (0.5,), (0.25,))


@pytest.fixture
def encoder(spec: EncoderSpec) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_vit(spec, drop_path=0.5, position_std=0.3)


@pytest.fixture
def run(tmp_path: Path, encoder, spec) -> Path:
    """A run directory with one checkpoint of an untrained encoder for 16 × 16 grey images."""
    directory = tmp_path / "run"
    tensors = {f"encoder.{name}": value for name, value in encoder.state_dict().items()}
    metadata = {"step": 3, "encoder": spec.to_dict(), "config": to_dict(Config())}
    checkpoint.write(checkpoint.checkpoint_path(directory, 3), tensors, metadata)
    return directory


@pytest.fixture
def folder(tmp_path: Path, make_striped) -> Path:
    """40 training and 20 test images of two classes, as PNG files."""
    root = tmp_path / "images"
    for split, number in (("train", 40), ("test", 20)):
        source = make_striped(number, split)
        for index, image in enumerate(source.images):
            place = root / split / source.classes[int(source.labels[index])]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image[0].numpy()).save(place / f"{index:03d}.png")
    return root
