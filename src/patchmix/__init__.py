"""PatchMix: pre-train Vision Transformers without labels by mixing patches of several images.

The commands as functions (`patchmix.pretrain`, `knn`, `probe`, …, and `survey` for the command `data`) and
`load_encoder`, imported when first used, so that `import patchmix` and the command line's help cost nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from patchmix.api import (
        bench,
        compare,
        detect,
        embed,
        fewshot,
        finetune,
        knn,
        load_encoder,
        pretrain,
        probe,
        report,
        results,
        similarity,
        survey,
    )

    __version__: str

__all__ = [
    "__version__",
    "bench",
    "compare",
    "detect",
    "embed",
    "fewshot",
    "finetune",
    "knn",
    "load_encoder",
    "pretrain",
    "probe",
    "report",
    "results",
    "similarity",
    "survey",
]


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("patchmix")
        except PackageNotFoundError:  # a checkout on the path, never installed
            return "0+uninstalled"
    if name in __all__:
        from patchmix import api

        return getattr(api, name)
    raise AttributeError(f"module 'patchmix' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
