"""skipped.tsv: every training file that could not be read, once, with the reason."""

from __future__ import annotations

from pathlib import Path

from patchmix import distributed
from patchmix.data.batches import Skipped
from patchmix.data.sources import ImageSource
from patchmix.data.unreadable import Tried, UnreadableLimit, tsv_field
from patchmix.errors import RunError, SaidElsewhereError, UserError

FILE = "skipped.tsv"


class SkippedFiles:
    """Lists unreadable files in the run's skipped.tsv (path, tab, why), each once, also after a resume.

    Every process `add`s its batches; once one of them has something new, all call `share`, and the first writes.
    """

    def __init__(self, run_directory: Path, source: ImageSource, max_unreadable: float) -> None:
        self.path, self.source = run_directory / FILE, source
        known = [path for path, _ in self.listed()]
        self.limit = UnreadableLimit(source, max_unreadable, known, run_directory)
        self._new: list[Skipped] = []

    def add(self, batch: Tried) -> bool:
        """Take note of what a batch had to skip; True where there is something to share."""
        self._new += self.limit.add(batch)
        return bool(self._new)

    def note(self, batch: Tried) -> None:
        """`add` and `share` for work in one process; files that an earlier start has listed count as well.

        Raises UserError as `share` does, and where not one image of a class can be read.
        """
        before = self.limit.num_unreadable
        if self.add(batch):
            self.share()
        if self.limit.num_unreadable > before:
            self.limit.check()
            self.limit.check_classes(self.source)

    def share(self) -> None:
        """List what any process found; all processes must call it.

        Raises:
            UserError: of at least 200 files tried, more than data.max_unreadable could not be read.
        """
        processes = distributed.gather_objects(self._new)
        new = list(self._new)
        for rank, found in enumerate(processes):
            if rank != distributed.rank():
                new += self.limit.mark(found)
        self._new = []
        error: UserError | None = None
        if distributed.rank() == 0:
            self._write(new)
            try:
                self.limit.check(len(processes))
            except UserError as caught:
                error = caught
        too_many = distributed.from_first(error is not None)
        if error is not None:
            raise error
        if too_many:
            raise SaidElsewhereError(2)

    def listed(self) -> list[tuple[str, str]]:
        """(path, why) of every file in skipped.tsv, of earlier starts too."""
        if not self.path.exists():
            return []
        lines = self.path.read_text(encoding="utf-8", errors="replace").splitlines()
        return [(path, why) for path, _, why in (line.partition("\t") for line in lines)]

    def _write(self, skipped: list[Skipped]) -> None:
        if not skipped:
            return
        lines = [f"{tsv_field(each.path)}\t{tsv_field(each.why)}\n" for each in skipped]
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(lines)
        except OSError as error:
            raise RunError(f"cannot write {self.path}: {error.strerror}") from error
