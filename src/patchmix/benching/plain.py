"""The plain version that a measurement is compared with: benchmarks/plain/ of the checkout this package runs from.

An installed copy of the package has no such folder; then the plain version is not measured (decision 0027).
"""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from patchmix.config import Config
from patchmix.contrasts import LOCAL_CROPS, PATCHMIX, mixers, table
from patchmix.models.spec import EncoderSpec
from patchmix.models.vit import PUBLISHED_SIZES

PLAIN_PRECISION = "32-true"
NOT_HERE = "benchmarks/plain is not here: it comes with the repository, not with the installed package"
FOLDER = Path(__file__).resolve().parents[3] / "benchmarks" / "plain"


def load_plain(name: str) -> Any:
    """The module benchmarks/plain/NAME.py, None where there is none."""
    full = f"patchmix_plain_{name}"
    if full not in sys.modules:
        path = FOLDER / f"{name}.py"
        spec = importlib.util.spec_from_file_location(full, path) if path.is_file() else None
        if spec is None or spec.loader is None:
            return None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        sys.modules[full] = module
    return sys.modules[full]


def why_no_plain_step(config: Config, spec: EncoderSpec, mix_size: int) -> str | None:
    """Why there is no plain step of this run, in words; None if there is one."""
    if load_plain("step") is None:
        return NOT_HERE
    if spec.name not in PUBLISHED_SIZES or spec.pooling != "token":
        return f"it is a Vision Transformer of the paper's kind with a class token ({', '.join(PUBLISHED_SIZES)})"
    method, crops = config.method, config.views.num_local_crops > 0
    if table(method, crops) != PATCHMIX + (LOCAL_CROPS if crops else ()):
        return "it computes the losses of method patchmix, with their own weights"
    if mixers(method) != ("patches",) or method.permutations != "batch":
        return "it mixes patches, cut alike in all images"
    if mix_size != spec.patch_size or method.mix_group is not None or method.target_weights != "groups":
        return "it knows no mix_size, mix_group or target_weights"
    return None
