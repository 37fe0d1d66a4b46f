"""Section: what ran — data, model, method, steps, time, machine."""

from __future__ import annotations

import shlex
from typing import Any

from patchmix.config import Config
from patchmix.contrasts import has_momentum, mixers, mixes
from patchmix.progress import duration
from patchmix.reporting.run_files import RunFiles
from patchmix.reporting.section import Section


def section(run: RunFiles) -> Section:
    """A table of facts."""
    context = {
        "facts": [(name, value) for name, value in _facts(run) if value],
        "no_environment": not run.environment,
    }
    return Section("facts", "What ran", context)


def summary(run: RunFiles) -> str:
    """The run in one line, for the head of the page."""
    done = "finished" if run.finished else f"{run.last_step:,} steps done"
    return " · ".join((run.config.data.name, _model(run.config.model), f"{run.config.optim.epochs} epochs", done))


def training_seconds(run: RunFiles) -> float | None:
    """Time the logged steps took, evaluations and checkpoints left out; None where speeds were not logged."""
    batch = run.config.optim.batch_size
    times = [batch / r["images_per_second"] for r in run.training if r.get("images_per_second")]
    return sum(times) if times else None


def _facts(run: RunFiles) -> list[tuple[str, str]]:
    config, environment = run.config, run.environment
    data, model, method, optim, views = config.data, config.model, config.method, config.optim, config.views
    seconds = training_seconds(run)
    total = "" if run.total_steps is None else f" of {run.total_steps:,}"
    packages = _dict(environment.get("packages"))
    return [
        ("Command", shlex.join(str(word) for word in environment.get("command_line") or [])),
        (
            "Data",
            _join(data.name, data.root, data.image_size and f"{data.image_size} px", _limit(data.limit)),
        ),
        ("Model", _model(model)),
        (
            "Method",
            _join(
                method.name,
                _mixing(config),
                f"temperature {method.temperature:g}",
                "no momentum encoder"
                if not has_momentum(method)
                else f"momentum {method.momentum:g} → {method.momentum_final:g}",
            ),
        ),
        (
            "Views",
            _join(
                views.kind,
                f"2 and {views.num_local_crops} local crops" if views.num_local_crops else "2 an image",
            ),
        ),
        (
            "Optimisation",
            _join(
                f"AdamW, {optim.batch_size} images a step",
                f"learning rate {optim.lr * optim.batch_size / 256:.3g} at its peak",
                f"weight decay {optim.weight_decay:g} → {optim.final_weight_decay:g}",
            ),
        ),
        ("Length", _join(f"{run.last_step:,}{total} steps", f"{optim.epochs} epochs", f"seed {config.seed}")),
        ("Time in steps", "" if seconds is None else duration(seconds)),
        ("Machine", _machine(_dict(environment.get("hardware")))),
        ("Software", _join(*(f"{name} {version}" for name, version in packages.items() if version))),
        ("Code", _git(environment.get("git"))),
        ("Checkpoints", f"{run.num_checkpoints} kept" if run.num_checkpoints else "none"),
    ]


def _join(*parts: Any) -> str:
    return ", ".join(str(part) for part in parts if part)


def _limit(limit: int | None) -> str:
    return "" if limit is None else f"{limit:,} training images at most"


def _mixing(config: Config) -> str:
    if not mixes(config.method, config.views.num_local_crops > 0):
        return "no mixing"
    kinds = mixers(config.method)
    by = "" if kinds == ("patches",) else f" by {' or '.join(kinds)}"
    return f"{config.method.num_mix} images mixed into one{by}"


def _model(model: Any) -> str:
    sizes = (
        model.width and f"width {model.width}",
        model.depth and f"depth {model.depth}",
        model.num_heads and f"{model.num_heads} heads",
        model.patch_size and f"patch {model.patch_size}",
    )
    return _join(model.name, *sizes, {"token": "class token", "avg": "mean of the patch tokens"}.get(model.pooling))


def _machine(hardware: dict[str, Any]) -> str:
    gpus = [str(_dict(gpu).get("name")) for gpu in hardware.get("gpus") or []]
    counted = [f"{gpus.count(name)} × {name}" for name in dict.fromkeys(gpus)]
    cores, memory = hardware.get("usable_cores"), hardware.get("memory_gib")
    return _join(*counted, hardware.get("cpu"), cores and f"{cores} cores", memory and f"{memory} GiB memory")


def _git(git: Any) -> str:
    git = _dict(git)
    commit = git.get("commit")
    if not commit:
        return ""
    return f"commit {str(commit)[:12]}" + (" with changes that are not committed" if git.get("modified") else "")


def _dict(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
