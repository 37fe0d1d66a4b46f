"""Which training images are most like a few queries: by the features of the newest checkpoint, and by pixels.

Looks at training images in a random order that is always the same, until all (or MOST_IMAGES) were looked at or
the time is up. d: width of the features; n: images looked at.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchmix import checkpoint
from patchmix.data.datasets import has_split, open_dataset
from patchmix.data.sources import ImageSource, Subset, read_or_next
from patchmix.data.streams import Purpose, keyed_generator
from patchmix.environment import resolve_device, resolve_precision
from patchmix.errors import UserError
from patchmix.evaluation.features import NothingReadableError, extract, prepare_image
from patchmix.models.loading import LoadedEncoder, resolve_encoder
from patchmix.reporting.run_files import RunFiles

NUM_QUERIES = 8
NUM_NEIGHBOURS = 6
MOST_IMAGES = 10_000
SECONDS = 12.0
"""Time for looking at training images: the page is to be there in half a minute, on two cores with photographs too."""
CHUNKS = 32, 1024
"""Images looked at between two looks at the clock, fewest and most: about a second's worth."""
THUMBNAIL = 32
"""Pixels a side at which raw pixels are compared, at most: full photographs would compare worse."""


Indices = npt.NDArray[np.int64]
Seen = tuple[Tensor, Tensor]
"""Positions in a source, int64 [n], and what `WithPixels` gives for them, [n, d + pixels]."""


@dataclass(frozen=True)
class Shown:
    """An image as the encoder is given it: uint8 [channels, height, width]; its file, class and similarity.

    label: the name of its class, None where unknown. similarity: cosine to the query, None of a query.
    """

    image: Tensor
    path: str
    label: str | None
    similarity: float | None = None


@dataclass(frozen=True)
class Found:
    """A query and the training images most like it, the most similar first."""

    query: Shown
    by_features: list[Shown]
    by_pixels: list[Shown]


@dataclass(frozen=True)
class Retrieval:
    """What was found.

    num_looked of num_images training images were looked at, num_unreadable more could not be read; split: of the
    queries; loaded: what gave the features; mean_similarity: of a query and any image looked at, by features;
    data_changed: the images are not those that the checkpoint was trained on.
    """

    found: list[Found]
    num_looked: int
    num_unreadable: int
    num_images: int
    split: str
    loaded: str
    mean_similarity: float
    data_changed: bool


class WithPixels(nn.Module):
    """An encoder's features followed by the pixels it was given, at most 32 × 32, in the scale of the images.

    One pass over the files serves both comparisons.
    """

    std: Tensor

    def __init__(self, encoder: nn.Module, std: tuple[float, ...]) -> None:
        super().__init__()
        self.encoder = encoder
        self.register_buffer("std", torch.tensor(std)[:, None, None])

    def forward(self, images: Tensor) -> Tensor:
        """[N, d + pixels]."""
        height, width = images.shape[-2:]
        small = F.adaptive_avg_pool2d(images, (min(height, THUMBNAIL), min(width, THUMBNAIL)))
        return torch.cat([self.encoder(images).float(), (small * self.std).flatten(1).float()], dim=1)


def retrieve(run: RunFiles, seconds: float = SECONDS) -> Retrieval:
    """Look for the neighbours of eight test images, or of training images where there are no test images.

    Raises:
        UserError, OSError: no whole checkpoint, no images, or features that are not finite.
        UnreadableImage: a file became unreadable in between.
    """
    loaded = resolve_encoder(run.directory)
    train = run.training_images
    queries = open_dataset(run.config.data, "test") if has_split(run.config.data, "test") else train
    device = resolve_device("auto")
    model, precision = WithPixels(loaded.encoder, loaded.spec.std).to(device), resolve_precision("auto", device)

    def look(source: ImageSource, indices: Indices) -> Seen:
        try:
            found = extract(model, Subset(source, indices), loaded.spec, device=device, precision=precision)
        except torch.OutOfMemoryError:
            raise UserError("the GPU has too little free memory, another process may be using it") from None
        return torch.from_numpy(indices)[found.indices], found.features

    asked, query_features = look(queries, _query_indices(queries))
    order = keyed_generator(Purpose.SUBSET, 0).permutation(len(train))[:MOST_IMAGES]
    taken, features, num_unreadable = _look_while_there_is_time(lambda indices: look(train, indices), order, seconds)
    if not bool(torch.isfinite(features).all() and torch.isfinite(query_features).all()):
        raise UserError("the features of the newest checkpoint are not finite, training has diverged")
    width = features.shape[1] - _num_pixels(loaded)
    by_features = _similarities(features[:, :width], query_features[:, :width])
    mean = features[:, width:].mean(dim=0)
    by_pixels = _similarities(features[:, width:] - mean, query_features[:, width:] - mean)
    itself = taken == asked[:, None] if queries is train else torch.zeros_like(by_features, dtype=torch.bool)

    def nearest(similarities: Tensor, itself: Tensor) -> list[Shown]:
        number = min(NUM_NEIGHBOURS, len(taken) - int(itself.sum()))
        values, places = similarities.masked_fill(itself, -torch.inf).topk(number)
        near = zip(taken[places].tolist(), values.tolist(), strict=True)
        return [_shown(train, index, loaded, similarity) for index, similarity in near]

    found = [
        Found(_shown(queries, index, loaded), nearest(features_row, own), nearest(pixels_row, own))
        for index, features_row, pixels_row, own in zip(asked.tolist(), by_features, by_pixels, itself, strict=True)
    ]
    return Retrieval(
        found,
        num_looked=len(taken),
        num_unreadable=num_unreadable,
        num_images=len(train),
        split=queries.split,
        loaded=loaded.description.rpartition(": ")[0],
        mean_similarity=float(by_features[~itself].mean()),
        data_changed=_data_changed(run, train),
    )


def _look_while_there_is_time(
    look: Callable[[Indices], Seen], order: Indices, seconds: float
) -> tuple[Tensor, Tensor, int]:
    """Look at images in this order, until all were looked at or the next ones would take too long.

    Positions and what `WithPixels` gives, as in `Seen`, and how many could not be read.
    """
    started = time.perf_counter()
    seen: list[Seen] = []
    size, start = CHUNKS[0], 0
    while start < len(order):
        before = time.perf_counter()
        chunk = order[start : start + size]
        start += len(chunk)
        with contextlib.suppress(NothingReadableError):
            seen.append(look(chunk))
        now = time.perf_counter()
        an_image = (now - before) / len(chunk)
        size = max(CHUNKS[0], min(CHUNKS[1], int(1 / an_image)))
        if now - started + size * an_image > seconds:
            break
    if not seen:
        raise UserError(f"none of {start:,} training images can be read")
    indices, features = zip(*seen, strict=True)
    taken = torch.cat(indices)
    return taken, torch.cat(features), start - len(taken)


def _query_indices(source: ImageSource) -> Indices:
    """Readable images, spread over the classes where there are labels, else over the files."""
    count = len(source)
    order = np.arange(count) if source.labels is None else np.argsort(source.labels.numpy(), kind="stable")
    places = ((np.arange(NUM_QUERIES) + 0.5) * count / NUM_QUERIES).astype(np.int64)
    readable = dict.fromkeys(read_or_next(source, int(order[place]))[1] for place in places)
    return np.array(list(readable), dtype=np.int64)


def _num_pixels(loaded: LoadedEncoder) -> int:
    height, width = (min(side, THUMBNAIL) for side in loaded.spec.image_size)
    return loaded.spec.channels * height * width


def _similarities(features: Tensor, queries: Tensor) -> Tensor:
    """Cosine similarity of every query with every image, [queries, n]."""
    return F.normalize(queries, dim=1) @ F.normalize(features, dim=1).T


def _shown(source: ImageSource, index: int, loaded: LoadedEncoder, similarity: float | None = None) -> Shown:
    label = None if source.labels is None else source.classes[int(source.labels[index])]
    return Shown(prepare_image(source.read(index), loaded.spec), source.path(index), label, similarity)


def _data_changed(run: RunFiles, source: ImageSource) -> bool:
    for path in checkpoint.list_checkpoints(run.directory):
        try:
            then = checkpoint.read_metadata(path).get("data", {}).get("fingerprint")
        except checkpoint.DamagedCheckpoint:
            continue
        return then is not None and then != source.fingerprint
    return False
