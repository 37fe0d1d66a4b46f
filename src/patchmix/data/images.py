"""Decode one image file: the format is told by the content, the size is checked before any pixel is decoded.

JPEG and plain WebP by torchvision, all others by Pillow. Never torchvision's PNG decoder: damaged PNG files
kill the process (0.29.1).
"""

from __future__ import annotations

import os
import warnings
from typing import BinaryIO

import numpy as np
import torch
import torchvision.io
from PIL import Image, ImageOps, UnidentifiedImageError

IMAGE_SUFFIXES = frozenset(
    (
        "jpg",
        "jpeg",
        "jpe",
        "jfif",
        "png",
        "webp",
        "gif",
        "bmp",
        "tif",
        "tiff",
        "ppm",
        "pgm",
        "pbm",
        "pnm",
        "avif",
    )
)
MAX_PIXELS = 178_956_970  # Pillow's own bound; a file that claims more is damaged, or a decompression bomb

_SNIFFED_BYTES = 32


class UnreadableImage(Exception):
    """An image file that cannot be decoded: `path`, and `why` in a few words on one line."""

    def __init__(self, path: str, why: str) -> None:
        super().__init__(path, why)
        self.path = path
        self.why = why

    def __str__(self) -> str:
        return f"{self.path}: {self.why}"


def read_image(path: str | os.PathLike[str], channels: int) -> torch.Tensor:
    """Decode a file to uint8 [channels, height, width], upright by its EXIF data, as viewers show it.

    Args:
        channels: 3 (RGB) or 1 (grey); whatever the file has is converted. Transparent parts become white, of
            an animation the first frame is taken, 16 bits are reduced to the upper 8.

    Raises:
        UnreadableImage: missing, empty, damaged, cut off, of another kind, or of more than MAX_PIXELS pixels.
    """
    path = os.fspath(path)
    try:
        with open(path, "rb") as file, warnings.catch_warnings():
            # torchvision 0.29 announces that its decoders will move; Pillow warns about what it repairs.
            warnings.simplefilter("ignore")
            return _decode(file, channels)
    except MemoryError:
        raise UnreadableImage(path, "not enough memory to decode it") from None
    except OSError as error:
        raise UnreadableImage(path, _one_line(error.strerror or error)) from None
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise UnreadableImage(path, _one_line(error)) from None


def _decode(file: BinaryIO, channels: int) -> torch.Tensor:
    head = file.read(_SNIFFED_BYTES)
    if not head:
        raise ValueError("empty file")
    file.seek(0)
    if head.startswith(b"\xff\xd8\xff"):
        data = file.read()
        _check_size(*_jpeg_size(data))
        return _decode_by_torchvision("decode_jpeg", file, data, channels)
    if head.startswith(b"RIFF") and head[8:16] == b"WEBPVP8 ":  # no alpha, animation or orientation
        width, height = int.from_bytes(head[26:28], "little"), int.from_bytes(head[28:30], "little")
        _check_size(width & 0x3FFF, height & 0x3FFF)
        return _decode_by_torchvision("decode_webp", file, file.read(), channels)
    return _decode_by_pillow(file, channels)


def _decode_by_torchvision(decoder: str, file: BinaryIO, data: bytes, channels: int) -> torch.Tensor:
    """Pillow decodes what torchvision refuses (rare kinds of JPEG), and says more clearly what is wrong."""
    decode = getattr(torchvision.io, decoder, None)  # on their way out of torchvision
    if decode is not None:
        grey = channels == 1 and decoder == "decode_jpeg"  # decode_webp has no grey mode
        options = {"apply_exif_orientation": True} if decoder == "decode_jpeg" else {}
        try:
            image: torch.Tensor = decode(
                torch.frombuffer(bytearray(data), dtype=torch.uint8),
                mode="GRAY" if grey else "RGB",
                **options,
            )
        except RuntimeError:
            pass
        else:
            if image.shape[0] == channels:
                return image
    file.seek(0)
    return _decode_by_pillow(file, channels)


def _decode_by_pillow(file: BinaryIO, channels: int) -> torch.Tensor:
    try:
        opened = Image.open(file)
    except UnidentifiedImageError:
        raise ValueError("not an image of a known kind") from None
    with opened:
        _check_size(*opened.size)
        opened.seek(0)
        opened.load()
        image = ImageOps.exif_transpose(opened)
        pixels = np.array(_eight_bits(image).convert("L" if channels == 1 else "RGB"))
    return torch.from_numpy(np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1)))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Bring 16 bits and transparency to what `convert` handles as a viewer would."""
    if image.mode.startswith("I"):  # 16 bits a pixel; `convert` would clip them to 255
        return Image.fromarray((np.clip(np.asarray(image, dtype=np.int64), 0, 65535) >> 8).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("floating-point pixels have no defined brightness")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, image)
    return image


def _jpeg_size(data: bytes) -> tuple[int, int]:
    """(width, height) that the header of a JPEG claims; ValueError where there is none."""
    place = 2
    while place + 9 < len(data):
        if data[place] != 0xFF:
            place += 1
            continue
        marker = data[place + 1]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):  # a start of frame
            return int.from_bytes(data[place + 7 : place + 9]), int.from_bytes(data[place + 5 : place + 7])
        if marker in (0xFF, 0x01) or 0xD0 <= marker <= 0xD8:  # fill bytes and markers without a length
            place += 1 if marker == 0xFF else 2
        else:
            place += 2 + int.from_bytes(data[place + 2 : place + 4])
    raise ValueError("a JPEG file without an image header")


def _check_size(width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise ValueError(f"claims {width} x {height} pixels, more than the {MAX_PIXELS:,} that are decoded")
    if width * height == 0:
        raise ValueError(f"claims {width} x {height} pixels")


def _one_line(error: object) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text[:200]
