"""Waiting threads as the command has them (decision 0020), for scripts that import torch themselves."""

from __future__ import annotations

import os
import sys

from patchmix.environment import limit_spinning


def begin_again() -> None:
    """Begin the script again with that setting: it must be there before torch is imported. The second time: nothing."""
    before = dict(os.environ)
    limit_spinning()
    if dict(os.environ) != before:
        os.execv(sys.executable, [sys.executable, *sys.argv])
