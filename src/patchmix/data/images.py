"""Decode one image file: the format is told by the content, the size is checked before any pixel is decoded.

JPEG and plain WebP by torchvision, all others by Pillow. Never torchvision's PNG decoder: damaged PNG files
kill the process (0.29.1).
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import torch
import torchvision.io
from PIL import Image, ImageFile, ImageOps, TiffImagePlugin, UnidentifiedImageError

from patchmix.data.kinds import HEAD_BYTES, PILLOW_FORMATS, UNDECODED, image_kind

MAX_PIXELS = 178_956_970  # Pillow's own bound; a file that claims more is damaged, or a decompression bomb

_ORIENTATION = 0x0112
_LYING = (5, 6, 7, 8)  # values of this EXIF tag that swap width and height


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
    with _opened(os.fspath(path)) as (file, kind):
        return _decode(file, kind, channels)


def read_image_bytes(data: bytes, path: str, channels: int) -> torch.Tensor:
    """The same of a file's content; `path` is what messages call it."""
    with _opened(path, data) as (file, kind):
        return _decode(file, kind, channels)


@dataclass(frozen=True)
class ImageHeader:
    """What a file says before any pixel is decoded: pixels as shown upright, kind (JPEG, PNG, …), Pillow's mode."""

    width: int
    height: int
    kind: str
    mode: str

    @property
    def channels(self) -> int:
        """1 where the mode is grey, else 3; the pixels of the others may still be grey."""
        return 1 if self.mode in ("1", "L", "LA", "La", "F") or self.mode.startswith("I") else 3


def read_header(path: str | os.PathLike[str]) -> ImageHeader:
    """Read an image file's header; of a PNG's orientations the one counts that stands before the pixels.

    Raises:
        UnreadableImage: missing, empty, of another kind, or the header is damaged or claims too many pixels.
    """
    with _opened(os.fspath(path)) as (file, kind), _opened_by_pillow(file) as image:
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # newer Pillows have turned its size already
            width, height = image.tag_v2[TiffImagePlugin.IMAGEWIDTH], image.tag_v2[TiffImagePlugin.IMAGELENGTH]
        searched = image.format != "PNG" or "exif" in image.info  # Pillow would decode the pixels to look behind them
        if searched and image.getexif().get(_ORIENTATION) in _LYING:
            width, height = height, width
        return ImageHeader(width, height, kind or str(image.format), image.mode)


@contextlib.contextmanager
def _opened(path: str, data: bytes | None = None) -> Iterator[tuple[BinaryIO, str | None]]:
    """A file, or its content, at the beginning, and its kind; whatever goes wrong with it is an UnreadableImage."""
    try:
        with open(path, "rb") if data is None else io.BytesIO(data) as file, warnings.catch_warnings():
            # torchvision 0.29 announces that its decoders will move; Pillow warns about what it repairs.
            warnings.simplefilter("ignore")
            head = file.read(HEAD_BYTES)
            if not head:
                raise ValueError("empty file")
            file.seek(0)
            yield file, image_kind(head)
    except MemoryError:
        raise UnreadableImage(path, "not enough memory to decode it") from None
    except OSError as error:
        raise UnreadableImage(path, _one_line(error.strerror or error)) from None
    except Exception as error:  # decoders raise nearly anything on damaged files
        raise UnreadableImage(path, _one_line(error)) from None


def _decode(file: BinaryIO, kind: str | None, channels: int) -> torch.Tensor:
    if kind == "JPEG":
        data = file.read()
        _check_size(*_jpeg_size(data))
        return _decode_by_torchvision("decode_jpeg", file, data, channels)
    if kind == "WEBP":
        data = file.read()
        if data[12:16] == b"VP8 ":  # no alpha, animation or orientation
            width, height = int.from_bytes(data[26:28], "little"), int.from_bytes(data[28:30], "little")
            _check_size(width & 0x3FFF, height & 0x3FFF)
            return _decode_by_torchvision("decode_webp", file, data, channels)
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
    with _opened_by_pillow(file) as opened:
        opened.seek(0)
        opened.load()
        image = ImageOps.exif_transpose(opened)
        pixels = np.array(_eight_bits(image).convert("L" if channels == 1 else "RGB"))
    return torch.from_numpy(np.ascontiguousarray(np.atleast_3d(pixels).transpose(2, 0, 1)))


def _opened_by_pillow(file: BinaryIO) -> ImageFile.ImageFile:
    """The image with its header read and its size checked, no pixel decoded."""
    file.seek(0)
    kind = image_kind(file.read(HEAD_BYTES))
    if kind in UNDECODED:
        raise ValueError(f"{UNDECODED[kind]} cannot be decoded: convert it to JPEG or PNG")
    file.seek(0)
    try:
        opened = Image.open(file, formats=_pillow_formats())
    except Image.DecompressionBombError:
        raise ValueError(f"claims more than the {MAX_PIXELS:,} pixels that are decoded") from None
    except UnidentifiedImageError:
        raise ValueError("not an image of a known kind" if kind is None else f"damaged {kind} header") from None
    _check_size(*opened.size)
    return opened


@functools.cache
def _pillow_formats() -> tuple[str, ...]:
    """Those of PILLOW_FORMATS that this Pillow can open: a build may lack some."""
    Image.init()
    return tuple(each for each in PILLOW_FORMATS if each in Image.OPEN)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Bring 16 bits and transparency to what `convert` handles as a viewer would."""
    if image.mode.startswith("I"):  # 16 bits a pixel; `convert` would clip them to 255
        return Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8))
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
