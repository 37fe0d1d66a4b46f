"""torchvision's classification data sets: how each is asked for its splits, and where it lies.

A table, not the signatures: `split` means other things in EMNIST, some sets have `val` for `test`, and what
torchvision takes for a whole data set is at times an empty folder (decision 0023).
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Any

from patchmix.config.training import TORCHVISION
from patchmix.errors import UserError


@dataclass(frozen=True)
class Part:
    """What torchvision opens at once: arguments of the class, and what lies in `data.root` once it is there."""

    arguments: dict[str, Any]
    place: str


@dataclass(frozen=True)
class TorchvisionSet:
    """The parts that make the training images, and the part to test on (None: there is none).

    `by_hand` says where to get what torchvision does not download. `num_classes` is for sets that do not name their
    classes. `grey` sets of files have one channel; `digits` are normalised as MNIST is. `side` is the pixels a side of
    files that all have it.
    """

    train: tuple[Part, ...]
    test: Part | None
    by_hand: str | None = None
    num_classes: int | None = None
    grey: bool = False
    digits: bool = False
    side: int | None = None


def _flagged(place: str, test_place: str | None = None, **more: Any) -> TorchvisionSet:
    """A class with train=True and train=False."""
    return TorchvisionSet(
        (Part({"train": True}, place),), Part({"train": False}, test_place or place), digits=True, **more
    )


def _split(place: str, *train: str, test: str = "test", **more: Any) -> TorchvisionSet:
    """A class with split=NAME; `place` may hold `{}` for the name. Several names are joined."""
    names = train or ("train",)
    parts = tuple(Part({"split": name}, place.format(name)) for name in names)
    return TorchvisionSet(parts, Part({"split": test}, place.format(test)), **more)


def _whole(place: str, arguments: dict[str, Any] | None = None, **more: Any) -> TorchvisionSet:
    """A class without splits, or with splits of different classes."""
    return TorchvisionSet((Part(arguments or {}, place),), None, **more)


_EMNIST = {"split": "balanced"}
_KAGGLE_FER = "https://www.kaggle.com/c/challenges-in-representation-learning-facial-expression-recognition-challenge"

SETS: dict[str, TorchvisionSet] = {
    "CIFAR10": TorchvisionSet(
        (Part({"train": True}, "cifar-10-batches-py"),), Part({"train": False}, "cifar-10-batches-py")
    ),
    "CIFAR100": TorchvisionSet(
        (Part({"train": True}, "cifar-100-python"),), Part({"train": False}, "cifar-100-python")
    ),
    "CLEVRClassification": _split("clevr", test="val", num_classes=11),
    "Caltech101": _whole("caltech101/101_ObjectCategories"),
    "Caltech256": _whole("caltech256/256_ObjectCategories"),
    "Country211": _split("country211", "train", "valid"),
    "DTD": _split("dtd/dtd", "train", "val"),
    "EMNIST": TorchvisionSet(
        (Part({**_EMNIST, "train": True}, "EMNIST/raw/emnist-balanced-train-images-idx3-ubyte"),),
        Part({**_EMNIST, "train": False}, "EMNIST/raw/emnist-balanced-test-images-idx3-ubyte"),
        digits=True,
    ),
    "EuroSAT": _whole("eurosat/2750", side=64),
    "FER2013": _split("fer2013", num_classes=7, by_hand=_KAGGLE_FER),
    "FGVCAircraft": _split("fgvc-aircraft-2013b", "trainval"),
    "FashionMNIST": _flagged("FashionMNIST/raw"),
    "Flowers102": _split("flowers-102/jpg", "train", "val", num_classes=102),
    "Food101": _split("food-101"),
    "GTSRB": _split("gtsrb/GTSRB", num_classes=43),
    "INaturalist": TorchvisionSet(
        (Part({"version": "2021_train"}, "2021_train"),), Part({"version": "2021_valid"}, "2021_valid")
    ),
    "Imagenette": _split("imagenette2", test="val"),
    "KMNIST": _flagged("KMNIST/raw"),
    "LFWPeople": _whole(
        "lfw-py", {"split": "10fold"}, by_hand="https://www.kaggle.com/datasets/jessicali9530/lfw-dataset"
    ),
    "MNIST": _flagged("MNIST/raw"),
    "Omniglot": _whole("omniglot-py/images_background", {"background": True}, grey=True),
    "OxfordIIITPet": _split("oxford-iiit-pet/annotations", "trainval"),
    "Places365": TorchvisionSet(
        (Part({"split": "train-standard", "small": True}, "data_256_standard"),),
        Part({"split": "val", "small": True}, "val_256"),
    ),
    "QMNIST": _flagged("QMNIST/raw/qmnist-train-images-idx3-ubyte", "QMNIST/raw/qmnist-test-images-idx3-ubyte"),
    "RenderedSST2": _split("rendered-sst2", "train", "val"),
    "SEMEION": _whole("semeion.data", num_classes=10, digits=True),
    "STL10": _split("stl10_binary"),
    "SUN397": _whole("SUN397"),
    "SVHN": _split("{}_32x32.mat", num_classes=10),
    "StanfordCars": _split("stanford_cars", by_hand="a copy: the authors' page is gone"),
    "USPS": _flagged("usps.bz2", "usps.t.bz2", num_classes=10),
}

LEFT_OUT = {
    "ImageNet": "is read as --data.name imagenet",
    "CelebA": "has attributes, not classes",
    "LSUN": "lies in LMDB files, which are not read",
    "LSUNClass": "lies in LMDB files, which are not read",
    "PCAM": "lies in HDF5 files, which are not read",
    "FakeData": "is noise",
    "ImageFolder": "is read as --data.name folder",
    "DatasetFolder": "is read as --data.name folder",
}


def find_set(data_name: str) -> tuple[str, TorchvisionSet]:
    """The class's name and its entry for `torchvision:NAME`.

    Raises:
        UserError: torchvision has no such classification set, or an older torchvision lacks it.
    """
    import torchvision.datasets

    name = data_name.removeprefix(TORCHVISION)
    if name in SETS:
        if not hasattr(torchvision.datasets, name):
            raise UserError(f"data.name = {data_name!r} needs a newer torchvision than {torchvision.__version__}")
        return name, SETS[name]
    if name in LEFT_OUT:
        why = f"{name} {LEFT_OUT[name]}"
    elif isinstance(getattr(torchvision.datasets, name, None), type):
        why = f"torchvision's {name} is no set of images with a class each"
    else:
        why = f"torchvision has no {name}"
    by_lower = {each.lower(): each for each in SETS}
    near = [by_lower[each] for each in difflib.get_close_matches(name.lower(), by_lower, n=3, cutoff=0.5)]
    hint = f"; near it are {', '.join(near)}" if near and name not in LEFT_OUT else ""
    raise UserError(f"data.name = {data_name!r} is not accepted: {why}{hint} (docs/data.md lists the sets)")
