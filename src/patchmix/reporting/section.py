"""What a section of the report is: a heading, a template, and what fills it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Section:
    """One part of the page; `templates/<name>.html` sees `context` and nothing else."""

    name: str
    title: str
    context: dict[str, Any] = field(default_factory=dict)

    @property
    def template(self) -> str:
        """File name of the template."""
        return f"{self.name}.html"
