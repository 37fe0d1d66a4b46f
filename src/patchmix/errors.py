"""Errors that a user can read: one line that says what is wrong, where, and how to mend it."""


class UserError(Exception):
    """Something the user can mend by other options, paths or input: printed as one line, exit code 2."""


class RunError(Exception):
    """A run that could not go on (non-finite loss, out of memory, disk full): one line, exit code 1."""


class SaidElsewhereError(Exception):
    """Another process of this run has said what is wrong; this one only ends, with the same exit code."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"said by another process; exit code {exit_code}")
        self.exit_code = exit_code
