"""Section: files that could not be read, with the reasons."""

from __future__ import annotations

from patchmix.reporting.run_files import RunFiles
from patchmix.reporting.section import Section

SHOWN = 20
MOST = 1000
"""Files on the page; a folder full of damaged files is not to make it a large one."""


def section(run: RunFiles) -> Section:
    """The first files openly, more of them folded, the rest by name of the file that has them all."""
    context = {
        "first": run.skipped[:SHOWN],
        "more": run.skipped[SHOWN:MOST],
        "num_skipped": len(run.skipped),
        "num_left": max(0, len(run.skipped) - MOST),
        "directory": str(run.directory),
        "begun": bool(run.training),
    }
    return Section("skipped", "Files left out", context)
