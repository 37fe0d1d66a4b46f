"""Errors that a user can read: one line that says what is wrong, where, and how to mend it."""


class UserError(Exception):
    """Something the user can mend by other options, paths or input: printed as one line, exit code 2."""


class RunError(Exception):
    """A run that could not go on (non-finite loss, out of memory, disk full): one line, exit code 1."""
