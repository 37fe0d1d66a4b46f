"""Which images are labelled when few are: so many of each class, or a share of all labels, drawn several times."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from patchmix.config import FewshotConfig
from patchmix.data.streams import Purpose, keyed_generator
from patchmix.errors import UserError

USUAL_AMOUNTS = (1, 5, 10)  # labels per class where the user names no amount
LABELLED_STREAM = 1  # beside the other subsets' streams, so that no two share numbers


@dataclass(frozen=True)
class Amount:
    """How many labels: `number` of each class, or with `percent` that share of each class's labels."""

    number: float
    percent: bool = False

    @property
    def name(self) -> str:
        """As metrics have it: `10_per_class`, `1_percent`."""
        return f"{self.number:g}_percent" if self.percent else f"{self.number}_per_class"

    @property
    def title(self) -> str:
        """As tables have it: `10 per class`, `1 %`."""
        return f"{self.number:g} %" if self.percent else f"{self.number} per class"

    def of_each_class(self, counts: Sequence[int]) -> list[int]:
        """Labels of each class, from the numbers of images; a share is rounded, and at least one.

        A class without images gets none.
        """
        if not self.percent:
            return [int(self.number) if count else 0 for count in counts]
        return [max(1, round(count * self.number / 100)) if count else 0 for count in counts]


def choose_amounts(
    labels: Tensor, classes: tuple[str, ...], config: FewshotConfig
) -> tuple[list[Amount], list[Amount]]:
    """The amounts to measure, and those of the usual ones that some class cannot give.

    `labels` are those of the images that can be read; classes without any are none to learn. Raises UserError where a
    class cannot give an amount that the user asked for; it names the classes.
    """
    numbers = dict(zip(classes, labels.bincount(minlength=len(classes)).tolist(), strict=True))
    counts = {name: count for name, count in numbers.items() if count}
    fewest = min(counts.values())
    asked = config.labels_per_class
    wanted = [Amount(number) for number in dict.fromkeys(asked or (() if config.percent else USUAL_AMOUNTS))]
    possible = [amount for amount in wanted if amount.number <= fewest]
    left_out = [amount for amount in wanted if amount not in possible]
    if left_out and (asked is not None or not possible):
        most = left_out[-1].number
        short = [f"{name} ({count})" for name, count in counts.items() if count < most]
        named = ", ".join(short[:5]) + (f" and {len(short) - 5} more" if len(short) > 5 else "")
        raise UserError(
            f"labels_per_class = {most} is more than some classes have training images: {named}; "
            f"at most {fewest} is possible"
        )
    return possible + [Amount(share, percent=True) for share in dict.fromkeys(config.percent)], left_out


def draw_labelled(labels: Tensor, of_each_class: Sequence[int], *, seed: int, draw: int) -> NDArray[np.int64]:
    """Positions of so many images of every class, without repetition: a function of its arguments alone.

    Class by class, so that they come ordered by class. Raises ValueError where a class has too few.
    """
    generator = keyed_generator(Purpose.SUBSET, seed, LABELLED_STREAM, draw)
    values = labels.numpy()
    return np.concatenate(
        [
            generator.choice(np.flatnonzero(values == index), number, replace=False)
            for index, number in enumerate(of_each_class)
        ]
    )
