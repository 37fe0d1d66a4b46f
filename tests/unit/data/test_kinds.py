"""Which first bytes are an image's."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from patchmix.data.kinds import HEAD_BYTES, PILLOW_FORMATS, image_kind

Image.init()
WRITTEN = [kind for kind in PILLOW_FORMATS if kind in Image.SAVE and kind != "DIB"]


@pytest.mark.parametrize("kind", WRITTEN)
def test_what_pillow_writes_is_recognised(kind: str) -> None:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), "red").save(file, format=kind)
    assert image_kind(file.getvalue()[:HEAD_BYTES]) == kind


@pytest.mark.parametrize("mode", ["1", "L", "RGB"])
def test_portable_maps_of_every_kind_are_recognised(mode: str) -> None:
    file = io.BytesIO()
    Image.new(mode, (40, 30)).save(file, format="PPM")
    assert image_kind(file.getvalue()[:HEAD_BYTES]) == "PPM"
    assert image_kind(b"P2\n# a comment\n3 3\n255\n") == "PPM"


@pytest.mark.parametrize(
    "head",
    [
        b"",
        b"P",
        b"P6",
        b"P6\n",
        b"P2P networks",
        b"BM",
        b"BM is how bitmaps begin, here it is text",
        b"BMP notes\n",
        b"GIF files are old",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"\0\0\0\x20ftypisom\0\0\2\0isomiso2avc1mp41",
        b"\0\0\0\x14ftypqt  \0\0\0\0qt  \0\0\0\0",
        b"%PDF-1.7\n",
        b"<!DOCTYPE html><html>",
        b"\x7fELF\2\1\1",
        b"PK\3\4",
        b"\0\0\1\0\1\0",
    ],
)
def test_other_files_are_not(head: bytes) -> None:
    assert image_kind(head) is None


def test_photos_of_phones_are_known_though_not_decoded() -> None:
    assert image_kind(b"\0\0\0\x24ftypheic\0\0\0\0mif1MiHEheic") == "HEIF"
    assert image_kind(b"\0\0\0\x20ftypmif1\0\0\0\0mif1avifmiaf") == "AVIF"
