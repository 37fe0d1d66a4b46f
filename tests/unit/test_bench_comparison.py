"""The images that `patchmix bench` measures on, the plain version beside ours, and what is said of the two."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from tests.runs import SMALL

from patchmix.benching import inputs, plain
from patchmix.benching.pipeline import InputCost, input_cost
from patchmix.benching.plain import why_no_plain_step
from patchmix.benching.tables import show_figures
from patchmix.config import DataConfig
from patchmix.job import Job
from patchmix.models.encoders import resolve_spec
from patchmix.preparation import prepare
from patchmix.recipes import resolve

TINY: dict[str, Any] = {**SMALL, "optim.batch_size": 8, "method.momentum": 0.9}


def folder_job(folder: Path, stack: contextlib.ExitStack, **options: Any) -> Job:
    """A run on the images of that folder."""
    data = {"data.name": "folder", "data.root": str(folder), "data.limit": None, "data.num_workers": 0}
    output = folder.with_name("run")
    config = resolve("cifar10-cpu", None, {**TINY, **data, "output": str(output), **options})
    return prepare(config, False, None, None, stack)


def bomb(width: int, height: int) -> bytes:
    """A PNG file that claims to have so many pixels, and has none."""
    chunks = (b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0), b"IDAT")
    packed = (struct.pack(">I", len(chunk) - 4) + chunk + struct.pack(">I", zlib.crc32(chunk)) for chunk in chunks)
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)


def test_files_that_cannot_be_read_are_left_out_on_both_sides(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    inputs.write_pictures(folder, 6, (90, 120), 3)
    (folder / "000002.jpg").write_bytes(bomb(40_000, 40_000))
    (folder / "000004.jpg").write_text("no image at all", encoding="utf-8")
    with pytest.raises(Image.DecompressionBombError):  # or the test would say nothing
        plain.load_plain("views").decode(str(folder / "000002.jpg"))
    with contextlib.ExitStack() as stack:
        job = folder_job(folder, stack, **{"optim.batch_size": 6})
        cost = input_cost(job)
        assert cost.plain is not None
        assert cost.plain > 0
        assert cost.why_no_plain is None
        # Files are decoded in each round, as the plain pipeline does; a run keeps so few in memory.
        assert cost.stages["decode"] > 0.05
        assert cost.worker == pytest.approx(sum(cost.stages.values()))
        assert cost.worker_kept == pytest.approx(cost.worker - cost.stages["decode"])


def test_why_there_is_no_plain_pipeline_is_said(tmp_path: Path) -> None:
    inputs.write_pictures(tmp_path / "photos", 8, (40, 40), 3)
    with contextlib.ExitStack() as stack:
        cost = input_cost(folder_job(tmp_path / "photos", stack, **{"data.channels": 1}))
    assert (cost.plain, cost.why_no_plain) == (None, "it makes colour images")


OTHER_METHODS: list[tuple[dict[str, Any], str | None]] = [
    ({}, None),
    ({"views.num_local_crops": 2, "views.local_size": 16}, None),
    ({"method.name": "moco-v3"}, "it computes the losses of method patchmix, with their own weights"),
    ({"method.symmetric": True}, "it computes the losses of method patchmix, with their own weights"),
    ({"method.mix_to_mix_weight": 0.1}, "it computes the losses of method patchmix, with their own weights"),
    ({"method.mixers": ["mixup"]}, "it mixes patches, cut alike in all images"),
    ({"method.permutations": "image"}, "it mixes patches, cut alike in all images"),
]


@pytest.mark.parametrize(("options", "why"), OTHER_METHODS)
def test_the_plain_step_is_that_of_the_papers_method_alone(options: dict[str, Any], why: str | None) -> None:
    config = resolve("cifar10-cpu", None, options)
    spec = resolve_spec(config.model, (32, 32), 3, (0.5,) * 3, (0.5,) * 3)
    assert why_no_plain_step(config, spec, spec.patch_size) == why


def shown(precision: str, **metrics: float | None) -> str:
    known: dict[str, float | None] = {
        "limit_gigaflop_per_second": 400.0,
        "plain_limit_gigaflop_per_second": 160.0,
        "flops_share_of_limit": 0.5,
        "flops_share_of_plain_limit": 1.25,
        "plain_flops_share_of_limit": 0.625,
    }
    names = ("step_seconds", "gigaflop_per_step", "gigaflop_per_second", "peak_memory_mb", "worker_ms_per_sample")
    known |= dict.fromkeys([*names, *(f"plain_{name}" for name in names), "worker_kept_ms_per_sample"], 1.0)
    cost = InputCost({}, 1.0, 0.5, None, "it makes colour images", on_device=True)
    text = io.StringIO()
    show_figures(Console(file=text, width=40), known | metrics, precision, None, cost)
    return text.getvalue()


def test_shares_of_two_limits_are_not_compared() -> None:
    text = shown("bf16-mixed")
    assert "patchmix, bf16-mixed  plain, 32-true  ratio" in text
    row = next(line for line in text.splitlines() if "share of the matrix-product limit" in line)
    assert row.split()[-3:] == ["50.0", "62.5", "–"]
    said = (
        "The matrix-product limit in bf16-mixed is 400 GFLOP/s. It is 160 in 32-true, by which plain's share is taken; "
        "by that one patchmix's would be 125.0 %."
    )
    assert said in text
    row = next(line for line in shown("32-true").splitlines() if "share of the matrix-product limit" in line)
    assert row.split()[-3:] == ["50.0", "62.5", "0.80"]


def test_what_is_missing_or_left_out_has_its_reason() -> None:
    text = shown("32-true", plain_worker_ms_per_sample=None)
    assert "The plain input pipeline was not measured: it makes colour images." in text
    assert "A worker's time is without the photometrics: the device applies them (run.photometrics)." in text
    assert "the same, decoded images kept, ms" in text
    assert "from the second epoch on they read no files" in text


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
