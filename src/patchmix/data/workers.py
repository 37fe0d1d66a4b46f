"""The processes that read images: how they start, and which signals reach them."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader

_STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}


def start_loading(loader: DataLoader[Any]) -> Iterator[Any]:
    """The loader's iterator, whose workers start here; `start_worker` must be the loader's worker_init_fn."""
    with warnings.catch_warnings(), _signals_held():
        # Of more workers than cores: who asks for them may have them. Python 3.12: of forking beside torch's threads.
        warnings.simplefilter("ignore")
        return iter(loader)


def start_worker(worker: int) -> None:
    """One thread, and an end only when the main process says so.

    Ctrl-C and a batch system's SIGTERM reach every process, but the main one finishes its step and saves, and
    needs its workers for that. They note who sent a SIGTERM, and end at once when it was the main process.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS
        signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
        threading.Thread(target=_end_with_parent, args=(os.getppid(),), daemon=True).start()
    elif hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _STOP_SIGNALS)


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Hold back signals to stop, also in processes that start meanwhile: these never see them unasked."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _STOP_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _end_with_parent(parent: int) -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
        pass
    os._exit(0)
