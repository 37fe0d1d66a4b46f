"""Embeddings as one file, written chunk by chunk: NumPy's .npz or Parquet, in the memory of one chunk."""

from __future__ import annotations

import importlib
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from patchmix.data.unreadable import tsv_field
from patchmix.errors import UserError

PARQUET_MISSING = '--format parquet needs pyarrow, which is absent: pip install "patchmix[parquet]"'


@dataclass(frozen=True)
class Part:
    """Some images: features float32 [n, width], paths [n], labels int64 [n] (-1 where unknown)."""

    features: npt.NDArray[np.float32]
    paths: list[str]
    labels: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Parts:
    """All images of a file, in parts that are read anew each time; `longest` path in characters."""

    read: Callable[[], Iterator[Part]]
    number: int
    width: int
    longest: int
    classes: tuple[str, ...]


def write_npz(path: Path, parts: Parts) -> None:
    """Arrays `features`, `paths`, `labels` and `classes`, as numpy.load reads them without pickle.

    The parts are read three times, once for each array. Bytes depend on the arrays alone, not on when it is written.
    """
    with zipfile.ZipFile(path, "w") as archive:
        shape = (parts.number, parts.width)
        # Features do not compress, and stored as they are other tools can map them; paths shrink to a hundredth.
        _write_array(archive, "features", np.dtype("<f4"), shape, (each.features for each in parts.read()))
        text = np.dtype(f"<U{max(1, parts.longest)}")
        paths = (np.array(each.paths, dtype=text) for each in parts.read())
        _write_array(archive, "paths", text, (parts.number,), paths, zipfile.ZIP_DEFLATED)
        labels = (each.labels for each in parts.read())
        _write_array(archive, "labels", np.dtype("<i8"), (parts.number,), labels, zipfile.ZIP_DEFLATED)
        classes = np.array(parts.classes, dtype=np.str_)
        _write_array(archive, "classes", classes.dtype, classes.shape, iter([classes]))


def _write_array(
    archive: zipfile.ZipFile,
    name: str,
    kind: np.dtype[Any],
    shape: tuple[int, ...],
    pieces: Iterator[npt.NDArray[Any]],
    compression: int = zipfile.ZIP_STORED,
) -> None:
    entry = zipfile.ZipInfo(f"{name}.npy")
    entry.compress_type = compression
    with archive.open(entry, "w", force_zip64=True) as file:
        header = {"descr": np.lib.format.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        for piece in pieces:
            file.write(np.ascontiguousarray(piece, dtype=kind).tobytes())


def pyarrow() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet; UserError where they are not installed."""
    try:
        return importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    except ImportError:
        raise UserError(PARQUET_MISSING) from None


def write_parquet(path: Path, parts: Parts) -> None:
    """Columns path, label (-1 where unknown), class (null there) and vector (fixed-size list), a row group a part.

    Parquet's text is UTF-8: bytes of a path that are none are escaped.
    """
    arrow, parquet = pyarrow()
    schema = arrow.schema(
        {
            "path": arrow.string(),
            "label": arrow.int64(),
            "class": arrow.string(),
            "vector": arrow.list_(arrow.float32(), parts.width),
        }
    )
    with parquet.ParquetWriter(path, schema, use_dictionary=["class"]) as writer:
        for part in parts.read():
            vectors = arrow.FixedSizeListArray.from_arrays(arrow.array(part.features.ravel()), parts.width)
            names = [parts.classes[label] if label >= 0 else None for label in part.labels]
            paths = [tsv_field(each) if not each.isprintable() else each for each in part.paths]
            columns = [paths, part.labels, names, vectors]
            writer.write_table(
                arrow.table([arrow.array(each) if each is not vectors else each for each in columns], schema=schema)
            )
