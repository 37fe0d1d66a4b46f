"""Which results on disk are what a comparison asks for."""

from __future__ import annotations

import json
from typing import Any

import pytest

from patchmix.comparing.asked import CONFIGS, OPTIONS, is_asked, option_words
from patchmix.config import DataConfig, to_dict

DATA = DataConfig(name="mnist5k", limit=96)


def result(command: str, **options: Any) -> dict[str, Any]:
    """What the command writes, as far as it matters here, with these options beside those that are asked for."""
    config = CONFIGS[command](**{"checkpoint": "runs/moved", "data": DATA, **OPTIONS.get(command, {}), **options})
    data = {"name": config.data.name, "limit": config.data.limit, "fingerprint": {"train": "a", "test": "b"}}
    written: dict[str, Any] = json.loads(json.dumps({"data": data, "settings": to_dict(config)}))
    return written


@pytest.mark.parametrize("command", CONFIGS)
def test_what_the_command_writes_counts_wherever_it_ran(command: str) -> None:
    assert is_asked(result(command), command, DATA, "a")
    elsewhere = DataConfig(name="mnist5k", limit=96, root="/somewhere/else", num_workers=3)
    assert is_asked(result(command, data=elsewhere, cache="features"), command, DATA, None)


@pytest.mark.parametrize("command", CONFIGS)
def test_other_data_options_or_images_do_not_count(command: str) -> None:
    assert not is_asked(result(command, data=DataConfig(name="mnist5k", limit=50)), command, DATA, "a")
    assert not is_asked(result(command, seed=1), command, DATA, "a")
    assert not is_asked(result(command), command, DATA, "another")


def test_an_option_that_an_older_result_does_not_know_counts_as_usual() -> None:
    older = result("knn")
    del older["settings"]["average_precision"], older["settings"]["data"]["subset"], older["data"]
    assert is_asked(older, "knn", DATA, "a")
    older["settings"]["k"] = [10]
    assert not is_asked(older, "knn", DATA, "a")


def test_a_probe_must_say_that_it_was_the_fast_one() -> None:
    assert option_words("probe") == ("--fast", "true")
    assert option_words("knn") == ()
    found = result("probe")
    del found["settings"]["fast"]
    assert not is_asked(found, "probe", DATA, "a")
