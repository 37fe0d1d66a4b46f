"""The processes that read images: how many there are, how they start, and which signals reach them."""

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

from patchmix.config import Config
from patchmix.data.crops import SMALL
from patchmix.data.datasets import ImageSource, view_size
from patchmix.environment import usable_cores

MOST_WORKERS, MOST_FOR_SMALL = 16, 4

_STOP_SIGNALS = {signal.SIGINT, signal.SIGTERM}


def choose_num_workers(source: ImageSource, config: Config) -> int:
    """data.num_workers, else by the work and the cores that this process may use.

    None for digits in memory, whose views take a few milliseconds a batch; else one for each core but one, at
    least one and at most 16, shared among the processes of this machine. At most four where images and views are small:
    together they make more than 20,000 images a second, and each may keep the images in its memory.
    """
    if config.data.num_workers is not None:
        return config.data.num_workers
    if source.in_memory and config.views.kind == "digits":
        return 0
    sizes = [*(source.image_size or (SMALL + 1,)), *view_size(source, config.data)]
    most = MOST_WORKERS if max(sizes) > SMALL else MOST_FOR_SMALL
    return max(1, min(most, usable_cores() // config.run.num_devices - 1))


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
