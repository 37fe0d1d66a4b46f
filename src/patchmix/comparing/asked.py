"""What finished cells are measured by, and which results on disk are just that."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from patchmix.config import DataConfig, to_dict
from patchmix.config.evaluation import EvalConfig, FewshotConfig, KnnConfig
from patchmix.config.tuning import ProbeConfig
from patchmix.evaluation.results import asked_for

CONFIGS: dict[str, type[EvalConfig]] = {"knn": KnnConfig, "probe": ProbeConfig, "fewshot": FewshotConfig}
OPTIONS: dict[str, dict[str, Any]] = {"probe": {"fast": True}}
"""Options that are not the usual ones."""
NAMES = ("checkpoint", "settings: checkpoint")
"""How results call the run."""


def option_words(command: str) -> tuple[str, ...]:
    """The words of a command line that ask for OPTIONS."""
    words: list[str] = []
    for name, value in OPTIONS.get(command, {}).items():
        words += [f"--{name}", json.dumps(value)]
    return tuple(words)


def is_asked(result: Mapping[str, Any], command: str, data: DataConfig, fingerprint: str | None) -> bool:
    """Whether a result is what a comparison asks of a run on `data`, and not an evaluation with other options.

    Results of an older patchmix lack options that there were none of: those count as the usual ones. Where and how
    fast it was measured is no difference, nor how the run is called, which may have been moved. `fingerprint` is that
    of the training images (None: not known).
    """
    options = OPTIONS.get(command, {})
    config = CONFIGS[command](checkpoint="run", data=data, **options)
    wanted = asked_for({"settings": json.loads(json.dumps(to_dict(config)))})
    found = asked_for(result)
    usual = {name: value for name, value in wanted.items() if name.removeprefix("settings: ") not in options}
    found = usual | found
    if any(found.get(name) != value for name, value in wanted.items() if name not in NAMES):
        return False
    measured_on = found.get("data: fingerprint.train")
    return None in (fingerprint, measured_on) or fingerprint == measured_on
