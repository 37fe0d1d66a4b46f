"""Small pictures of images, put into the page itself."""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from PIL import Image

if TYPE_CHECKING:
    from torch import Tensor

TILE = 112
"""Pixels a side of an image on the page; small images are enlarged by a whole number."""


def tile(image: Tensor, side: int = TILE, *, flat: bool = False) -> Image.Image:
    """A uint8 image [channels, height, width] of any size, its longer side `side` pixels (enlarged ones: about).

    `flat`: made of areas of one colour, whose edges are kept sharp.
    """
    picture = _picture(image)
    scale = side / max(picture.size)
    if is_enlarged(image, side):
        return picture.resize((picture.width * int(scale), picture.height * int(scale)), Image.Resampling.NEAREST)
    size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
    return picture.resize(size, Image.Resampling.NEAREST if flat else Image.Resampling.LANCZOS)


def is_enlarged(image: Tensor, side: int = TILE) -> bool:
    """Whether `tile` shows every pixel as a square, so that lossy compression would be seen."""
    return side >= 2 * max(image.shape[-2:])


def data_uri(picture: Image.Image, *, lossless: bool) -> str:
    """The picture as WebP in a `data:` address."""
    buffer = io.BytesIO()
    # Without loss `quality` is effort: more of it takes ten times as long, for little.
    picture.save(buffer, format="WEBP", lossless=lossless, quality=20 if lossless else 85)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _picture(image: Tensor) -> Image.Image:
    """RGB of any number of channels: the first three, or the first where there are not three."""
    pixels = image.permute(1, 2, 0).numpy()
    return Image.fromarray(pixels[:, :, :3] if pixels.shape[2] >= 3 else pixels[:, :, 0]).convert("RGB")
