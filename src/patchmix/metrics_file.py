"""metrics.jsonl: one JSON object a line, appended, truncated on resume, read for the report. No torch.

A training record has "step" and "loss", an evaluation "kind": "evaluation". JSON has no NaN: non-finite
numbers are the strings "nan", "inf" and "-inf", so that null keeps its meaning ("this run has none").
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from io import FileIO
from pathlib import Path
from typing import Any

from patchmix.errors import RunError
from patchmix.files import replacing

Record = dict[str, Any]

METRICS_FILE = "metrics.jsonl"
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def open_metrics(path: Path) -> FileIO:
    """metrics.jsonl for appending, unbuffered: what is written outlives the process."""
    return FileIO(path, "a")


def append_metrics(file: FileIO, records: Iterable[Record]) -> None:
    """Append records. Raises OSError where they could not be written whole."""
    rest = memoryview("".join(_line(record) for record in records).encode())
    while rest:
        rest = rest[file.write(rest) :]


def truncate_metrics(path: Path, step: int) -> int:
    """Drop the records of later steps, a torn last line and anything else that is no record; how many lines.

    Afterwards a run that goes on from `step` logs every step once, whenever it was killed. The file is
    replaced as a whole, or not touched where nothing is to be dropped.

    Raises:
        RunError: the file cannot be written.
    """
    path = Path(path)
    if not path.exists():
        return 0
    lines = path.read_bytes().split(b"\n")
    torn = lines[-1] != b""
    kept = [line for line in lines if (record := _parse(line)) is not None and record["step"] <= step]
    dropped = sum(1 for line in lines if line.strip()) - len(kept)
    if dropped == 0 and not torn:
        return 0
    try:
        with replacing(path) as temporary:
            temporary.write_bytes(b"".join(line + b"\n" for line in kept))
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror or error}; make room, then --resume again") from error
    return dropped


def read_metrics(path: Path) -> tuple[list[Record], list[Record]]:
    """(training records, evaluation records), oldest first; lines that are no record are left out.

    Non-finite numbers come back as floats. A file that is not there has no records.
    """
    training: list[Record] = []
    evaluations: list[Record] = []
    if Path(path).exists():
        with Path(path).open("rb") as file:
            for line in file:
                record = _parse(line)
                if record is not None:
                    (evaluations if record.get("kind") == "evaluation" else training).append(record)
    return training, evaluations


def _parse(line: bytes) -> Record | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    if not isinstance(record, dict) or not isinstance(record.get("step"), int):
        return None
    return {name: _NON_FINITE.get(value, value) if isinstance(value, str) else value for name, value in record.items()}


def _line(record: Record) -> str:
    plain = {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in record.items()
    }
    return json.dumps(plain, allow_nan=False) + "\n"
