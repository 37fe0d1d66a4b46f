"""What the input pipeline costs by stage."""

from __future__ import annotations

import pytest
import torch

from patchmix.config import Config, DataConfig, ViewsConfig
from patchmix.data.sources import ImageSource
from patchmix.data.stages import stage_seconds


def config(views: ViewsConfig) -> Config:
    return Config(data=DataConfig(name="folder", root=".", image_size=16), views=views)


@pytest.mark.parametrize("kind", ["photo", "digits"])
def test_every_stage_takes_time_and_all_are_everything(kind: str, photos: ImageSource) -> None:
    views = ViewsConfig(kind=kind, num_local_crops=1, local_size=8)  # type: ignore[arg-type]
    threads = torch.get_num_threads()
    found = stage_seconds(photos, config(views), 12)
    assert torch.get_num_threads() == threads
    assert found["decode"] > 0
    assert found["crops"] > 0
    assert (found["photometrics"] > 0) == (kind == "photo")
    assert found["everything"] > max(found["decode"], found["crops"], found["photometrics"])


def test_more_images_than_there_are_means_all(photos: ImageSource) -> None:
    assert stage_seconds(photos, config(ViewsConfig()), 1000)["everything"] > 0
