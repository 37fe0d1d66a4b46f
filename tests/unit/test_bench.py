"""`patchmix bench`: what it writes, what it leaves behind, what it counts."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.runs import SMALL, command, stop
from torch.nn.functional import scaled_dot_product_attention

from patchmix.benching import plain
from patchmix.benching.command import bench
from patchmix.benching.memory import growth
from patchmix.benching.products import ProductLimit, counted_operations
from patchmix.benching.request import request
from patchmix.benching.steps import PARTS, in_order, take_turns

CPU = torch.device("cpu")
TINY: dict[str, Any] = {**SMALL, "optim.batch_size": 8, "method.momentum": 0.9}
METRICS = {
    "step_seconds",
    "plain_step_seconds",
    "images_per_second",
    "flops_share_of_limit",
    "peak_memory_mb",
    "plain_peak_memory_mb",
    "worker_ms_per_sample",
    "plain_worker_ms_per_sample",
}


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this test's temporary files go, so that what is left behind shows."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    return folder


def test_the_command_measures_and_leaves_only_its_file(tmp_path: Path, temporary: Path) -> None:
    file = tmp_path / "new" / "bench.json"
    line = command("bench", "--recipe", "demo", "--output", file, **TINY)
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    result = json.loads(file.read_text(encoding="utf-8"))
    assert set(result["metrics"]) >= METRICS
    # Digits have no plain pipeline, and are in memory to begin with; everything else is measured.
    absent = [name for name, value in result["metrics"].items() if value is None]
    assert absent == ["worker_kept_ms_per_sample", "plain_worker_ms_per_sample"]
    assert result["not_measured"] == {
        "plain_step": None,
        "plain_worker": "its views are those of photographs, not of digits",
    }
    assert "The plain input pipeline was not measured: its views are those of photographs" in done.stdout
    assert all(value > 0 for value in result["metrics"].values() if value is not None)
    assert set(result["parts"]) <= set(PARTS)
    assert {"data wait", "momentum", "mixing", "forward view1", "backward", "optimiser"} <= set(result["parts"])
    assert math.isclose(sum(part["share"] for part in result["parts"].values()), 1)
    assert {name: len(times) for name, times in result["samples"].items()} == {
        "consecutive_step_seconds": 5,
        "step_seconds": 5,
        "plain_step_seconds": 5,
    }
    assert result["data"] == {"name": "mnist5k", "synthetic": False, "num_images": 96}
    assert result["settings"]["recipe"] == "demo"
    assert result["settings"]["optim"]["batch_size"] == 8
    whole = sum(part["seconds"] for part in result["parts"].values())
    metrics = result["metrics"]
    assert math.isclose(metrics["images_per_second"], 8 / whole)
    assert math.isclose(metrics["data_wait_share"], result["parts"]["data wait"]["share"])
    # What is said in the end is what the table of the parts and the file have.
    said = (
        f"In training {8 / whole:,.0f} images/s; {100 * metrics['data_wait_share']:.1f} % of the time waiting for data."
    )
    assert said in done.stdout
    assert f"all of them  {1000 * whole:.2f}" in " ".join(done.stdout.split()).replace("all of them ", "all of them  ")
    for name in ("forward view1", "to go …", "share of the matrix-product limit", "peak memory", "decode", str(file)):
        assert name in done.stdout
    assert sorted(each.name for each in tmp_path.iterdir()) == ["new", "temporary"]
    assert list(temporary.iterdir()) == []


def run_bench(output: Path, **options: Any) -> tuple[dict[str, Any], str]:
    text = io.StringIO()
    asked = request("cifar10-cpu", None, {**TINY, "output": str(output), **options})
    return bench(asked, Console(file=text, width=40)), text.getvalue()


PHOTOS: dict[str, Any] = {
    "data.root": None,
    "data.limit": None,
    "data.num_workers": 1,
    "views.num_local_crops": 1,
    "views.local_size": 16,
    "method.momentum": None,
}


@pytest.mark.slow
def test_absent_data_are_replaced_by_synthetic_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result, text = run_bench(tmp_path / "bench.json", **PHOTOS)
    assert "cifar10 is not on this machine: synthetic images take its place." in text
    assert result["data"] == {"name": "cifar10", "synthetic": True, "num_images": 16}
    # CIFAR-10 would be in memory, so nothing is decoded and kept here either.
    assert [name for name, value in result["metrics"].items() if value is None] == ["worker_kept_ms_per_sample"]
    assert all(value > 0 for value in result["metrics"].values() if value is not None)
    assert {"forward locals", "forward mixed_locals", "views"} <= set(result["parts"])
    assert [each.name for each in tmp_path.iterdir()] == ["bench.json"]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an installed package: there is no checkout, and so no plain version."""
    monkeypatch.setattr(plain, "FOLDER", tmp_path / "site-packages")
    for name in ("step", "views"):
        monkeypatch.delitem(sys.modules, f"patchmix_plain_{name}", raising=False)


@pytest.mark.slow
@pytest.mark.usefixtures("installed")
def test_without_the_checkout_the_plain_version_is_not_measured(tmp_path: Path) -> None:
    file = tmp_path / "bench.json"
    file.write_text("an older one", encoding="utf-8")
    result, text = run_bench(file, **PHOTOS)
    assert "The plain step was not measured: benchmarks/plain is not here" in text
    absent = {name for name, value in result["metrics"].items() if value is None}
    assert absent >= {"plain_step_seconds", "plain_peak_memory_mb", "plain_worker_ms_per_sample"}
    assert all(name.startswith("plain_") for name in absent - {"worker_kept_ms_per_sample"})
    assert set(result["not_measured"].values()) == {plain.NOT_HERE}
    assert f"The plain input pipeline was not measured: {plain.NOT_HERE}." in text
    assert json.loads(file.read_text(encoding="utf-8")) == json.loads(json.dumps(result))


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_it_and_leaves_nothing(
    number: signal.Signals, code: int, tmp_path: Path, temporary: Path
) -> None:
    line = command("bench", "--recipe", "demo", "--output", tmp_path / "bench.json", "--steps", "100000", **TINY)
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    deadline = time.monotonic() + 120
    while not list(temporary.glob("*/run/config.yaml")) and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)
    # Once it speaks its imports are behind it: some of them swallow a Ctrl-C, and the command would go on.
    assert process.stdout is not None
    assert process.stdout.readline().startswith("demo: ")
    found, _, err = stop(process, number)
    assert found == code
    assert err == ("patchmix: stopped\n" if code == 130 else "")
    assert list(temporary.iterdir()) == []
    assert [each.name for each in tmp_path.iterdir()] == ["temporary"]


class Leaving(io.StringIO):
    """A reader that leaves when the tables come."""

    def write(self, text: str) -> int:
        if "Parts of a step" in text:
            raise OSError("no space left on that terminal")
        return super().write(text)


@pytest.mark.slow
@pytest.mark.usefixtures("installed")  # it takes less time so
def test_the_file_is_written_before_the_tables(tmp_path: Path) -> None:
    asked = request("demo", None, {**TINY, "output": str(tmp_path / "bench.json")})
    with pytest.raises(OSError, match="that terminal"):
        bench(asked, Console(file=Leaving(), width=40))
    assert json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["metrics"]["step_seconds"] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operations_of_products_and_attention_are_counted(dtype: torch.dtype) -> None:
    batch, heads, tokens, size = 2, 3, 5, 8
    linear = torch.nn.Linear(16, 4, bias=False)
    rows = torch.randn(10, 16, requires_grad=True)
    query = torch.randn(batch, heads, tokens, size, requires_grad=True)

    def product() -> None:
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            linear(rows).sum().backward()

    def attention() -> None:
        scaled_dot_product_attention(query, query, query).sum().backward()

    assert counted_operations(product) == 3 * 2 * 10 * 16 * 4
    # Two products forward; backward the scores again, then two for each of them.
    assert counted_operations(attention) == 7 * 2 * batch * heads * tokens * tokens * size


def test_the_limit_is_the_best_sizes_median() -> None:
    limit = ProductLimit(CPU, "32-true")
    limit.sample()
    assert limit.per_second > 0
    limit.seconds = {10: [1.0, 2.0, 50.0], 20: [1.0, 100.0, 100.0]}
    assert limit.per_second == 2 * 10**3 / 2


def test_turns_are_taken_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    functions = {name: lambda name=name: calls.append(name) for name in ("a", "b")}
    seconds = take_turns(functions, 2, CPU, [lambda: calls.append("-")])
    assert "".join(calls) == "-a-b" * 3
    assert {name: len(each) for name, each in seconds.items()} == {"a": 2, "b": 2}


def test_parts_are_listed_as_they_follow_each_other() -> None:
    found = in_order(dict.fromkeys(["something new", "backward", "loss", "data wait", "forward view2", "momentum"]))
    assert found == ["data wait", "momentum", "forward view2", "loss", "backward", "something new"]


@pytest.mark.skipif(not os.path.exists("/proc/self/clear_refs"), reason="needs Linux's high-water mark")
def test_growth_is_the_most_that_a_call_takes_at_once() -> None:
    megabyte = 2**20

    def allocate() -> None:
        for _ in range(3):
            torch.ones(64 * megabyte, dtype=torch.uint8).max()

    torch.ones(256 * megabyte, dtype=torch.uint8).max()  # an earlier peak does not count
    assert 60 * megabyte < growth(allocate, CPU) < 110 * megabyte
