"""Section: what to try next, as commands to copy."""

from __future__ import annotations

import shlex

from patchmix.reporting.run_files import RunFiles
from patchmix.reporting.section import Section
from patchmix.reporting.verdict import LEARNED, NOT_LEARNED, judge


def section(run: RunFiles) -> Section:
    """Commands, the most useful one first."""
    return Section("next_steps", "What to try next", {"steps": _steps(run)})


def _steps(run: RunFiles) -> list[tuple[str, str]]:
    """(why, command) pairs."""
    name = shlex.quote(str(run.directory))
    config = shlex.quote(str(run.directory / "config.yaml"))
    whole = "" if run.config.max_steps is None else " --max_steps null"

    def again(option: str, value: str, name: str) -> str:
        output = shlex.quote(f"{run.directory}-{name}")
        return f"patchmix pretrain --config {config} --output {output}{whole} --{option} {value}"

    level, _ = judge(run)
    steps = []
    if not run.finished:
        steps.append(("Go on where it stopped.", f"patchmix pretrain --resume --output {name}"))
    if run.num_checkpoints and "knn" not in run.results:
        steps.append(
            ("Measure it on test images (they need labels).", f"patchmix knn --checkpoint {name}"),
        )
    if run.num_checkpoints and "fewshot" not in run.results:
        steps.append(
            (
                "See what ten labels a class are worth on its features.",
                f"patchmix fewshot --checkpoint {name}",
            )
        )
    if run.finished and level == NOT_LEARNED:
        lr = run.config.optim.lr
        steps.append(
            (
                "Train with a third of the learning rate, then three times it.",
                again("optim.lr", f"{lr / 3:.2g}", "lr"),
            )
        )
        steps.append(
            ("Train without mixing, to see whether mixing is the cause.", again("method.num_mix", "1", "unmixed"))
        )
    elif run.finished:
        steps.append(("Train twice as long.", again("optim.epochs", str(2 * run.config.optim.epochs), "longer")))
        steps.append(
            (
                "Change one thing: mix one image more.",
                again("method.num_mix", str(run.config.method.num_mix + 1), "mix"),
            )
        )
    if level == LEARNED:
        code = f"import patchmix; print(patchmix.load_encoder({str(run.directory)!r}))"
        steps.append(
            (
                "Use the encoder: a timm model that turns images into features.",
                f"python -c {shlex.quote(code)}",
            )
        )
    if run.training:
        steps.append(("Make this page again, with what is new.", f"patchmix report {name}"))
    return steps
