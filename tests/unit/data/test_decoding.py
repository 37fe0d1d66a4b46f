"""Decoding single image files, whole and damaged."""

from __future__ import annotations

import csv
import os
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from patchmix.data.folder import list_images
from patchmix.data.images import MAX_PIXELS, UnreadableImage, read_header, read_image


@pytest.fixture
def broken_images(shared_data: Path, tmp_path: Path) -> Path:
    with zipfile.ZipFile(shared_data / "broken-images.zip") as packed:
        packed.extractall(tmp_path)
    return tmp_path / "broken-images"


def gradient(width: int = 40, height: int = 24) -> Image.Image:
    across = np.linspace(0, 255, width)[None, :].repeat(height, 0)
    down = np.linspace(0, 255, height)[:, None].repeat(width, 1)
    return Image.fromarray(np.stack([across, down, 255 - across], axis=2).astype(np.uint8))


def as_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def attempt(path: Path, channels: int) -> torch.Tensor | UnreadableImage:
    try:
        return read_image(path, channels)
    except UnreadableImage as failure:
        return failure


def test_every_file_of_the_manifest_becomes_what_it_must(broken_images: Path) -> None:
    with (broken_images / "MANIFEST.tsv").open(encoding="utf-8", newline="") as file:
        manifest = {row["file"]: row["expected"] for row in csv.DictReader(file, delimiter="\t", quoting=3)}
    paths = list_images(broken_images).paths
    listed = {paths[k] for k in range(len(paths))}
    assert listed == {name for name, expected in manifest.items() if expected != "ignore"}
    for name in listed:
        for channels in (1, 3):
            outcome = attempt(broken_images / name, channels)
            if isinstance(outcome, UnreadableImage):
                assert manifest[name] in ("skip", "either"), outcome
                assert outcome.path == str(broken_images / name)
                assert outcome.why
                assert "\n" not in outcome.why
            else:
                assert manifest[name] in ("read", "either"), name
                assert outcome.dtype == torch.uint8
                assert outcome.shape[0] == channels


# (height, width) and RGB means of what must be read, by Pillow's own conversions, checked by eye.
MANIFEST_LOOKS = {
    "png_named_jpg.jpg": (120, 160, 86, 86, 70),
    "one_pixel.png": (1, 1, 9, 8, 7),
    "line.png": (1, 160, 152, 151, 142),
    "grey8.jpg": (120, 160, 177, 177, 177),
    "cmyk.jpg": (120, 160, 237, 240, 246),
    "grey16.png": (90, 120, 128, 128, 128),
    "palette_alpha.png": (120, 160, 70, 58, 52),
    "rgba.png": (120, 160, 226, 238, 252),
    "exif_rotated.jpg": (160, 120, 81, 67, 43),
    "animated.gif": (60, 60, 91, 90, 69),
    "webp.webp": (120, 160, 181, 187, 186),
    "bitmap.bmp": (120, 160, 138, 121, 112),
    "tiff.tif": (120, 160, 160, 167, 162),
    "UPPER.JPEG": (120, 160, 224, 229, 237),
}


@pytest.mark.parametrize("name", MANIFEST_LOOKS)
def test_files_of_the_manifest_look_as_a_viewer_shows_them(broken_images: Path, name: str) -> None:
    height, width, *means = MANIFEST_LOOKS[name]
    image = read_image(broken_images / name, 3)
    assert image.shape == (3, height, width)
    assert image.float().mean((1, 2)).tolist() == pytest.approx(means, abs=1.5)
    header = read_header(broken_images / name)
    assert (header.height, header.width) == (height, width)


def test_details_of_the_manifest(broken_images: Path) -> None:
    deep = np.array(Image.open(broken_images / "grey16.png"))
    assert torch.equal(read_image(broken_images / "grey16.png", 1)[0], torch.from_numpy((deep >> 8).astype(np.uint8)))
    with Image.open(broken_images / "palette_alpha.png") as palette:
        clear = torch.from_numpy(np.array(palette) == palette.info["transparency"])
    assert read_image(broken_images / "palette_alpha.png", 3)[:, clear].unique().tolist() == [255]
    with Image.open(broken_images / "animated.gif") as moving:
        moving.seek(0)
        assert torch.equal(read_image(broken_images / "animated.gif", 3), as_tensor(moving.convert("RGB")))
    with Image.open(broken_images / "exif_rotated.jpg") as lying:
        upright = as_tensor(lying.transpose(Image.Transpose.ROTATE_270))
    assert torch.equal(read_image(broken_images / "exif_rotated.jpg", 3), upright)


def test_a_bomb_is_refused_before_its_ten_gigabytes_are_taken(broken_images: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for read in (read_header, lambda path: read_image(path, 3)):
        with pytest.raises(UnreadableImage, match="claims more than the 178,956,970 pixels that are decoded"):
            read(broken_images / "bomb_60000x60000.png")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024  # kB


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", [1, 3, 5, 6, 8])
def test_headers_tell_the_size_that_decoding_gives(tmp_path: Path, kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    gradient(48, 32).save(tmp_path / "image", format=kind, exif=exif)
    header = read_header(tmp_path / "image")
    assert (header.kind, header.mode, header.channels) == (kind.upper(), "RGB", 3)
    assert (header.height, header.width) == read_image(tmp_path / "image", 3).shape[1:]


@pytest.mark.parametrize(("mode", "channels"), [("1", 1), ("L", 1), ("I;16", 1), ("P", 3), ("RGBA", 3)])
def test_headers_tell_grey_from_colour(tmp_path: Path, mode: str, channels: int) -> None:
    Image.new(mode, (4, 4)).save(tmp_path / "image", format="png")
    assert read_header(tmp_path / "image").channels == channels


@pytest.mark.parametrize(
    ("head", "why"),
    [
        (b"", "empty file"),
        (b"\0\0\0\x18ftypheic" + bytes(40), "HEIF .* cannot be decoded: convert it to JPEG or PNG"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "."),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known kind"),
    ],
)
def test_what_has_no_readable_header_says_why(tmp_path: Path, head: bytes, why: str) -> None:
    (tmp_path / "image.jpg").write_bytes(head)
    for read in (read_header, lambda path: read_image(path, 3)):
        with pytest.raises(UnreadableImage, match=why):
            read(tmp_path / "image.jpg")


@pytest.mark.parametrize("kind", ["jpeg2000", "ppm", "qoi", "avif", "gif", "dib"])
def test_rarer_kinds_are_read(tmp_path: Path, kind: str) -> None:
    Image.init()
    if kind.upper() not in Image.SAVE:
        pytest.skip(f"this Pillow cannot write {kind}")
    gradient().save(tmp_path / "image", format=kind)
    assert read_image(tmp_path / "image", 3).shape == (3, 24, 40)


@pytest.mark.parametrize("kind", ["png", "bmp", "tiff", "ppm"])
@pytest.mark.parametrize("suffix", ["", ".jpg"])
def test_lossless_files_keep_every_pixel_whatever_their_suffix(tmp_path: Path, kind: str, suffix: str) -> None:
    path = tmp_path / f"image.{kind}{suffix}"
    gradient().save(path, format=kind)
    assert torch.equal(read_image(path, 3), as_tensor(gradient()))


@pytest.mark.parametrize(
    ("kind", "options"), [("jpeg", {"quality": 95}), ("webp", {"quality": 95}), ("webp", {"lossless": True})]
)
def test_compressed_files_look_as_pillow_shows_them(tmp_path: Path, kind: str, options: dict[str, object]) -> None:
    path = tmp_path / f"image.{kind}"
    gradient().save(path, format=kind, **options)
    with Image.open(path) as image:
        expected, grey = as_tensor(image.convert("RGB")), torch.from_numpy(np.array(image.convert("L")))
    assert (read_image(path, 3).int() - expected.int()).abs().float().mean() < 2
    assert (read_image(path, 1)[0].int() - grey.int()).abs().float().mean() < 2


@pytest.mark.parametrize("kind", ["jpeg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_images_come_upright(tmp_path: Path, kind: str, orientation: int) -> None:
    path = tmp_path / f"image.{kind}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    gradient(48, 32).save(path, format=kind, exif=exif, **({"quality": 95} if kind in ("jpeg", "webp") else {}))
    upright = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_270,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_90,
    }
    shown = gradient(48, 32)
    expected = as_tensor(shown.transpose(upright[orientation]) if orientation in upright else shown)
    image = read_image(path, 3)
    assert image.shape == expected.shape
    assert (image.int() - expected.int()).abs().float().mean() < 6


def test_sixteen_bits_become_the_upper_eight(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 256).astype(np.uint16).reshape(16, 16)
    Image.fromarray(values).save(tmp_path / "deep.png")
    Image.fromarray(values).save(tmp_path / "deep.tif")
    for name in ("deep.png", "deep.tif"):
        image = read_image(tmp_path / name, 1)
        assert torch.equal(image[0], torch.from_numpy((values >> 8).astype(np.uint8)))
        assert torch.equal(read_image(tmp_path / name, 3), image.expand(3, -1, -1))


def test_transparent_parts_become_white(tmp_path: Path) -> None:
    image = Image.new("RGBA", (4, 4), (10, 20, 30, 255))
    image.putpixel((0, 0), (0, 0, 0, 0))
    for name in ("clear.png", "clear.webp"):
        image.save(tmp_path / name, lossless=True)
        pixels = read_image(tmp_path / name, 3)
        assert pixels[:, 0, 0].tolist() == [255, 255, 255]
        assert pixels[:, 3, 3].tolist() == [10, 20, 30]


def test_of_an_animation_the_first_frame_is_taken(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (6, 5), colour) for colour in ("red", "lime", "blue")]
    for name in ("moving.gif", "moving.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
        assert read_image(tmp_path / name, 3)[:, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "I"])
def test_every_mode_is_converted(tmp_path: Path, mode: str, channels: int) -> None:
    picture = gradient().convert("I").convert("I;16") if mode == "I;16" else gradient().convert(mode)
    path = tmp_path / "image.tif"
    picture.save(path)
    assert read_image(path, channels).shape == (channels, 24, 40)


@pytest.mark.parametrize("kind", ["jpeg", "png", "gif", "bmp", "tiff", "webp"])
def test_files_cut_anywhere_raise_unreadable_image_or_are_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"image.{kind}"
    gradient().save(path, format=kind)
    data = path.read_bytes()
    for length in range(0, len(data) - 1, max(1, len(data) // 60)):
        path.write_bytes(data[:length])
        try:
            image = read_image(path, 3)
        except UnreadableImage:
            continue
        assert image.shape == (3, 24, 40)
        assert length > len(data) // 4


def test_bytes_changed_at_random_never_end_the_process(tmp_path: Path) -> None:
    script = f"""
import random, sys
from pathlib import Path
from patchmix.data.images import UnreadableImage, read_image
random.seed(0)
for path in sorted(Path({str(tmp_path)!r}).iterdir()):
    data = path.read_bytes()
    for _ in range(40):
        damaged = bytearray(data)
        for _ in range(random.choice((1, 5, 50))):
            damaged[random.randrange(len(data))] = random.randrange(256)
        Path(path).write_bytes(damaged)
        try:
            read_image(path, 3)
        except UnreadableImage:
            pass
print("done")
"""
    for kind in ("jpeg", "png", "gif", "webp", "bmp", "tiff"):
        gradient(100, 80).save(tmp_path / f"image.{kind}", format=kind)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert result.stdout.strip() == "done", result.stderr


def test_a_jpeg_that_claims_too_many_pixels_is_not_decoded(tmp_path: Path) -> None:
    path = tmp_path / "bomb.jpg"
    gradient().save(path)
    data = bytearray(path.read_bytes())
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    with pytest.raises(UnreadableImage, match="claims 65535 x 65535 pixels"):
        read_image(path, 3)
    assert MAX_PIXELS < 65535**2


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImage, match="No such file"):
        read_image(tmp_path / "none.jpg", 3)
