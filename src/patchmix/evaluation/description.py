"""What a result says about an evaluation: which data, which settings, which images could not be read."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console

from patchmix.config import to_dict
from patchmix.data.unreadable import tsv_field
from patchmix.evaluation.features import Features, describe_preparation
from patchmix.evaluation.opening import Evaluation, OpenedEncoder
from patchmix.progress import say


def describe_data(evaluation: Evaluation) -> dict[str, Any]:
    """The `data` entry of a result."""
    data, train, test = evaluation.config.data, evaluation.train, evaluation.test
    return {
        "name": data.name,
        "root": data.root,
        "limit": data.limit,
        "num_train": len(train),
        "num_test": len(test),
        "num_classes": len(train.classes),
        "classes": list(train.classes),
        "fingerprint": {"train": train.fingerprint, "test": test.fingerprint},
    }


def describe_settings(evaluation: OpenedEncoder) -> dict[str, Any]:
    """The `settings` entry of a result: every option, and what null and auto came to."""
    return {
        **to_dict(evaluation.config),
        "encoder": evaluation.spec.to_dict(),
        "loaded": evaluation.loaded.description,
        "features": "before any head, momentum encoder where there is one",
        "preparation": describe_preparation(evaluation.spec, evaluation.config.crop_ratio),
        "used": {
            "device": str(evaluation.device),
            "precision": evaluation.precision,
            "num_threads": evaluation.num_threads,
        },
    }


def describe_skipped(train: Features, test: Features, console: Console) -> dict[str, list[list[Any]]]:
    """The `skipped` entry of a result, [[path, why], ...] for each split, said on the console as well."""
    splits = {"train": train} if test is train else {"train": train, "test": test}
    named = {
        split: say_skipped(
            split,
            [(tsv_field(path), why) for _, path, why in found.skipped],
            len(found.skipped) + len(found.indices),
            console,
        )
        for split, found in splits.items()
    }
    return {"train": named["train"], "test": named.get("test", named["train"])}


def say_skipped(split: str, skipped: Sequence[tuple[str, str]], total: int, console: Console) -> list[list[Any]]:
    """[[path, why], ...] of the images of a split that were left out, of `total`, said on the console as well.

    Paths are `tsv_field`s.
    """
    if skipped:
        bad, (path, why) = len(skipped), skipped[0]
        of = f"{total:,} {'training' if split == 'train' else split} images"
        left_out = "is left out" if bad == 1 else "are left out, all named in the result; the first"
        say(console, f"{bad:,} of {of} cannot be read and {left_out}: {path}: {why}")
    return [list(each) for each in skipped]
