"""Several processes, data that are absent, and no network."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from tests.runs import command


@pytest.mark.slow
def test_a_download_that_fails_is_said_once_and_ends_all_processes(tmp_path: Path) -> None:
    options = {"run.num_devices": 2, "run.device": "cpu"}
    nowhere = "http://127.0.0.1:9"
    offline = os.environ | {"http_proxy": nowhere, "https_proxy": nowhere}
    line = command("pretrain", "--recipe", "imagenette-vit-small", **options)
    ended = subprocess.run(line, capture_output=True, text=True, timeout=200, cwd=tmp_path, env=offline)
    assert ended.returncode == 2, ended.stderr
    (only,) = ended.stderr.splitlines()
    assert "cannot be downloaded" in only
    assert not (tmp_path / "runs").exists()
