"""Properties of views, orders and subsets, for any image and any setting."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patchmix.config import ViewsConfig
from patchmix.data.crops import crop_box
from patchmix.data.loading import epoch_order
from patchmix.data.sources import ArraySource, limited
from patchmix.data.views import PhotoParameters, ViewMaker, draw

sides = st.integers(1, 50)
keys = st.tuples(st.integers(0, 2**40), st.integers(0, 2**40))
seeds = st.integers(0, 2**32 - 1)


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["photo", "digits"]),
    channels=st.sampled_from([1, 3]),
    sizes=st.lists(st.tuples(sides, sides), min_size=1, max_size=3),
    size=st.tuples(sides, sides).filter(lambda size: size != (1, 1)),
    local_size=st.integers(2, 50),
    seed=seeds,
    data=st.data(),
)
def test_views_have_the_shape_and_kind_that_was_asked_for(
    kind: str,
    channels: int,
    sizes: list[tuple[int, int]],
    size: tuple[int, int],
    local_size: int,
    seed: int,
    data: st.DataObject,
) -> None:
    images = [torch.randint(0, 256, (channels, *shape), dtype=torch.uint8) for shape in sizes]
    drawn = [data.draw(keys) for _ in images]
    views = ViewsConfig(kind=kind, num_local_crops=1, local_size=local_size)  # type: ignore[arg-type]
    maker = ViewMaker(views, size, seed)
    made, again = maker(images, drawn), maker(images, drawn)
    expected = [(len(images), channels, *size)] * 2 + [(len(images), channels, local_size, local_size)]
    assert [tuple(view.shape) for view in made] == expected
    assert all(view.dtype == torch.uint8 for view in made)
    assert all(torch.equal(one, other) for one, other in zip(made, again, strict=True))


@settings(max_examples=40, deadline=None)
@given(
    kind=st.sampled_from(["photo", "digits"]),
    channels=st.sampled_from([1, 3]),
    shapes=st.lists(st.sampled_from([(20, 20), (20, 31), (60, 40), (1, 1)]), min_size=2, max_size=9),
    size=st.sampled_from([(16, 16), (33, 20), (70, 70)]),
    seed=seeds,
    data=st.data(),
)
def test_the_views_of_a_batch_are_those_of_its_images_alone(
    kind: str, channels: int, shapes: list[tuple[int, int]], size: tuple[int, int], seed: int, data: st.DataObject
) -> None:
    images = [torch.randint(0, 256, (channels, *shape), dtype=torch.uint8) for shape in shapes]
    drawn = [data.draw(keys) for _ in images]
    views = ViewsConfig(kind=kind, num_local_crops=1, local_size=15, solarise=(0.5, 0.5, 0.5))  # type: ignore[arg-type]
    maker = ViewMaker(views, size, seed)
    together = maker(images, drawn)
    for row, (image, key) in enumerate(zip(images, drawn, strict=True)):
        alone = maker([image], [key])
        assert all(torch.equal(one[row], other[0]) for one, other in zip(together, alone, strict=True))


@settings(max_examples=200, deadline=None)
@given(height=st.integers(1, 3000), width=st.integers(1, 3000), key=keys, seed=seeds, view=st.integers(0, 3))
def test_a_crop_lies_in_its_image_and_is_never_empty(
    height: int, width: int, key: tuple[int, int], seed: int, view: int
) -> None:
    parameters = draw(ViewsConfig(), seed, *key, view)
    assert isinstance(parameters, PhotoParameters)
    top, left, crop_height, crop_width = crop_box(parameters.crop, height, width)
    assert 0 <= top < top + crop_height <= height
    assert 0 <= left < left + crop_width <= width


@settings(max_examples=50, deadline=None)
@given(value=st.integers(0, 255), key=keys, seed=seeds)
def test_a_flat_grey_image_stays_flat(value: int, key: tuple[int, int], seed: int) -> None:
    image = torch.full((3, 24, 24), value, dtype=torch.uint8)
    for view in ViewMaker(ViewsConfig(), (16, 16), seed)([image], [key]):
        assert int(view.amax()) - int(view.amin()) <= 1


@given(num_images=st.integers(0, 300), seed=seeds, epoch=st.integers(0, 10_000))
def test_the_order_of_an_epoch_is_a_permutation(num_images: int, seed: int, epoch: int) -> None:
    order = epoch_order(num_images, seed, epoch)
    assert order.dtype == np.int64
    np.testing.assert_array_equal(np.sort(order), np.arange(num_images))


@given(counts=st.lists(st.integers(0, 30), min_size=2, max_size=6).filter(sum), data=st.data())
def test_a_limited_set_has_every_class_in_proportion(counts: list[int], data: st.DataObject) -> None:
    labels = torch.from_numpy(np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts)))
    images = torch.arange(len(labels), dtype=torch.uint8).view(-1, 1, 1, 1)
    classes = tuple(map(str, range(len(counts))))
    source = ArraySource("a", "train", images, labels, classes, mean=(0.0,), std=(1.0,))
    limit = data.draw(st.integers(1, len(labels)))
    chosen = limited(source, limit)
    assert len(chosen) == limit
    assert chosen.labels is not None
    for label, count in enumerate(counts):
        assert abs(int((chosen.labels == label).sum()) - count * limit / len(labels)) < 1
    pixels = [int(chosen.read(k)) for k in range(limit)]
    assert pixels == sorted(set(pixels))
    assert [int(labels[pixel]) for pixel in pixels] == chosen.labels.tolist()
