"""`python -m patchmix.comparing.child PARENT WORD …` is `python -m patchmix WORD …`, told to stop when PARENT ends.

A comparison's processes have sessions of their own, so nothing would reach them if it were killed (SIGKILL). On Linux
the kernel sends them SIGTERM then, on which they save and end; elsewhere they go on to their end. A program of its own
rather than a preexec_fn, which may deadlock beside threads.
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def end_with(parent: int) -> None:
    """Get SIGTERM when the process `parent` ends, which has started us. It may have ended already."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGTERM)


if __name__ == "__main__":
    end_with(int(sys.argv.pop(1)))
    # As the module that it is, so that ranks which it starts are started as that, and not as this one.
    runpy.run_module("patchmix", run_name="__main__", alter_sys=True)
