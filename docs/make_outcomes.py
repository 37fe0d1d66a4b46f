"""Print what becomes of each file of a folder with a MANIFEST.tsv, as the table in data.md.

Command: python docs/make_outcomes.py ../shared/data/broken-images.zip
"""

from __future__ import annotations

import csv
import sys
import tempfile
import zipfile
from pathlib import Path

from patchmix.data.images import UnreadableImage, read_header, read_image
from patchmix.data.listing import list_images


def outcome(path: Path, listed: bool) -> str:
    """What training takes from a file, in words."""
    if not listed:
        return "ignored"
    try:
        header, image = read_header(path), read_image(path, 3)
    except UnreadableImage as failure:
        return f"skipped: {failure.why}"
    return f"read: {header.kind} ({header.mode}), {image.shape[2]} × {image.shape[1]}"


def main() -> None:
    with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(sys.argv[1]) as packed:
        packed.extractall(name)
        root = next(Path(name).glob("*/MANIFEST.tsv")).parent
        paths = list_images(root).paths
        listed = {paths[index] for index in range(len(paths))}
        print("| file | what it is | wanted | what becomes of it |\n|---|---|---|---|")
        with (root / "MANIFEST.tsv").open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
                became = outcome(root / row["file"], row["file"] in listed)
                print(f"| `{row['file']}` | {row['why']} | {row['expected']} | {became} |")


if __name__ == "__main__":
    main()
