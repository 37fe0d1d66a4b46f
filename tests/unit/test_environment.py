"""What is recorded about the machine, and which of its parts are used."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from patchmix import environment as module
from patchmix.environment import (
    SPINS,
    environment,
    limit_spinning,
    resolve_device,
    resolve_precision,
    set_threads,
    usable_cores,
)
from patchmix.errors import UserError


@pytest.fixture(autouse=True)
def _keep_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_record_is_plain_json_with_versions_and_hardware() -> None:
    record = json.loads(json.dumps(environment(), allow_nan=False))
    assert record["packages"]["torch"]
    assert record["hardware"]["usable_cores"] == usable_cores() >= 1
    assert set(record) >= {"python", "platform", "packages", "hardware", "git"}


def test_git_is_recorded_for_a_tracked_file_only(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *arguments], check=True, capture_output=True)

    tracked, other = tmp_path / "tracked.py", tmp_path / "other.py"
    tracked.write_text("")
    other.write_text("")
    git("init")
    git("add", "tracked.py")
    git("commit", "-m", "one")
    assert module._git(other) is None  # a virtual environment inside somebody's repository
    record = module._git(tracked)
    assert record is not None
    assert len(record["commit"]) == 40
    assert record["modified"] is False
    tracked.write_text("changed")
    assert module._git(tracked)["modified"] is True


def test_threads_follow_the_option_then_the_environment_then_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert (set_threads(2), torch.get_num_threads()) == (2, 2)
    assert (set_threads(None), torch.get_num_threads()) == (1, 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "")
    assert set_threads(None) == usable_cores()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_cuda_without_a_device_is_refused_and_auto_takes_the_cpu() -> None:
    assert resolve_device("auto").type == "cpu"
    with pytest.raises(UserError, match=r"run\.device = 'cuda'.*--run\.device cpu"):
        resolve_device("cuda")


def test_fp16_is_never_chosen_by_itself() -> None:
    assert resolve_precision("auto", torch.device("cpu")) == "32-true"
    assert resolve_precision("auto", torch.device("cpu"), training=True) in ("32-true", "bf16-mixed")
    assert resolve_precision("auto", torch.device("cuda")) == "bf16-mixed"
    assert resolve_precision("16-mixed", torch.device("cuda")) == "16-mixed"


def test_waiting_threads_let_go_soon_unless_the_user_says_otherwise(monkeypatch) -> None:
    for name in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY"):
        monkeypatch.delenv(name, raising=False)
    limit_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == SPINS
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    limit_spinning()
    assert os.environ["GOMP_SPINCOUNT"] == "7"
    monkeypatch.delenv("GOMP_SPINCOUNT")
    monkeypatch.setenv("OMP_WAIT_POLICY", "active")
    limit_spinning()
    assert "GOMP_SPINCOUNT" not in os.environ


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [({"avx512_bf16": True}, "bf16-mixed"), ({"amx_bf16": True}, "bf16-mixed"), ({"avx512_f": True}, "32-true")],
)
def test_bfloat16_is_chosen_for_training_on_cpus_that_multiply_in_it(
    capabilities: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert resolve_precision("auto", torch.device("cpu"), training=True) == expected
    assert resolve_precision("auto", torch.device("cpu")) == "32-true"  # evaluations are compared between machines


@pytest.mark.skipif(not Path("/proc/self/cgroup").exists(), reason="containers limit processes on Linux")
def test_cores_are_those_that_a_process_may_use() -> None:
    assert 1 <= usable_cores() <= len(os.sched_getaffinity(0))
