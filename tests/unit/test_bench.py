"""`patchmix bench`: what it writes, what it leaves behind, what it counts, and what it refuses."""

from __future__ import annotations

import io
import json
import math
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from tests.runs import SMALL, command, stop
from torch.nn.functional import scaled_dot_product_attention

import patchmix
from patchmix import cli
from patchmix.benching import inputs, plain
from patchmix.benching.command import bench
from patchmix.benching.memory import growth
from patchmix.benching.products import ProductLimit, counted_operations
from patchmix.benching.request import request
from patchmix.benching.steps import PARTS, in_order, take_turns
from patchmix.config import DataConfig
from patchmix.errors import UserError
from patchmix.recipes import resolve

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
    # Digits have no plain pipeline; everything else is measured.
    assert [name for name, value in result["metrics"].items() if value is None] == ["plain_worker_ms_per_sample"]
    assert all(value > 0 for value in result["metrics"].values() if value is not None)
    assert set(result["parts"]) <= set(PARTS)
    assert {"data wait", "momentum", "mixing", "forward view1", "backward", "optimiser"} <= set(result["parts"])
    assert math.isclose(sum(part["share"] for part in result["parts"].values()), 1)
    assert {name: len(times) for name, times in result["samples"].items()} == {
        "step_seconds": 5,
        "plain_step_seconds": 5,
    }
    assert result["data"] == {"name": "mnist5k", "synthetic": False, "num_images": 96}
    assert result["settings"]["recipe"] == "demo"
    assert result["settings"]["optim"]["batch_size"] == 8
    for name in ("forward view1", "share of the matrix-product limit", "peak memory", "decode", str(file)):
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
    assert all(value is not None and value > 0 for value in result["metrics"].values())
    assert {"forward locals", "forward mixed_locals", "views"} <= set(result["parts"])
    assert [each.name for each in tmp_path.iterdir()] == ["bench.json"]


@pytest.mark.slow
def test_without_the_checkout_the_plain_version_is_not_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plain, "FOLDER", tmp_path / "site-packages")
    monkeypatch.setattr(plain.sys, "modules", {k: v for k, v in plain.sys.modules.items() if "patchmix_plain" not in k})
    file = tmp_path / "bench.json"
    file.write_text("an older one", encoding="utf-8")
    result, text = run_bench(file, **PHOTOS)
    assert "The plain step was not measured: benchmarks/plain is not here" in text
    absent = {name for name, value in result["metrics"].items() if value is None}
    assert absent >= {"plain_step_seconds", "plain_peak_memory_mb", "plain_worker_ms_per_sample"}
    assert all(name.startswith("plain_") for name in absent)
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
    found, _, err = stop(process, number)
    assert found == code
    assert err == ("patchmix: stopped\n" if code == 130 else "")
    assert list(temporary.iterdir()) == []
    assert [each.name for each in tmp_path.iterdir()] == ["temporary"]


MISTAKES = [
    ("--steps 4", "steps = 4 is not accepted: a whole number of 5 or more"),
    ("--steps many", "steps = 'many' is not accepted: a whole number"),
    ("--recipe dmo", "there is no recipe 'dmo'; did you mean demo?"),
    ("--max_steps 3", "bench has no option --max_steps"),
    ("--recipe demo --run.num_devices 2", "bench measures one process, not 2"),
    ("--data.root absent", "data.root = absent does not exist"),
    ("--recipe demo --optim.batch_size 5000", "optim.batch_size = 5000 is more than the 4000 training images"),
    ("--recipe demo --output file/bench.json", "file/bench.json cannot be written: "),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES)
def test_a_mistake_is_one_line(
    words: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert cli.main(["bench", *words.split()]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_the_function_refuses_what_the_command_does(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="steps = 1 is not accepted"):
        patchmix.bench("demo", output=tmp_path / "bench.json", steps=1)
    with pytest.raises(UserError, match=r"there is no option optim\.epoch; did you mean optim\.epochs"):
        patchmix.bench("demo", output=tmp_path / "bench.json", optim={"epoch": 1})
    with pytest.raises(UserError, match="give steps"):
        patchmix.bench("demo", output=tmp_path / "bench.json", max_steps=5)


def test_a_folder_gets_the_file_where_evaluations_write_theirs(tmp_path: Path) -> None:
    assert request("demo", None, {"output": str(tmp_path)}).output == tmp_path / "results" / "bench.json"
    assert request(None, None, {"output": str(tmp_path / "a")}).output == tmp_path / "a"
    assert request(None, None, {"output": str(tmp_path / "a")}).start.recipe == "cifar10-cpu"


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


def test_synthetic_images_have_the_recipes_size(tmp_path: Path) -> None:
    config = inputs.synthetic(resolve("imagenet-vit-small", None, {"optim.batch_size": 4}), tmp_path / "photos", 40)
    files = sorted((tmp_path / "photos").iterdir())
    assert len(files) == 40
    assert files[0].samefile(files[inputs.NUM_PICTURES])
    assert 30_000 < files[0].stat().st_size < 200_000
    assert (config.data.name, config.data.image_size, config.data.limit) == ("folder", 224, None)
    digits = inputs.synthetic(resolve("demo"), tmp_path / "digits", 2)
    assert (digits.data.image_size, digits.data.channels, digits.data.num_workers) == (28, 1, 0)


def test_data_that_would_be_downloaded_are_absent(tmp_path: Path) -> None:
    assert not inputs.is_there(DataConfig(name="cifar10", root=str(tmp_path)))
    assert not inputs.is_there(DataConfig(name="imagenet"))
    assert inputs.is_there(DataConfig(name="imagenet", root=str(tmp_path)))
