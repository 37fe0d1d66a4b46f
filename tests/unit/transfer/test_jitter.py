"""Large-scale jitter: what is drawn, and that image, boxes and masks stay together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.ops import masks_to_boxes

from patchmix.data.streams import Purpose, keyed_generator
from patchmix.transfer.annotations import Object
from patchmix.transfer.jitter import Window, cut_objects, draw_window

HEIGHT, WIDTH = 60, 80


def rectangle(left: int, top: int, width: int, height: int, **fields: object) -> Object:
    right, bottom = left + width, top + height
    polygon = [left, top, right, top, right, bottom, left, bottom]
    values = {"id": 1, "category": 5, "is_crowd": False, "segmentation": [polygon], **fields}
    return Object(box=(left, top, width, height), area=width * height, **values)  # type: ignore[arg-type]


def cut(window: Window, *objects: Object, masks: bool = True) -> dict[str, torch.Tensor]:
    labels = list(range(1, len(objects) + 1))
    return cut_objects(objects, labels, HEIGHT, WIDTH, window, masks=masks)


def whole(mirrored: bool = False) -> Window:
    return Window(0, 0, HEIGHT, WIDTH, (HEIGHT, WIDTH), mirrored)


@pytest.mark.parametrize("seed", range(40))
def test_windows_lie_in_the_image_and_become_no_larger_than_asked_for(seed: int) -> None:
    height, width = [(60, 80), (500, 31), (1, 1), (7, 300)][seed % 4]
    generator = keyed_generator(Purpose.AUGMENT, seed)
    window = draw_window(generator, height, width, image_size=64, scale=(0.1, 2.0), flip=True)
    assert 0 <= window.top <= window.top + window.height <= height
    assert 0 <= window.left <= window.left + window.width <= width
    assert min(window.height, window.width, *window.size) >= 1
    assert max(window.size) <= 64
    image = torch.zeros(3, height, width, dtype=torch.uint8)
    assert window.cut(image).shape == (3, *window.size)
    if max(window.size) < 64:  # nothing is cut off
        assert (window.height, window.width) == (height, width)


def test_scale_means_the_longest_side_and_both_sides_have_it() -> None:
    for scale in (0.25, 1.0, 2.0):
        window = draw_window(np.random.default_rng(0), 60, 80, image_size=64, scale=(scale, scale), flip=False)
        for taken, becomes in ((window.height, window.size[0]), (window.width, window.size[1])):
            assert becomes / taken == pytest.approx(scale * 64 / 80, rel=0.03)
        assert not window.mirrored
    assert draw_window(np.random.default_rng(0), 60, 80, image_size=64, scale=(1, 1), flip=False).size == (48, 64)


def test_all_places_scales_and_both_mirrors_are_drawn() -> None:
    generator = np.random.default_rng(0)
    windows = [draw_window(generator, 60, 80, image_size=64, scale=(0.1, 2.0), flip=True) for _ in range(400)]
    assert 0.4 < np.mean([window.mirrored for window in windows]) < 0.6
    cut_off = [window for window in windows if window.width < 80]
    assert {0, 80} <= {edge for each in cut_off for edge in (each.left, each.left + each.width)}
    assert min(max(window.size) for window in windows) <= 8
    assert 0.4 < len(cut_off) / 400 < 0.65  # scales above 1: of 0.1 to 2 a bit more than half


def test_objects_of_the_whole_image_stay_as_they_are() -> None:
    found = cut(whole(), rectangle(10, 20, 30, 15), rectangle(0, 0, 80, 60, is_crowd=True))
    assert found["boxes"].tolist() == [[10, 20, 40, 35], [0, 0, 80, 60]]
    assert found["labels"].tolist() == [1, 2]
    assert found["iscrowd"].tolist() == [0, 1]
    assert found["masks"].shape == (2, HEIGHT, WIDTH)
    assert found["masks"][0, 20:35, 10:40].all()
    assert found["masks"].sum(dim=(1, 2)).tolist() == [450, 4800]


def test_mirrored_boxes_and_masks_are_together() -> None:
    found = cut(whole(mirrored=True), rectangle(10, 20, 30, 15))
    assert found["boxes"].tolist() == [[40, 20, 70, 35]]
    assert found["masks"][0, 20:35, 40:70].all()


def test_an_image_and_its_masks_go_the_same_way() -> None:
    """Objects painted white on black: after any jitter the white is where the masks are."""
    generator = np.random.default_rng(3)
    painted = rectangle(16, 8, 40, 36)
    image = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.uint8)
    image[:, 8:44, 16:56] = 255
    for _ in range(20):
        window = draw_window(generator, HEIGHT, WIDTH, image_size=80, scale=(0.5, 2.0), flip=True)
        found, pixels = cut(window, painted), window.cut(image)
        if not len(found["boxes"]):
            assert pixels.float().mean() < 10
            continue
        agree = (pixels[0] > 127) == found["masks"][0].bool()
        assert agree.float().mean() > 0.94  # but for a pixel along the border
        tight = masks_to_boxes(found["masks"])
        tight[:, 2:] += 1
        assert (found["boxes"] - tight).abs().max() <= 1.5


def test_objects_outside_the_window_and_tiny_rests_are_left_out() -> None:
    window = Window(20, 20, 30, 40, (30, 40), False)
    gone = rectangle(0, 0, 15, 15)
    sliver = rectangle(5, 25, 16, 1, segmentation=[[5.0, 25.0, 20.4, 25.0, 20.4, 25.4, 5.0, 25.4]])
    found = cut(window, gone, sliver, rectangle(30, 30, 10, 10))
    assert found["labels"].tolist() == [3]
    assert found["boxes"].tolist() == [[10, 10, 20, 20]]


def test_a_box_that_the_window_cuts_is_drawn_round_the_rest_of_its_mask() -> None:
    """An L: its box fills the corner in which nothing of it is."""
    corner = rectangle(10, 10, 40, 40, segmentation=[[10, 10, 14, 10, 14, 46, 50, 46, 50, 50, 10, 50]])
    right = Window(0, 20, HEIGHT, WIDTH - 20, (HEIGHT, WIDTH - 20), False)
    assert cut(right, corner)["boxes"].tolist() == [[0, 46, 30, 50]]
    assert cut(right, corner, masks=False)["boxes"].tolist() == [[0, 10, 30, 50]]
    empty = Window(0, 20, 40, WIDTH - 20, (40, WIDTH - 20), False)  # only its box reaches into it
    assert cut(empty, corner)["boxes"].shape == (0, 4)


def test_no_objects_give_empty_tensors_of_the_right_shapes() -> None:
    found = cut(Window(0, 0, HEIGHT, WIDTH, (12, 16), True))
    assert {name: tuple(each.shape) for name, each in found.items()} == {
        "boxes": (0, 4),
        "labels": (0,),
        "iscrowd": (0,),
        "masks": (0, 12, 16),
    }
    assert (found["boxes"].dtype, found["labels"].dtype) == (torch.float32, torch.int64)
    assert found["masks"].dtype == torch.uint8
    assert type(found["boxes"]) is torch.Tensor
