"""Small data sets in the file formats of torchvision's sets: classes of two images in every split."""

from __future__ import annotations

import bz2
import json
import pickle
import struct
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io
from PIL import Image

GENERATOR = np.random.default_rng(0)
CLASSES = ("ant", "bee")
EACH = 2  # images of a class in each split


def photo(path: Path, mode: str = "RGB", size: tuple[int, int] = (24, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = GENERATOR.integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)


def text(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)


def pixels(*shape: int) -> npt.NDArray[np.uint8]:
    return GENERATOR.integers(0, 256, shape, np.uint8)


def tree(root: Path, classes: Iterable[str] = CLASSES, suffix: str = "jpg", stem: str = "") -> None:
    for name in classes:
        for number in range(EACH):
            photo(root / name / f"{stem}{number}.{suffix}")


def idx(path: Path, values: npt.NDArray[Any], kind: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    head = struct.pack(">BBBB", 0, 0, kind, values.ndim) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(head + values.tobytes())


def digits(root: Path, name: str) -> None:
    for split in ("train", "t10k"):
        idx(root / name / "raw" / f"{split}-images-idx3-ubyte", pixels(4, 28, 28))
        idx(root / name / "raw" / f"{split}-labels-idx1-ubyte", np.array([0, 1, 0, 1], np.uint8))


def emnist(root: Path) -> None:
    for split in ("train", "test"):
        idx(root / f"EMNIST/raw/emnist-balanced-{split}-images-idx3-ubyte", pixels(4, 28, 28))
        idx(root / f"EMNIST/raw/emnist-balanced-{split}-labels-idx1-ubyte", np.array([0, 1, 0, 1], np.uint8))


def qmnist(root: Path) -> None:
    more = np.zeros((4, 8), ">i4")
    more[:, 0] = [0, 1, 0, 1]
    more[:, 2] = 900  # who wrote it
    for split in ("train", "test"):
        idx(root / f"QMNIST/raw/qmnist-{split}-images-idx3-ubyte", pixels(4, 28, 28))
        idx(root / f"QMNIST/raw/qmnist-{split}-labels-idx2-int", more, kind=12)


def usps(root: Path) -> None:
    for name in ("usps.bz2", "usps.t.bz2"):
        rows = [
            f"{label} " + " ".join(f"{k + 1}:{v:.3f}" for k, v in enumerate(GENERATOR.uniform(-1, 1, 256)))
            for label in (1, 2, 1, 2)
        ]
        (root / name).write_bytes(bz2.compress("\n".join(rows).encode()))


def semeion(root: Path) -> None:
    rows = [[*GENERATOR.integers(0, 2, 256).tolist(), *(int(label == k) for k in range(10))] for label in (0, 1, 0, 1)]
    text(root / "semeion.data", "\n".join(" ".join(map(str, row)) for row in rows))


def svhn(root: Path) -> None:
    for split in ("train", "test"):
        labels = np.array([[10], [1], [10], [1]], np.uint8)  # 10 means 0
        scipy.io.savemat(root / f"{split}_32x32.mat", {"X": pixels(32, 32, 3, 4), "y": labels})


def stl10(root: Path) -> None:
    folder = root / "stl10_binary"
    text(folder / "class_names.txt", "ant\nbee\n")
    for split in ("train", "test"):
        (folder / f"{split}_X.bin").write_bytes(pixels(4, 3, 96, 96).tobytes())
        (folder / f"{split}_y.bin").write_bytes(bytes([1, 2, 1, 2]))
    (folder / "unlabeled_X.bin").write_bytes(pixels(1, 3, 96, 96).tobytes())


def cifar(root: Path, folder: str, files: list[str], key: str, meta: tuple[str, str]) -> None:
    place = root / folder
    place.mkdir()
    for file in files:
        (place / file).write_bytes(pickle.dumps({"data": pixels(4, 3072), key: [0, 1, 0, 1]}))
    (place / meta[0]).write_bytes(pickle.dumps({meta[1]: list(CLASSES)}))


def fer2013(root: Path) -> None:
    rows = [
        f'{label},"{" ".join(map(str, pixels(48 * 48)))}",{usage}'
        for usage in ("Training", "PrivateTest")
        for label in (0, 1, 0, 1)
    ]
    text(root / "fer2013/fer2013.csv", "\n".join(["emotion,pixels,Usage", *rows]))


def flowers(root: Path) -> None:
    folder = root / "flowers-102"
    for number in range(1, 13):
        photo(folder / f"jpg/image_{number:05d}.jpg")
    scipy.io.savemat(folder / "imagelabels.mat", {"labels": np.array([[1, 2] * 6])})
    ids = {"trnid": [[1, 2, 3, 4]], "valid": [[5, 6, 7, 8]], "tstid": [[9, 10, 11, 12]]}
    scipy.io.savemat(folder / "setid.mat", ids)


def food(root: Path) -> None:
    tree(root / "food-101/images", stem="train")
    tree(root / "food-101/images", stem="test")
    for split in ("train", "test"):
        listed = {name: [f"{name}/{split}{number}" for number in range(EACH)] for name in CLASSES}
        text(root / f"food-101/meta/{split}.json", json.dumps(listed))


def dtd(root: Path) -> None:
    for split in ("train", "val", "test"):
        tree(root / "dtd/dtd/images", stem=split)
        lines = [f"{name}/{split}{number}.jpg" for name in CLASSES for number in range(EACH)]
        text(root / f"dtd/dtd/labels/{split}1.txt", "\n".join(lines))


def gtsrb(root: Path) -> None:
    tree(root / "gtsrb/GTSRB/Training", ("00000", "00001"), "ppm")
    lines = ["Filename;Width;ClassId"]
    for number in range(4):
        photo(root / f"gtsrb/GTSRB/Final_Test/Images/{number:05d}.ppm")
        lines.append(f"{number:05d}.ppm;24;{number % 2}")
    text(root / "gtsrb/GT-final_test.csv", "\n".join(lines))


def country(root: Path) -> None:
    for split in ("train", "valid", "test"):
        tree(root / "country211" / split)


def aircraft(root: Path) -> None:
    data = root / "fgvc-aircraft-2013b/data"
    text(data / "variants.txt", "\n".join(CLASSES))
    for split in ("trainval", "test"):
        lines = []
        for number in range(4):
            photo(data / f"images/{split}{number}.jpg")
            lines.append(f"{split}{number} {CLASSES[number % 2]}")
        text(data / f"images_variant_{split}.txt", "\n".join(lines))


def pets(root: Path) -> None:
    for split in ("trainval", "test"):
        lines = []
        for label, name in enumerate(("Abyssinian", "basset_hound"), start=1):
            for number in range(EACH):
                photo(root / f"oxford-iiit-pet/images/{name}_{split}{number}.jpg")
                lines.append(f"{name}_{split}{number} {label} 1 1")
        text(root / f"oxford-iiit-pet/annotations/{split}.txt", "\n".join(lines))


def cars(root: Path) -> None:
    base = root / "stanford_cars"
    (base / "devkit").mkdir(parents=True)
    scipy.io.savemat(base / "devkit/cars_meta.mat", {"class_names": np.array(CLASSES, dtype=object)})
    for split, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        rows = np.zeros(4, dtype=[("fname", object), ("class", object)])
        for number in range(4):
            photo(base / f"cars_{split}/{number}.jpg")
            rows[number] = (f"{number}.jpg", number % 2 + 1)
        scipy.io.savemat(base / file, {"annotations": rows})


def clevr(root: Path) -> None:
    base = root / "clevr/CLEVR_v1.0"
    for split in ("train", "val"):
        scenes = []
        for number in range(4):
            photo(base / f"images/{split}/{number}.png")
            scenes.append({"image_filename": f"{number}.png", "objects": [0] * (number % 2)})
        text(base / f"scenes/CLEVR_{split}_scenes.json", json.dumps({"scenes": scenes}))


def sst2(root: Path) -> None:
    for split in ("train", "valid", "test"):
        tree(root / "rendered-sst2" / split, ("negative", "positive"), "png")


def sun(root: Path) -> None:
    text(root / "SUN397/ClassName.txt", "/a/ant\n/b/bee\n")
    tree(root / "SUN397", ("a/ant", "b/bee"), stem="sun_")


def caltech101(root: Path) -> None:
    base = root / "caltech101/101_ObjectCategories"
    for name in (*CLASSES, "BACKGROUND_Google"):
        for number in (1, 2):
            photo(base / name / f"image_{number:04d}.jpg")


def caltech256(root: Path) -> None:
    for label, name in enumerate(("001.ant", "002.bee"), start=1):
        for number in (1, 2):
            photo(root / f"caltech256/256_ObjectCategories/{name}/{label:03d}_{number:04d}.jpg")


def omniglot(root: Path) -> None:
    (root / "omniglot-py").mkdir()
    (root / "omniglot-py/images_background.zip").touch()
    for character in ("Greek/beta", "Greek/alpha"):
        for number in range(EACH):
            photo(root / f"omniglot-py/images_background/{character}/{number}.png", "1", (105, 105))


def inaturalist(root: Path) -> None:
    for version in ("2021_train", "2021_valid"):
        names = [f"0000{k}_Animalia_Arthropoda_Insecta_Order_Family_{name}_x" for k, name in enumerate(CLASSES)]
        tree(root / version, names)


def imagenette(root: Path) -> None:
    for split in ("train", "val"):
        tree(root / "imagenette2" / split, ("n01440764", "n02102040"), "jpeg")


def lfw(root: Path) -> None:
    base = root / "lfw-py"
    for name in ("Ann", "Bob"):
        for number in (1, 2):
            photo(base / f"lfw_funneled/{name}/{name}_{number:04d}.jpg")
    (base / "lfw-funneled.tgz").touch()
    text(base / "people.txt", "2\n1\nAnn\t2\n1\nBob\t2\n")
    text(base / "lfw-names.txt", "Ann\t2\nBob\t2\n")


def places(root: Path) -> None:
    text(root / "categories_places365.txt", "/a/ant 0\n/b/bee 1\n")
    for split, folder in (("train_standard", "data_256_standard"), ("val", "val_256")):
        lines = []
        for number in range(4):
            photo(root / folder / f"{number}.jpg")
            lines.append(f"{number}.jpg {number % 2}")
        text(root / f"places365_{split}.txt", "\n".join(lines))


FILES: dict[str, Callable[[Path], None]] = {
    "CIFAR10": lambda root: cifar(
        root,
        "cifar-10-batches-py",
        [*(f"data_batch_{k}" for k in range(1, 6)), "test_batch"],
        "labels",
        ("batches.meta", "label_names"),
    ),
    "CIFAR100": lambda root: cifar(
        root, "cifar-100-python", ["train", "test"], "fine_labels", ("meta", "fine_label_names")
    ),
    "CLEVRClassification": clevr,
    "Caltech101": caltech101,
    "Caltech256": caltech256,
    "Country211": country,
    "DTD": dtd,
    "EMNIST": emnist,
    "EuroSAT": lambda root: tree(root / "eurosat/2750"),
    "FER2013": fer2013,
    "FGVCAircraft": aircraft,
    "FashionMNIST": lambda root: digits(root, "FashionMNIST"),
    "Flowers102": flowers,
    "Food101": food,
    "GTSRB": gtsrb,
    "INaturalist": inaturalist,
    "Imagenette": imagenette,
    "KMNIST": lambda root: digits(root, "KMNIST"),
    "LFWPeople": lfw,
    "MNIST": lambda root: digits(root, "MNIST"),
    "Omniglot": omniglot,
    "OxfordIIITPet": pets,
    "Places365": places,
    "QMNIST": qmnist,
    "RenderedSST2": sst2,
    "SEMEION": semeion,
    "STL10": stl10,
    "SUN397": sun,
    "SVHN": svhn,
    "StanfordCars": cars,
    "USPS": usps,
}
