"""Kinds of image files, told by their first bytes; a name proves nothing."""

from __future__ import annotations

HEAD_BYTES = 32  # so many first bytes tell the kind

# Pillow's names of the formats it may try. Not all it has: EPS starts Ghostscript, others have no sure mark.
PILLOW_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "DIB", "TIFF", "WEBP", "PPM", "AVIF", "JPEG2000", "QOI")

# By name alone such a file counts as an image, so that a damaged one is reported rather than passed over.
IMAGE_SUFFIXES = frozenset(
    (
        *("jpg", "jpeg", "jpe", "jfif", "png", "apng", "webp", "gif", "bmp", "dib", "tif", "tiff"),
        *("ppm", "pgm", "pbm", "pnm", "avif", "jp2", "j2k", "jpf", "jpx", "qoi", "heic", "heif", "jxl"),
    )
)

# They begin as TIFF does, and what Pillow finds in them is a preview.
RAW_SUFFIXES = frozenset(
    ("3fr", "arw", "cr2", "dcr", "dng", "erf", "kdc", "mos", "nef", "nrw", "pef", "sr2", "srf", "srw")
)

# Files that lie beside images in great numbers: only the first of each suffix are looked at (listing.py).
COMPANION_SUFFIXES = frozenset(
    (
        *("txt", "json", "jsonl", "xml", "csv", "tsv", "yaml", "yml", "html", "htm", "md", "log", "py", "aae", "xmp"),
        *("npy", "npz", "pt", "pth", "pkl", "mat", "h5", "gz", "zip", "tar", "mp4", "mov", "avi", "mp3", "wav"),
    )
)

UNDECODED = {"HEIF": "HEIF (.heic, photos of Apple's phones)", "JXL": "JPEG XL"}  # recognised, not read

_MARKS = (
    (b"\xff\xd8\xff", "JPEG"),
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG2000"),
    (b"\xff\x4f\xff\x51\x00", "JPEG2000"),
    (b"qoif", "QOI"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "JXL"),
)
_TIFF_MARKS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_BMP_HEADER_SIZES = (12, 16, 40, 52, 56, 64, 108, 124)
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def image_kind(head: bytes) -> str | None:
    """The kind of image that a file's first 32 bytes announce, by Pillow's name; None for anything else.

    Cameras' raw files count as TIFF, which they are (RAW_SUFFIXES).
    """
    for mark, kind in _MARKS:
        if head.startswith(mark):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    if head[:4] in _TIFF_MARKS:
        return "TIFF"
    if head[4:8] == b"ftyp":
        brands = {head[place : place + 4] for place in (8, *range(16, min(len(head), head[3]), 4))}
        if brands & {b"avif", b"avis"}:
            return "AVIF"
        return "HEIF" if head[8:12] in _HEIF_BRANDS else None
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADER_SIZES:
        return "BMP"
    if head[:1] == b"P" and head[1:2] in (b"1", b"2", b"3", b"4", b"5", b"6") and head[2:3].isspace():
        return "PPM" if head[3:4].isdigit() or head[3:4] == b"#" else None
    return None
