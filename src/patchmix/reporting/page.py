"""Puts the sections together into one page and writes it."""

from __future__ import annotations

import errno
import functools
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from rich.console import Console

import patchmix
from patchmix.errors import RunError, UserError
from patchmix.files import replacing
from patchmix.reporting import curves, facts, measured, neighbours, next_steps, settings, skipped, verdict, views
from patchmix.reporting.run_files import RunFiles, read_run
from patchmix.reporting.section import Section

SECTIONS: tuple[Callable[[RunFiles], Section], ...] = (
    verdict.section,
    measured.section,
    neighbours.section,
    curves.section,
    views.section,
    facts.section,
    settings.section,
    skipped.section,
    next_steps.section,
)
"""What the page shows, in this order. A new section is a module with `section(run)`, and a template."""


def report(run_directory: str | Path, console: Console | None = None) -> Path:
    """Write RUN/report/index.html, a page that needs no other file and no network; returns its path.

    What the run does not have yet is said on the page. `console` is told where the page lies.

    Raises:
        UserError: not a run directory, or the page cannot be written there.
    """
    run = read_run(Path(run_directory))
    path = run.directory / "report" / "index.html"
    _write(path, render(run))
    if console is not None:
        console.print(f"The report is {path}", markup=False, highlight=False, soft_wrap=True)
    return path


def render(run: RunFiles) -> str:
    """The page as HTML."""
    sections = [section(run) for section in SECTIONS]
    return (
        _templates()
        .get_template("page.html")
        .render(
            title=run.directory.resolve().name,
            summary=facts.summary(run),
            sections=[(each, render_section(each)) for each in sections],
            written=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
            version=patchmix.__version__,
        )
    )


def render_section(section: Section) -> Markup:
    """One section as HTML, without its heading."""
    return Markup(_templates().get_template(section.template).render(section.context))


@functools.cache
def _templates() -> Environment:
    templates = Environment(
        loader=PackageLoader("patchmix.reporting"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters["number"] = _number
    return templates


def _number(value: float, digits: int = 0) -> str:
    return f"{value:,.{digits}f}"


def _write(path: Path, text: str) -> None:
    try:
        with replacing(path) as temporary:
            # replace: names of files need not be text in any encoding.
            temporary.write_text(text, encoding="utf-8", errors="replace")
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise RunError(f"the report {path} cannot be written: the disk is full; make room, then again") from error
        raise UserError(f"the report {path} cannot be written: {error.strerror or error}") from error
