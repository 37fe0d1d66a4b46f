"""How alike images of one class are, against images of two classes: the cosine similarity of all pairs.

Pairs share images and so are not independent: an interval resamples images. Resampling 50 million pairs 2,000 times is
out of reach; every figure comes with its influence instead, what each image moves it by, and the bootstrap resamples
that (the infinitesimal jackknife: Efron & Tibshirani, "An Introduction to the Bootstrap", 1993, chapter 22).

shapes: n images, d width
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from patchmix.evaluation.results import Interval
from patchmix.evaluation.scores import bootstrap_interval

STEPS = 2**20
"""Steps of similarity from 0 to 1. Pairs within one step, 1e-6, count as equal: float32 hardly tells them apart."""
LENGTH = 2 * STEPS + 1
"""Places of similarities from −1 to 1."""
BARS = 2**12
"""Bars of a histogram from 0 to 1."""
BLOCK = 8_000_000
"""Similarities held at once."""


@dataclass(frozen=True)
class Figure:
    """A figure of all pairs, and what each image moves it by: float64 [n], mean 0.

    Where image i is drawn w_i times, the figure is about value + mean of w_i · influence_i.
    """

    value: float
    influence: Tensor

    def interval(self) -> Interval:
        """95 % interval in the figure's own unit: bootstrap over images (decision 0021).

        Where no image moves it, an AUC of 1 has Wilson's, as shares of images have; anything else has no width.
        """
        if self.value != 1 and not bool(self.influence.any()):
            return self.value, self.value
        low, high = bootstrap_interval(self.value + self.influence)
        return low / 100, high / 100

    def __sub__(self, other: Figure) -> Figure:
        """The difference of two figures of the same images; its interval is that of paired images."""
        return Figure(self.value - other.value, self.influence - other.influence)


@dataclass(frozen=True)
class PairSimilarity:
    """What the pairs of some images are like. A pair is two different images; cosines are from −1 to 1.

    auc: probability that a pair of one class is more similar than a pair of two classes, 0 to 1; equal ones half.
    within_class, between_class: mean cosine of pairs of one class, and of two. gap: the first minus the second.
    deviation: standard deviation of the similarities of pairs of two classes. gap_in_sd: the gap in these; None where
    they are all equal.
    same, other: number of pairs of one class and of two, by similarity: int64 [2 · BARS] from −1 to 1.
    """

    auc: Figure
    within_class: Figure
    between_class: Figure
    gap: Figure
    deviation: float
    gap_in_sd: Figure | None
    same: Tensor
    other: Tensor


def pair_similarity(features: Tensor, labels: Tensor) -> PairSimilarity:
    """Compare all pairs of images by the cosine of their features [n, d]; `labels` [n] say which are of one class.

    Features of any length and precision are L2-normalised and compared in float32 on their device, and summed in
    float64. Pairs are pooled: a class of more images counts for more. Memory holds BLOCK similarities, whatever n.
    Raises ValueError where no two images are of one class, or all are.
    """
    unit, labels = F.normalize(features.float(), dim=1), labels.to(features.device)
    num_same = labels.bincount()[labels].double() - 1
    num_other = len(labels) - 1 - num_same
    if not bool(num_same.any()) or not bool(num_other.any()):
        raise ValueError("pairs of one class and of two need two images of one class, and two classes")
    # Squares are taken about the mean: of features that are nearly alike, float32 would lose them otherwise.
    centre = float(unit.mean(dim=0).square().sum())
    sums = torch.zeros(3, len(unit), dtype=torch.float64, device=unit.device)
    counts = torch.zeros(2 * LENGTH + 1, dtype=torch.int64, device=unit.device)
    for first, similarity, place in _blocks(unit, labels):
        counts += place.flatten().bincount(minlength=len(counts))
        same, other = place < LENGTH, (place >= LENGTH) & (place < 2 * LENGTH)
        _add(sums[0], first, similarity * same)
        _add(sums[1], first, similarity * other)
        _add(sums[2], first, (similarity - centre).square_() * other)
    within, between = _mean(sums[0], num_same), _mean(sums[1], num_other)
    gap = within - between
    squares = _mean(sums[2], num_other)
    deviation = max(0.0, squares.value - (between.value - centre) ** 2) ** 0.5
    of_one, of_two = counts[:LENGTH], counts[LENGTH : 2 * LENGTH]
    return PairSimilarity(
        auc=_auc(unit, labels, of_one.double(), of_two.double(), num_same, num_other),
        within_class=within,
        between_class=between,
        gap=gap,
        deviation=deviation,
        gap_in_sd=_in_deviations(gap, deviation, squares, between, centre) if deviation * STEPS > 1 else None,
        same=_bars(of_one),
        other=_bars(of_two),
    )


def cosines(query: Tensor, keys: Tensor) -> Tensor:
    """Cosine of one image's features [d] with those of each key [k, d]: float32 [k]."""
    return F.cosine_similarity(query.float(), keys.float(), dim=1)


def _blocks(unit: Tensor, labels: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """(first row, similarity and place [rows, n − first row]) until every pair has been there once.

    place: the step of the similarity, 0 for −1; from LENGTH on for two classes; 2 · LENGTH for what is no pair (an
    image and itself, or a pair that stands on the other side of the diagonal).
    """
    size = max(1, BLOCK // len(unit))
    for first in range(0, len(unit), size):
        similarity = unit[first : first + size] @ unit[first:].T
        place = ((similarity + 1) * STEPS).round_().clamp_(0, 2 * STEPS).long()
        place.add_(labels[first : first + size, None] != labels[first:], alpha=LENGTH)
        square = place[:, : len(place)]
        square.masked_fill_(torch.ones_like(square, dtype=torch.bool).tril_(), 2 * LENGTH)
        yield first, similarity, place


def _add(sums: Tensor, first: int, values: Tensor) -> None:
    """Add the values of pairs [rows, n − first] to both images of each."""
    sums[first : first + len(values)] += values.sum(dim=1, dtype=torch.float64)
    sums[first:] += values.sum(dim=0, dtype=torch.float64)


def _bars(number: Tensor) -> Tensor:
    """Steps put together to bars; the last step, exactly 1, belongs to the last bar."""
    bars = number[:-1].view(2 * BARS, -1).sum(dim=1)
    bars[-1] += number[-1]
    return bars.cpu()


def _mean(sums: Tensor, numbers: Tensor) -> Figure:
    """Mean over pairs, from each image's sum over its pairs, and their number."""
    value = float(sums.sum() / numbers.sum())
    # Drawing an image once more repeats its pairs, and each of them stands here twice, once for either image.
    return Figure(value, (2 * len(sums) * (sums - value * numbers) / numbers.sum()).cpu())


def _auc(unit: Tensor, labels: Tensor, same: Tensor, other: Tensor, num_same: Tensor, num_other: Tensor) -> Figure:
    """The AUC by ranks: for a pair of one class the share of the others below it, for one of two the share above it."""
    below = (other.cumsum(dim=0) - other / 2) / other.sum()
    above = 1 - (same.cumsum(dim=0) - same / 2) / same.sum()
    value = float((same * below).sum() / same.sum())
    shares = torch.cat(
        [(below - value) / num_same.sum(), (above - value) / num_other.sum(), below.new_zeros(1)]
    ).float()
    sums = torch.zeros(len(unit), dtype=torch.float64, device=unit.device)
    for first, _, place in _blocks(unit, labels):
        _add(sums, first, shares.take(place))
    return Figure(value, (2 * len(unit) * sums).cpu())


def _in_deviations(gap: Figure, deviation: float, squares: Figure, between: Figure, centre: float) -> Figure:
    """The gap over the standard deviation between classes; `squares`: mean squared distance to `centre`."""
    moved = (squares.influence - 2 * (between.value - centre) * between.influence) / (2 * deviation)
    value = gap.value / deviation
    return Figure(value, (gap.influence - value * moved) / deviation)
