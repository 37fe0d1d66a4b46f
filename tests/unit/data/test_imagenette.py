"""Imagenette: found, downloaded whole or not at all, and said how to get where it cannot be."""

from __future__ import annotations

import functools
import hashlib
import http.server
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torchvision
from PIL import Image

from patchmix.config import DataConfig
from patchmix.data.datasets import has_split, open_dataset, view_size
from patchmix.errors import UserError

WNIDS = ("n01440764", "n02102040", "n02979186")


def imagenette(root: Path) -> DataConfig:
    return DataConfig(name="imagenette", root=str(root))


def make_tree(folder: Path) -> Path:
    """Four training and two validation images of each of three classes, named as in the archive."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 4), ("val", 2)):
        for wnid in WNIDS:
            (folder / split / wnid).mkdir(parents=True)
            for number in range(count):
                pixels = generator.integers(0, 256, (32, 43, 3), np.uint8)
                Image.fromarray(pixels).save(folder / split / wnid / f"{wnid}_{number}.JPEG", format="JPEG")
    (folder / "noisy_imagenette.csv").write_text("path,noisy_labels_0\n")
    return folder


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    archives = {"320px": ("http://127.0.0.1:9/imagenette2-320.tgz", "0" * 32)}
    monkeypatch.setattr(torchvision.datasets.Imagenette, "_ARCHIVES", archives)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What torchvision downloads: a small archive of the same layout, from a server on this machine."""
    path = tmp_path / "remote" / "imagenette2-320.tgz"
    tree = make_tree(tmp_path / "remote" / "imagenette2-320")
    with tarfile.open(path, "w:gz") as packed:
        packed.add(tree, arcname="imagenette2-320")
    files = functools.partial(http.server.SimpleHTTPRequestHandler, directory=path.parent)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), files) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/{path.name}"
        archives = {"320px": (url, hashlib.md5(path.read_bytes()).hexdigest())}
        monkeypatch.setattr(torchvision.datasets.Imagenette, "_ARCHIVES", archives)
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        yield path
        server.shutdown()


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("inside", ["imagenette2-320", ""], ids=["beside", "itself"])
def test_an_unpacked_folder_is_used_without_a_download(tmp_path: Path, inside: str) -> None:
    make_tree(tmp_path / inside)
    train, test = (open_dataset(imagenette(tmp_path), split) for split in ("train", "test"))
    assert (train.name, len(train), len(test)) == ("imagenette", 12, 6)
    assert train.classes == test.classes == WNIDS
    assert train.labels is not None
    assert train.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert has_split(imagenette(tmp_path), "test")
    assert view_size(train, imagenette(tmp_path)) == (224, 224)


@pytest.mark.usefixtures("offline")
def test_offline_it_is_said_how_to_get_it_and_nothing_is_left(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        open_dataset(imagenette(tmp_path / "new"), "train")
    message = str(error.value)
    assert "\n" not in message
    assert f"imagenette is not in {tmp_path / 'new'} and cannot be downloaded" in message
    assert "unpack https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-320.tgz there" in message
    assert not (tmp_path / "new" / ".imagenette2-320").exists()


def test_it_is_downloaded_once(tmp_path: Path, archive: Path) -> None:
    root = tmp_path / "new"
    assert len(open_dataset(imagenette(root), "train")) == 12
    assert [path.name for path in root.iterdir()] == ["imagenette2-320"]
    archive.unlink()
    assert len(open_dataset(imagenette(root), "test")) == 6


@pytest.mark.usefixtures("archive")
def test_what_a_download_that_was_cut_short_has_left_is_not_taken_for_the_whole(tmp_path: Path) -> None:
    partly = tmp_path / "new" / ".imagenette2-320" / "imagenette2-320" / "train" / WNIDS[0]
    partly.mkdir(parents=True)
    assert len(open_dataset(imagenette(tmp_path / "new"), "train")) == 12


@pytest.mark.usefixtures("offline")
def test_a_folder_that_lacks_a_split_is_named(tmp_path: Path) -> None:
    (tmp_path / "imagenette2-320" / "train" / WNIDS[0]).mkdir(parents=True)
    with pytest.raises(UserError, match="imagenette2-320 has no folder val: Imagenette is incomplete; delete it"):
        open_dataset(imagenette(tmp_path), "train")
