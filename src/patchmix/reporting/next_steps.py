"""Section: what to try next, as commands to copy."""

from __future__ import annotations

import shlex

from patchmix.contrasts import mixers, mixes
from patchmix.reporting.judgement import LEARNED, NOT_LEARNED, judge, troubles
from patchmix.reporting.run_files import RunFiles
from patchmix.reporting.section import Section


def section(run: RunFiles) -> Section:
    """Commands, the most useful one first."""
    return Section("next_steps", "What to try next", {"steps": steps(run)})


def steps(run: RunFiles) -> list[tuple[str, str]]:
    """(why, command) pairs, the most useful one first."""
    name = shlex.quote(str(run.directory))
    level, _ = judge(run)
    broken = bool(troubles(run))
    found = []
    if not run.finished and not broken:
        found.append(("Go on where it stopped.", f"patchmix pretrain --resume --output {name}"))
    if run.num_checkpoints and not broken:
        found += _measuring(run, name)
    if broken or (run.finished and level == NOT_LEARNED):
        found += _after_failure(run)
    elif run.finished:
        longer, mixed = 2 * run.config.optim.epochs, run.config.method.num_mix + 1
        found.append(("Train twice as long.", _again(run, "optim.epochs", str(longer), "longer")))
        if mixes(run.config.method, run.config.views.num_local_crops > 0) and mixers(run.config.method) == ("patches",):
            found.append(("Change one thing: mix one image more.", _again(run, "method.num_mix", str(mixed), "mix")))
    if level == LEARNED:
        code = f"import patchmix; print(patchmix.load_encoder({str(run.directory)!r}))"
        found.append(
            ("Use the encoder: a timm model that turns images into features.", f"python -c {shlex.quote(code)}")
        )
    if run.training:
        found.append(("Make this page again, with what is new.", f"patchmix report {name}"))
    return found


def _measuring(run: RunFiles, name: str) -> list[tuple[str, str]]:
    if run.has_test_labels is False:
        folder = "--data.name folder --data.root LABELLED"
        why = (
            "Measure it on images with labels, in LABELLED/train/<class> and LABELLED/test/<class>; a few hundred of "
            "your own do. Until then, judge by the neighbours on this page."
        )
        return [] if run.results else [(why, f"patchmix knn --checkpoint {name} {folder}")]
    found = []
    if "knn" not in run.results:
        needs = "" if run.has_test_labels else " (they need labels)"
        found.append((f"Measure it on test images{needs}.", f"patchmix knn --checkpoint {name}"))
    if "fewshot" not in run.results:
        found.append(
            ("See what ten labels a class are worth on its features.", f"patchmix fewshot --checkpoint {name}")
        )
    return found


def _after_failure(run: RunFiles) -> list[tuple[str, str]]:
    lr = _again(run, "optim.lr", f"{run.config.optim.lr / 3:.2g}", "lr")
    unmixed = _again(run, "method.num_mix", "1", "unmixed")
    found = [("Train with a third of the learning rate, then three times it.", lr)]
    if _mixes(run):
        found.append(("Train without mixing, to see whether mixing is the cause.", unmixed))
    return found


def _mixes(run: RunFiles) -> bool:
    return run.config.method.num_mix > 1 and mixes(run.config.method, run.config.views.num_local_crops > 0)


def _again(run: RunFiles, option: str, value: str, name: str) -> str:
    """The command of a new run that differs in one option."""
    config = shlex.quote(str(run.directory / "config.yaml"))
    output = shlex.quote(f"{run.directory}-{name}")
    whole = "" if run.config.max_steps is None else " --max_steps null"
    return f"patchmix pretrain --config {config} --output {output}{whole} --{option} {value}"
