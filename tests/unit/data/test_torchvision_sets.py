"""`torchvision:NAME`: small data sets in each set's own file format, and what goes wrong."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.datasets
from torchvision_files import CLASSES, FILES, digits, dtd, flowers, food, gtsrb, idx, tree

from patchmix.cli import main
from patchmix.config import Config, DataConfig, OptimConfig
from patchmix.data import torchvision_sets
from patchmix.data.datasets import ImageSource, has_split, open_dataset, view_size, would_download
from patchmix.data.images import UnreadableImage
from patchmix.data.loading import TrainingLoader
from patchmix.data.sample import sample_images
from patchmix.data.torchvision_table import SETS
from patchmix.errors import SaidElsewhereError, UserError
from patchmix.evaluation.opening import open_labelled

JOINED = {"Country211", "DTD", "Flowers102", "RenderedSST2"}  # train and val are the training images
ARRAYS = {"MNIST": 28, "FashionMNIST": 28, "KMNIST": 28, "EMNIST": 28, "QMNIST": 28, "USPS": 16, "SEMEION": 16}
ARRAYS |= {"CIFAR10": 32, "CIFAR100": 32, "SVHN": 32, "STL10": 96, "FER2013": 48}
GREY = {"MNIST", "FashionMNIST", "KMNIST", "EMNIST", "QMNIST", "USPS", "SEMEION", "FER2013", "Omniglot"}


def config(name: str, root: Path, **options: Any) -> DataConfig:
    return DataConfig(name=f"torchvision:{name}", root=str(root), **options)


@pytest.fixture
def no_checksums(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision takes our small files for the whole ones: it only looks whether they are there."""
    for name, module in list(sys.modules.items()):
        if name.startswith("torchvision.datasets.") and hasattr(module, "check_integrity"):
            monkeypatch.setattr(module, "check_integrity", lambda path, md5=None: Path(path).is_file())


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setattr(urllib.request, "_opener", None)  # it keeps the proxies of its first use


def counts(source: ImageSource) -> list[int]:
    assert source.labels is not None
    return [count for count in source.labels.bincount().tolist() if count]


@pytest.mark.usefixtures("no_checksums")
@pytest.mark.parametrize("name", SETS)
def test_every_set_is_read_from_its_own_files(name: str, tmp_path: Path) -> None:
    FILES[name](tmp_path)
    data = config(name, tmp_path)
    train = open_dataset(data, "train")
    assert counts(train) == ([4, 4] if name in JOINED else [10, 10] if name == "CIFAR10" else [2, 2])
    images = [train.read(index) for index in range(len(train))]
    assert {image.shape[0] for image in images} == {train.channels} == {1 if name in GREY else 3}
    assert len(train.mean) == len(train.std) == train.channels
    assert train.in_memory == (name in ARRAYS)
    side = ARRAYS.get(name, 64 if name == "EuroSAT" else 224)
    assert view_size(train, data) == (side, side)
    assert not would_download(data)
    assert open_dataset(data, "train").fingerprint == train.fingerprint
    assert pickle.loads(pickle.dumps(train)).path(0) == train.path(0)
    if has_split(data, "test"):
        test = open_dataset(data, "test")
        assert counts(test) == [2, 2]
        assert test.classes == train.classes
        assert test.read(0).dtype == torch.uint8
        assert test.fingerprint != train.fingerprint
        assert {train.path(index) for index in range(len(train))}.isdisjoint(map(test.path, range(len(test))))
    else:
        with pytest.raises(UserError, match=f"torchvision:{name} has no test images: torchvision gives it in one"):
            open_dataset(data, "test")


@pytest.mark.usefixtures("no_checksums")
@pytest.mark.parametrize("name", [name for name in SETS if name != "Omniglot"])
def test_labels_and_images_are_those_that_torchvision_gives(name: str, tmp_path: Path) -> None:
    FILES[name](tmp_path)
    part = SETS[name].train[-1]  # Omniglot's labels follow the file system's order: ours do not
    expected = {}
    more = {"download": False} if name == "SEMEION" else {}
    for image, label in getattr(torchvision.datasets, name)(tmp_path, **part.arguments, **more):
        expected[np.asarray(image.convert("L")).tobytes()] = int(label)
    source = open_dataset(config(name, tmp_path, channels=3), "train")
    assert source.labels is not None
    found = {}
    for index in range(len(source)):
        pixels = np.ascontiguousarray(source.read(index).permute(1, 2, 0).numpy())
        image = torchvision.transforms.functional.to_pil_image(pixels).convert("L")
        found[np.asarray(image).tobytes()] = int(source.labels[index])
    assert expected.items() <= found.items()


@pytest.mark.usefixtures("no_checksums")
def test_omniglots_classes_are_numbered_by_name(tmp_path: Path) -> None:
    FILES["Omniglot"](tmp_path)
    source = open_dataset(config("Omniglot", tmp_path), "train")
    assert source.classes == ("Greek/alpha", "Greek/beta")
    assert source.labels is not None
    assert [source.classes[label] in source.path(index) for index, label in enumerate(source.labels.tolist())] == [
        True
    ] * 4


@pytest.mark.parametrize("failed", [0, 2], ids=["downloaded", "failed"])
def test_other_processes_open_it_after_the_first_has_downloaded_it(
    failed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dtd(tmp_path / "elsewhere")
    root = tmp_path / "root"

    def from_first(value: object) -> object:
        if value is True:
            return True  # the first has no files either
        assert not root.exists()  # nothing was begun while the first was downloading
        if not failed:
            (tmp_path / "elsewhere").rename(root)
        return failed

    monkeypatch.setattr(torchvision_sets.distributed, "rank", lambda: 1)
    monkeypatch.setattr(torchvision_sets.distributed, "from_first", from_first)
    if failed:
        with pytest.raises(SaidElsewhereError):
            open_dataset(config("DTD", root), "train")
        assert not root.exists()
    else:
        assert len(open_dataset(config("DTD", root), "train")) == 8


def test_an_evaluation_of_a_set_without_test_images_does_not_ask_for_folders(tmp_path: Path) -> None:
    tree(tmp_path / "eurosat/2750")
    data = config("EuroSAT", tmp_path)
    with pytest.raises(UserError, match=r"^torchvision:EuroSAT .* has no test images, which probe needs$"):
        open_labelled("probe", data)
    train, test = open_labelled("knn", data, leave_one_out=True)
    assert len(train) == len(test) == 4


def test_names_of_classes_are_kept(tmp_path: Path) -> None:
    dtd(tmp_path)
    assert open_dataset(config("DTD", tmp_path), "train").classes == CLASSES


def test_a_grey_set_can_have_three_channels(tmp_path: Path) -> None:
    digits(tmp_path, "FashionMNIST")
    source = open_dataset(config("FashionMNIST", tmp_path, channels=3), "test")
    assert source.read(0).shape == (3, 28, 28)
    assert len(source.mean) == 3


def test_a_damaged_image_is_skipped_as_in_folders(tmp_path: Path) -> None:
    gtsrb(tmp_path)
    damaged = tmp_path / "gtsrb/GTSRB/Training/00001/0.ppm"
    damaged.write_bytes(damaged.read_bytes()[:100])
    (tmp_path / "gtsrb/GTSRB/Training/00001/1.ppm").unlink()
    source = open_dataset(config("GTSRB", tmp_path), "train")  # lists the folder: one image fewer
    assert len(source) == 3
    with pytest.raises(UnreadableImage, match=r"0\.ppm"):
        source.read(2)


def test_batches_are_the_same_with_workers(tmp_path: Path) -> None:
    food(tmp_path)
    data = config("Food101", tmp_path, image_size=16)
    settings = Config(data=data, optim=OptimConfig(batch_size=2))
    source = open_dataset(data, "train")
    first, second = (
        list(TrainingLoader(source, settings, steps_done=0, total_steps=2, num_workers=workers)) for workers in (0, 1)
    )
    assert all(torch.equal(a.views[0], b.views[0]) for a, b in zip(first, second, strict=True))


def test_a_sample_of_it_can_be_looked_at(tmp_path: Path) -> None:
    tree(tmp_path / "eurosat/2750")
    sample = sample_images(open_dataset(config("EuroSAT", tmp_path), "train"))
    assert (sample.num_images, sample.formats, sample.widths) == (4, {"JPEG": 4}, (24, 24))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flowers102", "torchvision has no flowers102; near it are Flowers102"),
        ("CIFAR", "near it are CIFAR10"),
        ("CocoDetection", "torchvision's CocoDetection is no set of images with a class each"),
        ("ImageNet", "ImageNet is read as --data.name imagenet"),
        ("xyzzy", "torchvision has no xyzzy (docs/data.md lists the sets)"),
    ],
)
def test_a_name_that_is_no_such_set_is_one_line(name: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        open_dataset(config(name, tmp_path), "train")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["Flowers102", "USPS", "FashionMNIST", "Omniglot", "Places365", "Caltech101"])
def test_offline_says_where_it_should_lie_and_leaves_nothing(name: str, tmp_path: Path) -> None:
    data = config(name, tmp_path / "new")
    assert would_download(data)
    with pytest.raises(UserError) as caught:
        open_dataset(data, "train")
    message = str(caught.value)
    assert message.startswith(f"torchvision:{name} is not in {tmp_path / 'new'} and cannot be downloaded (")
    assert str(tmp_path / "new" / SETS[name].train[0].place) in message
    assert "\n" not in message
    assert not (tmp_path / "new").exists()


def test_what_torchvision_cannot_download_says_where_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be downloaded by torchvision: get it from https://www\.kaggle"):
        open_dataset(config("FER2013", tmp_path), "train")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    digits(tmp_path, "MNIST")
    (tmp_path / "MNIST/raw/train-labels-idx1-ubyte").write_bytes(b"damaged")
    with pytest.raises(UserError, match=r"MNIST/raw is damaged or incomplete .*: delete it"):
        open_dataset(config("MNIST", tmp_path), "train")
    flowers(tmp_path)  # with labels that are not the original ones
    with pytest.raises(UserError, match="flowers-102/jpg is damaged or incomplete"):
        open_dataset(config("Flowers102", tmp_path), "train")


def test_labels_outside_the_classes_are_damage(tmp_path: Path) -> None:
    digits(tmp_path, "KMNIST")
    idx(tmp_path / "KMNIST/raw/train-labels-idx1-ubyte", np.array([0, 1, 0, 99], np.uint8))
    with pytest.raises(UserError, match="labels outside its classes"):
        open_dataset(config("KMNIST", tmp_path), "train")


def test_a_download_is_moved_to_its_place_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchvision's own class, with archives served from a folder of this machine."""
    monkeypatch.setattr(urllib.request, "_opener", None)
    (tmp_path / "served").mkdir()
    tree(tmp_path / "made/eurosat/2750")
    shutil.make_archive(str(tmp_path / "served/EuroSAT"), "zip", tmp_path / "made/eurosat", "2750")

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path / "served")))
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_address[1]}/EuroSAT.zip"
        original = torchvision.datasets.eurosat.download_and_extract_archive

        def local(_: str, download_root: str, md5: str) -> None:
            original(url, download_root=download_root)

        monkeypatch.setattr(torchvision.datasets.eurosat, "download_and_extract_archive", local)
        root = tmp_path / "root"
        half = root / ".torchvision-EuroSAT/eurosat/2750/ant/half.jpg"  # of an attempt that was cut short
        half.parent.mkdir(parents=True)
        half.touch()
        assert len(open_dataset(config("EuroSAT", root), "train")) == 4
        assert [path.name for path in root.iterdir()] == ["eurosat"]
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.usefixtures("offline")
def test_the_command_ends_with_2_and_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", "--data.name", "torchvision:Flowers102", "--data.root", str(tmp_path / "x")]
    assert main([*words, "--output", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert said.startswith("patchmix: error: torchvision:Flowers102 is not in ")
    assert said.count("\n") == 1
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_ctrl_c_ends_a_download_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
        words = ["pretrain", "--data.name", "torchvision:DTD", "--data.root", str(tmp_path / "x")]
        command = [sys.executable, "-m", "patchmix", *words, "--output", str(tmp_path / "run")]
        process = subprocess.Popen(
            command, env=os.environ | {"https_proxy": proxy}, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
        silent.settimeout(60)
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)  # less than the patience with a silent server
    assert process.returncode == 130
    assert "Traceback" not in said
    assert not (tmp_path / "run").exists()
