"""Runs all benchmarks and writes benchmarks/results.md. Command: make bench"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import class_token
import knn
import logistic
import mixing_share
import waiting
from patchmix.environment import environment
from patchmix.files import write_text

RESULTS = Path(__file__).with_name("results.md")


def lines() -> Iterator[str]:
    """The whole page, as it is measured."""
    found = environment()
    hardware, packages = found["hardware"], found["packages"]
    yield "# Benchmarks"
    yield ""
    yield (
        f"`make bench` on {hardware['cpu']}, {hardware['usable_cores']} usable cores, {hardware['threads']} threads, "
        f"{hardware['memory_gib']} GiB; Python {found['python']}, torch {packages['torch']}, timm {packages['timm']}."
    )
    for benchmark in (mixing_share, class_token, waiting, knn, logistic):
        yield ""
        yield from benchmark.lines()


def main() -> None:
    """Show each line when it is known; write them when all are."""
    written = []
    for line in lines():
        print(line, flush=True)
        written.append(line)
    write_text(RESULTS, "\n".join(written) + "\n")


if __name__ == "__main__":
    main()
