"""The levels of the simple feature pyramid."""

from __future__ import annotations

import pytest
import torch

from patchmix.transfer.feature_pyramid import SimpleFeaturePyramid


def test_levels_are_from_a_quarter_of_the_patch_to_four_times_it() -> None:
    pyramid = SimpleFeaturePyramid(24, channels=16)
    levels = pyramid(torch.randn(2, 24, 4, 6))
    assert {name: tuple(level.shape) for name, level in levels.items()} == {
        "0": (2, 16, 16, 24),
        "1": (2, 16, 8, 12),
        "2": (2, 16, 4, 6),
        "3": (2, 16, 2, 3),
        "pool": (2, 16, 1, 2),
    }
    assert pyramid.strides(16) == (4, 8, 16, 32, 64)
    assert pyramid.strides(14) == (3.5, 7, 14, 28, 56)
    assert pyramid.strides(2) == (0.5, 1, 2, 4, 8)


def test_no_patch_of_an_odd_map_is_lost() -> None:
    pyramid = SimpleFeaturePyramid(8, channels=4)
    features = torch.randn(1, 8, 5, 1, requires_grad=True)
    coarse = pyramid(features)["3"]
    assert coarse.shape == (1, 4, 3, 1)
    coarse[:, :, -1].square().sum().backward()
    assert features.grad is not None
    assert features.grad[:, :, -1].abs().max() > 0


def test_other_scales_have_fewer_levels() -> None:
    pyramid = SimpleFeaturePyramid(24, channels=16, scales=(1, 0.5, 0.25))
    levels = pyramid(torch.randn(1, 24, 8, 8))
    assert [level.shape[-1] for level in levels.values()] == [8, 4, 2, 1]
    assert pyramid.strides(4) == (4, 8, 16, 32)


def test_places_of_a_level_are_normalised() -> None:
    for level in SimpleFeaturePyramid(24, channels=16)(torch.randn(2, 24, 4, 4)).values():
        torch.testing.assert_close(level.mean(dim=1), torch.zeros_like(level[:, 0]), atol=1e-4, rtol=0)
        torch.testing.assert_close(level.var(dim=1, correction=0), torch.ones_like(level[:, 0]), atol=0.05, rtol=0)


@pytest.mark.parametrize("scales", [(3, 1.5), (4, 1), (1, 2)])
def test_scales_that_are_no_pyramid_are_refused(scales: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match=r"powers of two, each half"):
        SimpleFeaturePyramid(24, scales=scales)
