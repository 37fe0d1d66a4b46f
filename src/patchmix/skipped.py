"""skipped.tsv: every training file that could not be read, once, with the reason."""

from __future__ import annotations

from pathlib import Path

from patchmix.data.datasets import ImageSource
from patchmix.data.loading import Batch, UnreadableLimit
from patchmix.errors import RunError

FILE = "skipped.tsv"


class SkippedFiles:
    """Lists unreadable files in the run's skipped.tsv (path, tab, why), each once, also after a resume."""

    def __init__(self, run_directory: Path, source: ImageSource, max_unreadable: float) -> None:
        self.path = run_directory / FILE
        known: list[str] = []
        if self.path.exists():
            lines = self.path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
            known = [line.split("\t", 1)[0] for line in lines]
        self.limit = UnreadableLimit(source, max_unreadable, known)

    def add(self, batch: Batch) -> None:
        """Take note of what a batch had to skip.

        Raises:
            UserError: of at least 200 files tried, more than data.max_unreadable could not be read.
        """
        new = self.limit.add(batch)
        if not new:
            return
        lines = [f"{_field(skipped.path)}\t{_field(skipped.why)}\n" for skipped in new]
        try:
            with self.path.open("a", encoding="utf-8", errors="surrogateescape") as file:
                file.writelines(lines)
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror}") from error
        self.limit.check()


def _field(text: str) -> str:
    return text.replace("\t", " ").replace("\n", " ")
