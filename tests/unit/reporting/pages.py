"""The report as its reader sees it."""

from __future__ import annotations

import html
import re
from collections.abc import Callable
from pathlib import Path

from patchmix.reporting import report
from patchmix.reporting.page import render_section
from patchmix.reporting.run_files import RunFiles, read_run
from patchmix.reporting.section import Section


def page(run: Path) -> str:
    """The HTML of a run's report, made now."""
    path = report(run)
    assert path == run / "report" / "index.html"
    return path.read_text(encoding="utf-8")


def section(make: Callable[[RunFiles], Section], run: Path) -> str:
    """One section of a run's page, as HTML."""
    return render_section(make(read_run(run)))


def words(text: str) -> str:
    """What a reader sees: no tags, no style, single spaces."""
    text = re.sub(r"<(style|svg)\b.*?</\1>", " ", text, flags=re.DOTALL)
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())
