"""What the tests of data share."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patchmix.config import DataConfig
from patchmix.data.datasets import ImageSource, open_dataset


@pytest.fixture
def photos(tmp_path: Path) -> ImageSource:
    """21 files, of which 3, 4 and 20 cannot be read."""
    generator = np.random.default_rng(0)
    for k in range(21):
        path = tmp_path / f"{k:02}.jpg"
        if k in (3, 4, 20):
            path.write_bytes(b"" if k == 3 else b"not an image")
        else:
            Image.fromarray(generator.integers(0, 256, (20 + k, 30, 3), np.uint8)).save(path, quality=90)
    return open_dataset(DataConfig(name="folder", root=str(tmp_path)), "train")
