"""Pictures: what is drawn, where, in which colour and order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from tests.unit.transfer.coco_split import SIDE, small_split

from patchmix.transfer.coco_results import Found
from patchmix.transfer.overlays import (
    COLOURS,
    LEAST_SIDE,
    PAPER,
    SHADE,
    beside,
    best,
    draw,
    draw_found,
    draw_truth,
    precision_recall_plot,
)
from patchmix.transfer.scoring import Curve

NAMES = ("cat", "dog", "toothbrush")
TIMES = LEAST_SIDE // SIDE


def grey(channels: int = 3, height: int = SIDE, width: int = SIDE) -> torch.Tensor:
    return torch.full((channels, height, width), 100, dtype=torch.uint8)


def found(*, masks: bool = True) -> Found:
    """A cat at the top left and a dog that covers part of it, the dog the surer one; the dog first."""
    at = torch.zeros(2, SIDE, SIDE, dtype=torch.bool)
    at[0, 40:100, 40:100] = True
    at[1, 10:70, 10:70] = True
    return Found(
        boxes=torch.tensor([[40.0, 40, 100, 100], [10, 10, 70, 70]]),
        scores=torch.tensor([0.9, 0.4]),
        labels=torch.tensor([2, 1]),
        masks=at if masks else None,
    )


def shaded(label: int) -> np.ndarray:
    return np.array([100 * (1 - SHADE) + channel * SHADE for channel in COLOURS[label - 1]])


def test_masks_have_the_colour_of_their_category_and_the_surer_lies_on_top() -> None:
    picture = np.asarray(draw_found(grey(), found(), NAMES)).astype(float)
    assert picture.shape == (LEAST_SIDE, LEAST_SIDE, 3)
    cat, dog, both, neither = (picture[TIMES * y, TIMES * x] for y, x in ((35, 20), (90, 90), (65, 65), (120, 120)))
    np.testing.assert_allclose(cat, shaded(1), atol=1)
    np.testing.assert_allclose(dog, shaded(2), atol=1)
    np.testing.assert_allclose(both, shaded(2), atol=1)
    np.testing.assert_array_equal(neither, 100)


def test_boxes_are_outlined_where_they_are_in_the_enlarged_picture() -> None:
    picture = np.asarray(draw_found(grey(), found(masks=False), NAMES))
    for label, (x1, y1, x2, y2) in ((2, (40, 40, 100, 100)), (1, (10, 10, 70, 70))):
        quarter = TIMES * (3 * x2 + x1) // 4  # where no name is, and no edge of the other
        for y in (y1, y2):
            np.testing.assert_array_equal(picture[TIMES * y, quarter], COLOURS[label - 1])
        np.testing.assert_array_equal(picture[TIMES * (y1 + y2) // 2, TIMES * x1], COLOURS[label - 1])
    np.testing.assert_array_equal(picture[TIMES * 90, TIMES * 90], 100)


def test_scores_and_names_are_written() -> None:
    with_scores = draw(grey(), *parts(found()), NAMES)
    other_scores = draw(grey(), found().boxes, found().labels, torch.tensor([0.5, 0.4]), found().masks, NAMES)
    other_names = draw(grey(), *parts(found()), ("cow", "dog", "toothbrush"))
    without = draw(grey(), found().boxes, found().labels, None, found().masks, NAMES)
    drawn = [np.asarray(each).tobytes() for each in (with_scores, other_scores, other_names, without)]
    assert len(set(drawn)) == 4


def parts(each: Found) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None]:
    return each.boxes, each.labels, each.scores, each.masks


@pytest.mark.parametrize(
    ("size", "expected"), [((128, 96), (512, 384)), ((480, 640), (480, 640)), ((60, 200), (180, 600))]
)
def test_small_images_are_enlarged_by_whole_numbers(size: tuple[int, int], expected: tuple[int, int]) -> None:
    none = torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0)
    picture = draw(grey(3, *size), *none, torch.zeros(0, *size, dtype=torch.bool), NAMES)
    assert (picture.height, picture.width) == expected
    assert np.all(np.asarray(picture) == 100)


def test_grey_images_boxes_beyond_the_edge_and_many_categories_are_drawn() -> None:
    names = [f"thing {number}" for number in range(80)]
    boxes = torch.tensor([[-20.0, -5, 300, 400], [100, 100, 100, 100]])
    picture = np.asarray(draw(grey(1), boxes, torch.tensor([80, 11]), torch.tensor([0.5, 0.1]), None, names))
    np.testing.assert_array_equal(picture[LEAST_SIDE // 2, LEAST_SIDE - 1], COLOURS[79 % len(COLOURS)])


def test_ground_truth_says_which_region_is_a_crowd_and_draws_masks() -> None:
    annotations = small_split()
    first = annotations.images[0]
    picture = np.asarray(draw_truth(grey(), first, annotations, masks=True)).astype(float)
    np.testing.assert_allclose(picture[TIMES * 40, TIMES * 40], shaded(1), atol=1)  # the cat
    np.testing.assert_allclose(picture[TIMES * 28, TIMES * 110], shaded(1), atol=1)  # the crowd of cats
    np.testing.assert_array_equal(picture[TIMES * 60, TIMES * 20], 100)
    plain = dataclasses.replace(first.objects[2], is_crowd=False)
    changed = dataclasses.replace(first, objects=(*first.objects[:2], plain))
    assert not np.array_equal(picture, np.asarray(draw_truth(grey(), changed, annotations, masks=True)))
    boxes_alone = np.asarray(draw_truth(grey(), first, annotations, masks=False))
    np.testing.assert_array_equal(boxes_alone[TIMES * 40, TIMES * 40], 100)


def test_the_best_are_the_surest_first_and_not_too_many() -> None:
    each = Found(torch.arange(20.0).reshape(5, 4), torch.tensor([0.2, 0.9, 0.5, 0.9, 0.35]), torch.arange(1, 6), None)
    assert best(each).labels.tolist() == [2, 4, 3, 5]
    assert best(each, most=2).labels.tolist() == [2, 4]
    assert best(each, min_score=0.0).labels.tolist() == [2, 4, 3, 5, 1]
    kept = best(found(), min_score=0.5)
    assert kept.masks is not None
    assert kept.masks.shape == (1, SIDE, SIDE)
    assert kept.boxes.tolist() == [[40, 40, 100, 100]]


def test_pictures_stand_beside_each_other_under_their_captions() -> None:
    left, right = draw_found(grey(), found(), NAMES), draw_found(grey(3, 64, 128), found_nothing(), NAMES)
    row = beside({"ground truth": left, "predictions": right})
    pixels = np.asarray(row)
    head = row.height - left.height
    assert row.width > left.width + right.width
    np.testing.assert_array_equal(pixels[head:, : left.width], np.asarray(left))
    np.testing.assert_array_equal(pixels[head : head + right.height, -right.width :], np.asarray(right))
    assert np.all(pixels[head + right.height :, -right.width :] == PAPER)
    assert np.any(pixels[:head, : left.width] != PAPER)  # captions
    assert np.any(pixels[:head, -right.width :] != PAPER)


def found_nothing() -> Found:
    return Found(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.int64), None)


def test_the_plot_has_a_curve_of_each_kind_with_its_mean() -> None:
    recall = tuple(float(each) for each in range(101))
    curves = {"box": Curve(recall, tuple([100.0] * 101)), "mask": Curve(recall, tuple([50.0] * 101))}
    figure = precision_recall_plot(curves, colours=("#010206", "#010207"))
    (axes,) = figure.axes
    assert [line.get_color() for line in axes.lines] == ["#010206", "#010207"]
    assert [line.get_ydata()[0] for line in axes.lines] == [100.0, 50.0]
    legend = axes.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["box, AP50 100.0", "mask, AP50 50.0"]
    assert not precision_recall_plot({}).axes[0].lines
