"""Runs benchmarks and writes their sections of benchmarks/results.md; the sections of the others stay as they are.

Command: make bench (the short ones), or python benchmarks/write_results.py step knn … (those that are named; step,
step_parts, knn and logistic take five minutes or more each)
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from patchmix.environment import environment, limit_spinning
from patchmix.files import write_text

RESULTS = Path(__file__).with_name("results.md")
SHORT = ("mixing_share", "class_token", "waiting", "startup", "scaling", "input_pipeline", "estimate")
LONG = ("step", "step_parts", "knn", "logistic")


def introduction() -> str:
    """The head of the page: what it was measured on."""
    found = environment()
    hardware, packages = found["hardware"], found["packages"]
    return (
        "# Benchmarks\n\n"
        f"`make bench` on {hardware['cpu']}, {hardware['usable_cores']} usable cores, {hardware['threads']} threads, "
        f"{hardware['memory_gib']} GiB; Python {found['python']}, torch {packages['torch']}, timm {packages['timm']}.\n"
    )


def sections(page: str) -> dict[str, str]:
    """The sections of a page by their headings (`## …`)."""
    parts = page.split("\n## ")[1:]
    return {part.partition("\n")[0]: f"## {part.strip()}\n" for part in parts}


def main(names: Sequence[str]) -> None:
    """Show each line when it is known; write a section when it is whole."""
    unknown = [name for name in names if name not in (*SHORT, *LONG)]
    if unknown:
        sys.exit(f"there is no benchmark {', '.join(unknown)}: {', '.join((*SHORT, *LONG))}")
    page = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
    found = sections(page)
    for name in names or SHORT:
        written = []
        for line in importlib.import_module(name).lines():
            print(line, flush=True)
            written.append(line)
        found[written[0].removeprefix("## ")] = "\n".join(written) + "\n"
        write_text(RESULTS, "\n".join([introduction(), *found.values()]))


if __name__ == "__main__":
    limit_spinning()  # before torch is imported: a benchmark's module is, when its turn comes
    main(sys.argv[1:])
