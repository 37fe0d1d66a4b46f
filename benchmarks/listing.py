"""What a folder of a million images costs before the first step: seconds, memory, memory of each reading process.

Makes trees of hard-linked small files in a temporary folder, lists each and opens it as a data set, in a process of its
own, and prints a table. The disk cache is warm: on a cold or distant disk the file system decides. "Peak" is what the
process grew by while it listed, "kept" what is left of that; "per worker" is the private memory that a forked process
gains by asking for every path, which a Python list of the same paths costs each of them too.

Command: python benchmarks/listing.py [--names 1000000]
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from PIL import Image

LINKS = 10_000  # to one file; file systems allow some tens of thousands
LAYOUTS = {  # folders, suffix of the images, suffix of a file beside each image
    "1,000 class folders": (1000, ".jpg", ""),
    "one folder": (1, ".jpg", ""),
    "1,000 folders, no suffix": (1000, "", ""),
    "1,000 folders, .txt beside": (1000, ".jpg", ".txt"),
}


def make_tree(root: Path, names: int, folders: int, suffix: str, beside: str) -> None:
    """`names` files of names such as n0012/image_00012345.jpg; half of them images where others lie beside."""
    for number in range(names):
        folder = root / f"n{number * folders // names:04}"
        if number % LINKS == 0:
            image, text = root / f".image{number}", root / f".text{number}"
            Image.new("RGB", (8, 8)).save(image, format="jpeg")
            text.write_text("a label\n")
        folder.mkdir(exist_ok=True)
        other = bool(beside) and number % 2 == 1
        name = f"image_{number - other:08}{beside if other else suffix}"
        os.link(text if other else image, folder / name)


def resident() -> tuple[float, float]:
    """MB that this process has in memory, and of these the private ones."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return sizes["Rss"] / 1024, (sizes["Private_Dirty"] + sizes["Private_Clean"]) / 1024


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child_growth(work: Callable[[], object]) -> float:
    """MB of private memory that a forked process gains by calling `work`."""
    reading, writing = os.pipe()
    if os.fork() == 0:
        before = resident()[1]
        work()
        os.write(writing, str(resident()[1] - before).encode())
        os._exit(0)
    os.wait()
    return float(os.read(reading, 100))


def measure(root: str) -> str:
    """In a process of its own: one row of the table."""
    from patchmix.config import DataConfig
    from patchmix.data.datasets import open_dataset
    from patchmix.data.folder import list_images

    list_images(Path(__file__).parent.parent / "docs")  # what is imported and allocated at the first call
    before, start = resident()[0], time.perf_counter()
    listing = list_images(root)
    seconds, grown, kept = time.perf_counter() - start, peak() - before, resident()[0] - before
    del listing
    start = time.perf_counter()
    source = open_dataset(DataConfig(name="folder", root=root), "train")
    opened = time.perf_counter() - start
    packed = child_growth(lambda: sum(len(source.path(index)) for index in range(len(source))))
    strings = [source.path(index) for index in range(len(source))]
    listed = child_growth(lambda: sum(len(each) for each in strings))
    return (
        f"{len(source):,} | {seconds:.1f} s | {opened:.1f} s | {grown:.0f} MB | {kept:.0f} MB | "
        f"{packed:.0f} MB | {listed:.0f} MB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--names", type=int, default=1_000_000, help="files in the tree")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.measure:
        print(measure(given.measure))
        return
    print(f"{given.names:,} files, Python {sys.version.split()[0]}, {os.cpu_count()} cores\n")
    print("| tree | images | listing | opening | peak | kept | per worker | per worker, Python list |")
    print("|---|---|---|---|---|---|---|---|")
    for layout, (folders, suffix, beside) in LAYOUTS.items():
        with tempfile.TemporaryDirectory() as root:
            make_tree(Path(root), given.names, folders, suffix, beside)
            line = [sys.executable, __file__, "--measure", root]
            row = subprocess.run(line, capture_output=True, text=True, check=True).stdout.strip()
        print(f"| {layout} | {row} |", flush=True)


if __name__ == "__main__":
    main()
