"""Runs at once share the cores, unless their threads are given."""

from __future__ import annotations

import pytest

from patchmix.comparing.sharing import at_once_here, places, threads_each
from patchmix.config import RunConfig
from patchmix.environment import usable_cores

CPU = RunConfig(device="cpu")


def test_cores_are_shared_out() -> None:
    cores = usable_cores()
    assert at_once_here(CPU, None) == max(1, cores // 2)
    assert at_once_here(CPU, 7) == 7
    assert threads_each(CPU, 1) == cores
    assert threads_each(CPU, 10 * cores) == 1
    assert places(CPU, cores) == [{"OMP_NUM_THREADS": "1"}] * cores


@pytest.mark.parametrize("at_once", [1, 3])
def test_threads_that_are_given_are_kept(at_once: int) -> None:
    run = RunConfig(device="cpu", num_threads=5)
    assert places(run, at_once) == [{"OMP_NUM_THREADS": "5"}] * at_once
