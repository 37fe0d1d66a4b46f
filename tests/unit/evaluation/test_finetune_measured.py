"""What `finetune` does about test images that it cannot measure, and which network an interruption leaves."""

from __future__ import annotations

import io
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from patchmix.config import DataConfig, EvalRunConfig, FinetuneConfig
from patchmix.errors import SaidElsewhereError, UserError
from patchmix.evaluation import tuning
from patchmix.evaluation.finetune import finetune


def tuned(run: Path, folder: Path, max_unreadable: float = 0.1, **options: Any) -> tuple[dict[str, Any], str]:
    text = io.StringIO()
    data = DataConfig(name="folder", root=str(folder), num_workers=0, max_unreadable=max_unreadable)
    machine = EvalRunConfig(device="cpu", num_threads=1)
    given = {"checkpoint": str(run), "output": str(folder.parent / "out"), "epochs": 1, "ema_decay": 0.0, **options}
    return finetune(FinetuneConfig(data=data, run=machine, **given), Console(file=text, width=300)), text.getvalue()


def test_too_many_unreadable_test_images_are_refused_and_the_rest_is_counted(run: Path, folder: Path) -> None:
    place = folder / "test" / "left"
    good = next(place.iterdir())
    for index in range(180):
        file = place / f"more-{index}.png"
        if index < 50:
            file.write_bytes(b"no image")
        else:
            shutil.copy(good, file)
    saved = r"50 of 200 test images .* cannot be read.* What was trained is saved: .* measure with --resume"
    with pytest.raises(UserError, match=saved):
        tuned(run, folder)
    result, text = tuned(run, folder, max_unreadable=0.25, resume=True)
    assert result["classification"]["num_images"] == 150
    assert "40 training and 150 of 200 test images" in text


def test_an_interruption_of_new_work_leaves_the_network_of_the_old(run: Path, folder: Path, monkeypatch) -> None:
    tuned(run, folder)
    model = folder.parent / "out" / "results" / "finetune" / "model.safetensors"
    first = model.read_bytes()
    with pytest.raises(UserError, match=r"checkpoint = .* lies in .* name another --output, or move the file"):
        tuned(model, folder, overwrite=True)
    real = tuning.Tuner.step

    def stopping(self: tuning.Tuner, step: int, batch: Any) -> Any:
        signal.raise_signal(signal.SIGTERM)
        return real(self, step, batch)

    monkeypatch.setattr(tuning.Tuner, "step", stopping)
    with pytest.raises(SaidElsewhereError):
        tuned(run, folder, overwrite=True, seed=1)
    assert model.read_bytes() == first
    monkeypatch.undo()
    tuned(run, folder, resume=True, seed=1)
    assert model.read_bytes() != first
