"""`huggingface:NAME` from directories on disk, and what goes wrong."""

from __future__ import annotations

import builtins
import pickle
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torchvision_files import photo, tree

from patchmix.cli import main
from patchmix.config import Config, DataConfig, OptimConfig
from patchmix.data import huggingface_sets
from patchmix.data.datasets import has_split, open_dataset, view_size, would_download
from patchmix.data.images import UnreadableImage
from patchmix.data.loading import TrainingLoader
from patchmix.data.sample import sample_images
from patchmix.errors import UserError

packages = pytest.importorskip("datasets", reason="the extra huggingface is not installed")


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packages.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    huggingface_sets._load.cache_clear()


def folders(root: Path) -> DataConfig:
    """A tree that `load_dataset` takes."""
    for split in ("train", "test"):
        tree(root / split)
    return DataConfig(name=f"huggingface:{root}")


def parquet(root: Path, splits: dict[str, list[int]], **columns: Any) -> DataConfig:
    """Packed images, by split with their labels; `columns` are more (feature, values)."""
    (root / "data").mkdir(parents=True)
    names = packages.ClassLabel(names=["ant", "bee"])
    features = {"image": packages.Image(), "label": names} | {name: feature for name, (feature, _) in columns.items()}
    for split, labels in splits.items():
        files = [root / f"made/{split}{number}.jpg" for number in range(len(labels))]
        for file in files:
            photo(file)
        rows = {"image": [{"bytes": file.read_bytes(), "path": file.name} for file in files], "label": labels}
        rows |= {name: values for name, (_, values) in columns.items()}
        packed = packages.Dataset.from_dict(rows, features=packages.Features(features))
        packed.to_parquet(str(root / f"data/{split}-00000-of-00001.parquet"))
        for file in files:
            file.unlink()
    (root / "made").rmdir()
    return DataConfig(name=f"huggingface:{root}")


def test_class_folders_are_read_from_their_files(tmp_path: Path) -> None:
    data = folders(tmp_path / "pets")
    train, test = open_dataset(data, "train"), open_dataset(data, "test")
    assert (train.classes, len(train), len(test)) == (("ant", "bee"), 4, 4)
    assert train.labels is not None
    assert train.labels.tolist() == [0, 0, 1, 1]
    assert Path(train.path(0)).is_file()
    assert train.fingerprint != test.fingerprint
    assert train.read(0).shape == (3, 20, 24)
    assert has_split(data, "test")
    assert not would_download(data)
    assert view_size(train, data) == (224, 224)
    assert sample_images(train).formats == {"JPEG": 4}


def test_packed_images_go_through_our_readers(tmp_path: Path) -> None:
    data = parquet(tmp_path / "packed", {"train": [0, 1, 0, 1], "validation": [1, 0, 1, 0]})
    train, test = open_dataset(data, "train"), open_dataset(data, "test")
    assert train.labels is not None
    assert test.labels is not None
    assert (train.labels.tolist(), test.labels.tolist()) == ([0, 1, 0, 1], [1, 0, 1, 0])
    assert train.path(2) == f"{data.name}/train/2"
    assert open_dataset(DataConfig(name=data.name, channels=1), "train").read(0).shape == (1, 20, 24)
    again = packages.load_dataset(str(tmp_path / "packed"))["train"][0]["image"]
    difference = train.read(0).permute(1, 2, 0).numpy().astype(int) - np.asarray(again.convert("RGB")).astype(int)
    assert np.abs(difference).max() <= 4  # JPEG decoders round differently
    sample = sample_images(train)
    assert (sample.formats, sample.widths, sample.num_decoded) == ({"packed": 4}, (24, 24), 4)
    copy = pickle.loads(pickle.dumps(train))
    assert torch.equal(copy.read(1), train.read(1))
    assert copy.fingerprint == train.fingerprint


def test_batches_are_the_same_with_workers(tmp_path: Path) -> None:
    data = DataConfig(name=parquet(tmp_path / "packed", {"train": [0, 1, 0, 1]}).name, image_size=16)
    source = open_dataset(data, "train")
    settings = Config(data=data, optim=OptimConfig(batch_size=2))
    first, second = (
        list(TrainingLoader(source, settings, steps_done=0, total_steps=2, num_workers=workers)) for workers in (0, 1)
    )
    assert all(torch.equal(a.views[0], b.views[0]) for a, b in zip(first, second, strict=True))


def test_a_damaged_packed_image_is_unreadable(tmp_path: Path) -> None:
    root = tmp_path / "packed"
    (root / "data").mkdir(parents=True)
    rows = {"image": [{"bytes": b"no image", "path": "a.jpg"}, None]}
    packages.Dataset.from_dict(rows, features=packages.Features({"image": packages.Image()})).to_parquet(
        str(root / "data/train-00000-of-00001.parquet")
    )
    source = open_dataset(DataConfig(name=f"huggingface:{root}"), "train")
    assert source.labels is None
    for index, why in enumerate(("not an image of a known kind", "no image in this row")):
        with pytest.raises(UnreadableImage, match=f"train/{index}: {why}"):
            source.read(index)


def test_hidden_test_labels_give_way_to_the_validation_split(tmp_path: Path) -> None:
    data = parquet(tmp_path / "packed", {"train": [0, 1], "validation": [1, 0, 1], "test": [-1, -1]})
    assert len(open_dataset(data, "test")) == 3


def test_several_columns_are_a_choice(tmp_path: Path) -> None:
    coarse = (packages.ClassLabel(names=["x", "y", "z"]), [2, 0])
    sign = (packages.Value("int64"), [1, -1])
    photographer = (packages.Value("string"), ["Zoe", "Ann"])
    name = parquet(tmp_path / "packed", {"train": [0, 1]}, coarse=coarse, who=photographer, sign=sign).name
    with pytest.raises(
        UserError, match=r"several columns of labels, label, coarse: choose one by --data\.label_column"
    ):
        open_dataset(DataConfig(name=name), "train")
    for column, labels, classes in (
        ("coarse", [2, 0], ("x", "y", "z")),
        ("who", [1, 0], ("Ann", "Zoe")),
        ("sign", [1, 0], ("-1", "1")),
    ):
        source = open_dataset(DataConfig(name=name, label_column=column), "train")
        assert source.labels is not None
        assert (source.labels.tolist(), source.classes) == (labels, classes)
    with pytest.raises(UserError, match=r"data\.label_column = 'kind' is no column of .*: it has image, label, coarse"):
        open_dataset(DataConfig(name=name, label_column="kind"), "train")
    with pytest.raises(UserError, match=r"data\.image_column = 'who' .* holds Value, not images"):
        open_dataset(DataConfig(name=name, image_column="who", label_column="who"), "train")
    with pytest.raises(UserError, match="has no test images: its splits are train"):
        open_dataset(DataConfig(name=name, label_column="who"), "test")


def test_options_of_hugging_face_are_for_its_sets_only() -> None:
    with pytest.raises(UserError, match=r"data\.subset = 'x' is not accepted: it is for huggingface:NAME, not cifar10"):
        DataConfig(name="cifar10", subset="x")


def test_offline_is_one_line_without_retries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)
    words = ["pretrain", "--data.name", "huggingface:nobody/absent", "--output", str(tmp_path / "run")]
    assert main(words) == 2
    said = capsys.readouterr().err
    assert said.startswith("patchmix: error: huggingface:nobody/absent is not in ")
    assert "the hub cannot be reached: go online once, or give a directory" in said
    assert said.count("\n") == 1
    assert would_download(DataConfig(name="huggingface:nobody/absent"))


def test_a_directory_that_is_not_there_is_said_without_asking_the_hub(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"there is no directory {tmp_path}/absent"):
        open_dataset(DataConfig(name=f"huggingface:{tmp_path}/absent"), "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty cannot be loaded"):
        open_dataset(DataConfig(name=f"huggingface:{tmp_path}/empty"), "train")


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    original = builtins.__import__

    def without_datasets(name: str, *rest: Any, **more: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return original(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_datasets)
    with pytest.raises(UserError, match=r'pip install "patchmix\[huggingface\]"'):
        open_dataset(DataConfig(name="huggingface:beans"), "train")
