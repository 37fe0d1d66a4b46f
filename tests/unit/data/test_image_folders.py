"""Trees of images: what is found, in which order, with which labels; what a user is told."""

from __future__ import annotations

import os
import pickle
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from patchmix.config import DataConfig
from patchmix.data.datasets import Subset, has_split, open_dataset, view_size
from patchmix.data.folder import list_images
from patchmix.errors import UserError


def put(root: Path, *names: str, colour: tuple[int, int, int] = (200, 100, 50)) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 6), colour).save(root / name, format="png")


def names(root: Path) -> list[str]:
    paths = list_images(root).paths
    return [paths[k] for k in range(len(paths))]


def folder(root: Path, **options: object) -> DataConfig:
    return DataConfig(name="folder", root=str(root), **options)  # type: ignore[arg-type]


def test_images_of_any_depth_and_suffix_case_are_found_in_a_fixed_order(tmp_path: Path) -> None:
    put(tmp_path, "b/2.png", "b/10.PNG", "a/deep/er/x.JpEg", "z.webp", "A.tif", "ünï 图.png")
    assert names(tmp_path) == ["A.tif", "z.webp", "ünï 图.png", "a/deep/er/x.JpEg", "b/10.PNG", "b/2.png"]


def test_hidden_files_other_kinds_and_folders_with_a_suffix_are_left_out(tmp_path: Path) -> None:
    put(tmp_path, "yes.png", ".hidden.png", ".cache/no.png", "folder.png/inside.png")
    (tmp_path / "notes.txt").write_text("no")
    (tmp_path / "png").write_text("no suffix")
    assert names(tmp_path) == ["yes.png", "folder.png/inside.png"]
    assert str(list_images(tmp_path).left_out) == "2 other files (1 .txt, 1 without suffix), 2 hidden entries"


def test_loops_of_links_end_and_linked_folders_are_read(tmp_path: Path) -> None:
    put(tmp_path / "photos", "a/1.png")
    put(tmp_path / "elsewhere", "2.png")
    (tmp_path / "photos" / "a" / "loop").symlink_to(tmp_path / "photos")
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos" / "broken.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "photos" / "itself.png").symlink_to("itself.png")
    (tmp_path / "photos" / "again.png").symlink_to("a/1.png")
    assert names(tmp_path / "photos") == ["again.png", "a/1.png", "linked/2.png"]
    assert list_images(tmp_path / "photos").left_out.num_broken_links == 2


def test_images_are_known_by_their_content_under_any_name(tmp_path: Path) -> None:
    put(tmp_path, "noext", "photo.dat", "photo.txt", "a.b/download.1", "IMG_1.PNG")
    (tmp_path / "damaged.jpg").write_text("an image by its name, to be reported")
    (tmp_path / "camera.dng").write_bytes(b"II*\0 a raw file, whose preview is not the photograph")
    (tmp_path / "manual").write_text("BM is how bitmaps begin, P2 4 how grey maps do")
    assert names(tmp_path) == ["IMG_1.PNG", "damaged.jpg", "noext", "photo.dat", "photo.txt", "a.b/download.1"]


def test_of_a_common_other_suffix_the_first_hundred_are_looked_at(tmp_path: Path) -> None:
    for folder in ("labels", "images"):
        (tmp_path / folder).mkdir()
        for number in range(150):
            (tmp_path / folder / f"{number:03}.txt").write_text("no")
    put(tmp_path, "images/120.txt")
    assert names(tmp_path / "labels") == []
    assert names(tmp_path / "images") == []
    put(tmp_path, "images/050.txt")
    assert names(tmp_path / "images") == ["050.txt", "120.txt"]


def test_pipes_and_sockets_are_passed_over_without_waiting(tmp_path: Path) -> None:
    put(tmp_path, "yes.png")
    os.mkfifo(tmp_path / "pipe")
    os.mkfifo(tmp_path / "pipe.png")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket.png"))
        assert names(tmp_path) == ["yes.png"]


def test_names_of_any_bytes_are_listed_and_read(tmp_path: Path) -> None:
    put(tmp_path, "tmp.png")
    odd = [b"\xff\xfe.png", b"a\nb.png", b"a\tb.png", b"<img src=x>[red].png", "\u2028.png".encode(), b"-rf.png"]
    for name in odd:
        shutil.copy(tmp_path / "tmp.png", os.path.join(os.fsencode(tmp_path), name))
    source = open_dataset(folder(tmp_path), "train")
    assert sorted(os.path.basename(os.fsencode(source.path(k))) for k in range(len(source))) == sorted(
        [b"tmp.png", *odd]
    )
    assert all(source.read(k).shape == (3, 6, 8) for k in range(len(source)))


def test_order_and_fingerprint_never_change(tmp_path: Path) -> None:
    files = {"b/2.png": "x", "b/10.PNG": "yy", "a/x.JpEg": "zzz", "z.webp": "w", "A.tif": "v", "b/deep/1.jpg": "u"}
    for name, text in {**files, ".hidden/x.png": "hidden", "notes.md": "not an image", "a/plain": "data"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert names(tmp_path) == ["A.tif", "z.webp", "a/x.JpEg", "b/10.PNG", "b/2.png", "b/deep/1.jpg"]
    assert list_images(tmp_path).fingerprint() == "43ad7411599eaae1"  # of version 0.1.0: runs go on only with the same


def test_files_in_great_number_come_in_order(tmp_path: Path) -> None:
    """More than one thread takes at a time."""
    put(tmp_path, "some/0000", "some/0000.png")
    for number in range(1, 300):
        os.link(tmp_path / "some/0000", tmp_path / f"some/{number:04}{'.png' if number % 2 else ''}")
    listing = list_images(tmp_path)
    assert [listing.paths[k] for k in range(301)] == sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*0*"))
    assert listing.sizes.tolist() == [(tmp_path / "some/0000").stat().st_size] * 301


@pytest.mark.parametrize(("closed", "message"), [("", "cannot be read"), ("cats", "cats cannot be read")])
def test_a_folder_that_may_not_be_read_is_an_error(closed: str, message: str) -> None:
    script = """
import os, sys
from patchmix.data.listing import list_images
from patchmix.errors import UserError
if os.getuid() == 0:
    os.setuid(65534)  # root may read everything
try:
    list_images(sys.argv[1])
except UserError as error:
    print(error)
"""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        put(root, "cats/1.png", "dogs/1.png")
        root.chmod(0o755)
        (root / closed).chmod(0)
        try:
            environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
            line = [sys.executable, "-c", script, name]
            said = subprocess.run(line, capture_output=True, text=True, env=environment, check=True).stdout
        finally:
            (root / closed).chmod(0o755)
    assert f"{message} (Permission denied): give a readable folder, or move this one away" in said


def test_the_fingerprint_follows_names_and_sizes(tmp_path: Path) -> None:
    for name in ("one", "same", "renamed", "changed"):
        put(tmp_path / name, "1.png", "2.png")
    (tmp_path / "renamed" / "2.png").rename(tmp_path / "renamed" / "3.png")
    (tmp_path / "changed" / "2.png").write_bytes(b"longer" * 1000)
    prints = {name: list_images(tmp_path / name).fingerprint() for name in ("one", "same", "renamed", "changed")}
    assert prints["one"] == prints["same"]
    assert len(set(prints.values())) == 3


def test_a_tree_without_classes_has_no_labels(tmp_path: Path) -> None:
    put(tmp_path, "1.png", "a/2.png", "b/3.png")
    source = open_dataset(folder(tmp_path), "train")
    assert (len(source), source.labels, source.classes, source.channels) == (3, None, (), 3)
    assert view_size(source, folder(tmp_path)) == (224, 224)
    assert view_size(source, folder(tmp_path, image_size=64)) == (64, 64)
    assert source.path(2) == str(tmp_path / "b" / "3.png")
    assert source.read(0)[:, 0, 0].tolist() == [200, 100, 50]


def test_one_class_folder_is_no_labelling(tmp_path: Path) -> None:
    put(tmp_path, "only/1.png", "only/2.png")
    assert open_dataset(folder(tmp_path), "train").labels is None
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "boxes.json").write_text("{}")
    assert open_dataset(folder(tmp_path), "train").labels is None


def test_class_folders_are_labels_and_both_splits_number_them_alike(tmp_path: Path) -> None:
    put(tmp_path, "train/ant/1.png", "train/bee/deep/2.png", "train/cat/3.png", "test/cat/4.png", "test/ant/5.png")
    train, test = (open_dataset(folder(tmp_path), split) for split in ("train", "test"))
    assert train.classes == test.classes == ("ant", "bee", "cat")
    assert train.labels is not None
    assert test.labels is not None
    assert train.labels.tolist() == [0, 1, 2]
    assert test.labels.tolist() == [0, 2]
    assert train.fingerprint != test.fingerprint


def test_the_test_split_is_the_one_with_class_folders(tmp_path: Path) -> None:
    put(tmp_path, "train/a/1.png", "train/b/2.png", "test/unlabelled.png", "val/a/3.png", "val/b/4.png")
    test = open_dataset(folder(tmp_path), "test")
    assert test.path(0) == str(tmp_path / "val" / "a" / "3.png")
    assert has_split(folder(tmp_path), "test")


def test_without_a_train_folder_everything_is_for_training(tmp_path: Path) -> None:
    put(tmp_path, "test/1.png", "holiday/2.png")
    assert len(open_dataset(folder(tmp_path), "train")) == 2
    assert not has_split(folder(tmp_path), "test")
    with pytest.raises(UserError, match=r"no test images: evaluation needs .*/train/<class>/ and .*/test/<class>/"):
        open_dataset(folder(tmp_path), "test")


def test_grey_is_read_when_asked_for(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    source = open_dataset(folder(tmp_path, channels=1), "train")
    assert source.channels == len(source.mean) == 1
    assert source.read(0).shape == (1, 6, 8)


def test_given_statistics_are_used_and_must_fit_the_channels(tmp_path: Path) -> None:
    put(tmp_path, "1.png")
    source = open_dataset(folder(tmp_path, channels=1, mean=(0.3,), std=(0.2,)), "train")
    assert (source.mean, source.std) == ((0.3,), (0.2,))
    with pytest.raises(UserError, match=r"data.mean has 1 .* the images have 3 channels"):
        open_dataset(folder(tmp_path, mean=(0.3,), std=(0.2,)), "train")


def test_a_limit_takes_a_stratified_part_of_the_training_images_only(tmp_path: Path) -> None:
    put(tmp_path, *(f"{split}/{label}/{k}.png" for split in ("train", "test") for label in "ab" for k in range(6)))
    train = open_dataset(folder(tmp_path, limit=4), "train")
    assert isinstance(train, Subset)
    assert train.labels is not None
    assert train.labels.bincount().tolist() == [2, 2]
    assert [Path(train.path(k)).parent.name for k in range(4)] == ["a", "a", "b", "b"]
    assert train.fingerprint != open_dataset(folder(tmp_path, limit=5), "train").fingerprint
    assert len(open_dataset(folder(tmp_path, limit=4), "test")) == 12
    assert len(open_dataset(folder(tmp_path, limit=99), "train")) == 12


def test_sources_can_be_sent_to_other_processes(tmp_path: Path) -> None:
    put(tmp_path, "a/1.png", "b/2.png", "b/3.png")
    source = open_dataset(folder(tmp_path, limit=2), "train")
    assert pickle.loads(pickle.dumps(source)).path(1) == source.path(1)


def test_imagenet_is_read_from_train_and_val(tmp_path: Path) -> None:
    put(tmp_path, "train/n01/1.JPEG", "train/n02/2.JPEG", "val/n02/3.JPEG", "test/4.JPEG")
    data = DataConfig(name="imagenet", root=str(tmp_path))
    assert len(open_dataset(data, "train")) == 2
    test = open_dataset(data, "test")
    assert test.labels is not None
    assert test.labels.tolist() == [1]


def test_imagenet_without_class_folders_can_be_trained_on(tmp_path: Path) -> None:
    put(tmp_path, "train/1.JPEG", "train/2.JPEG")
    data = DataConfig(name="imagenet", root=str(tmp_path))
    assert open_dataset(data, "train").labels is None
    assert not has_split(data, "test")


@pytest.mark.parametrize(
    ("name", "make", "message"),
    [
        ("folder", None, "data.name folder needs data.root: give the folder"),
        ("imagenet", None, "data.name imagenet needs data.root"),
        ("folder", "absent", "does not exist: give the folder that holds your images"),
        ("imagenet", "absent", "does not exist: ImageNet is downloaded from"),
        ("folder", "empty", "holds no images: there are no files in it"),
        ("folder", "others", "holds no images, but 3 other files (2 .csv, 1 .zip), 1 broken link; taken are JPEG"),
        ("folder", "others", "begin with a dot; unpack archives first"),
        ("imagenet", "empty", "has no folder train"),
        ("folder", "archive.zip", "is a file: give the folder that holds the images"),
    ],
)
def test_what_is_wrong_with_a_root_is_said(tmp_path: Path, name: str, make: str | None, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "archive.zip").write_bytes(b"PK")
    (tmp_path / "others").mkdir()
    for other in ("1.csv", "2.CSV", "3.zip"):
        (tmp_path / "others" / other).write_text("other")
    (tmp_path / "others" / "4.png").symlink_to("nowhere")
    root = None if make is None else str(tmp_path / make)
    with pytest.raises(UserError) as error:
        open_dataset(DataConfig(name=name, root=root), "train")  # type: ignore[arg-type]
    assert message in str(error.value)
    assert "\n" not in str(error.value)
