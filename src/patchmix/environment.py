"""The machine a command runs on: what is recorded about it, and which of its devices and cores are used."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patchmix.errors import UserError

if TYPE_CHECKING:
    import torch

SPINS = "1000"  # looks of a waiting thread before it lets its core go (decision 0020)
RECORDED_PACKAGES = (
    "patchmix",
    "torch",
    "torchvision",
    "timm",
    "lightning",
    "torchmetrics",
    "numpy",
    "scikit-learn",
    "safetensors",
)


def environment() -> dict[str, Any]:
    """Versions, hardware, command line and git commit: what `environment.json` and every result records.

    Nothing in it identifies a person or a machine by name. Sizes are in GiB. `git` is null unless the
    package runs from a git checkout (an installed copy below somebody's repository does not count).
    """
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": package_versions(),
        "hardware": _hardware(),
        "git": _git(Path(__file__).resolve()),
        "command_line": [Path(sys.argv[0]).name, *sys.argv[1:]] if sys.argv else [],
    }


def program() -> str:
    """How this program is called, for commands to copy: `patchmix` where that finds it."""
    if shutil.which("patchmix") or not sys.argv or Path(sys.argv[0]).name != "patchmix":
        return "patchmix"
    return os.path.relpath(sys.argv[0]) if Path(sys.argv[0]).exists() else "patchmix"


@functools.cache
def package_versions() -> dict[str, str | None]:
    """Versions of the packages that results depend on; None where one is not installed."""
    return {name: _version(name) for name in RECORDED_PACKAGES}


def usable_cores() -> int:
    """Cores this process may use: its affinity and its container's share, not the machine's number."""
    import joblib

    return max(1, int(joblib.cpu_count()))  # at most LOKY_MAX_CPU_COUNT, too


def limit_spinning() -> None:
    """Let threads that wait for each other give up their core soon; before torch is imported.

    GNU OpenMP, torch's on Linux, lets them look again and again for longer than a small model's step takes. Beside one
    other busy process a step then takes many times as long (decision 0020). What the user has set is kept.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)


def set_threads(num_threads: int | None) -> int:
    """Set torch's threads: `num_threads`, else OMP_NUM_THREADS, else the usable cores. Returns the number."""
    import torch

    if num_threads is None:
        given = os.environ.get("OMP_NUM_THREADS", "")
        num_threads = int(given) if given.isdigit() and int(given) > 0 else usable_cores()
    torch.set_num_threads(num_threads)
    return num_threads


def resolve_device(name: str) -> torch.device:
    """The device that `auto`, `cpu` or `cuda` means here.

    Raises UserError where `cuda` is asked for and there is no such device.
    """
    import torch

    if name == "cuda" and not torch.cuda.is_available():
        raise UserError(
            "run.device = 'cuda', but torch finds no CUDA device on this machine: use --run.device cpu, "
            "or install a torch build that fits the driver"
        )
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def resolve_precision(name: str, device: torch.device, *, training: bool = False) -> str:
    """`auto` means bf16-mixed on CUDA and 32-true elsewhere; anything else is returned as given.

    In pre-training (`training`) it means bf16-mixed also on a CPU that multiplies in bfloat16 (decision 0026).

    DIFFERS: the reference trains under fp16; here fp16 is used only when asked for, because its NaN losses
    are the most frequent complaint of its peers' users (decision 0012).
    """
    if name != "auto":
        return name
    return "bf16-mixed" if device.type == "cuda" or (training and multiplies_bfloat16()) else "32-true"


def multiplies_bfloat16() -> bool:
    """Whether the CPU has instructions for products in bfloat16 (AVX-512 BF16, AMX): without, float32 is faster."""
    import torch

    ask = getattr(torch.cpu, "get_capabilities", None)  # of newer torch
    if ask is not None:
        found = ask()
        return bool(found.get("avx512_bf16") or found.get("amx_bf16"))
    older = (getattr(torch.cpu, name, None) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"))
    return any(each is not None and each() for each in older)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _hardware() -> dict[str, Any]:
    import torch

    gpus = []
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            gpus.append({"name": properties.name, "memory_gib": round(properties.total_memory / 2**30, 1)})
    return {
        "cpu": _cpu_name(),
        "usable_cores": usable_cores(),
        "threads": torch.get_num_threads(),
        "memory_gib": _memory_gib(),
        "gpus": gpus,
        "cuda": torch.version.cuda,
    }


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None


def _git(source: Path) -> dict[str, Any] | None:
    """Commit and cleanliness of the checkout that tracks `source`, or None."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(source.parent), *arguments],
                capture_output=True,
                text=True,
                timeout=10,
                check=False,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    # Tracked files only: a virtual environment often lies inside another project's repository.
    if git("ls-files", "--error-unmatch", source.name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "modified": bool(git("status", "--porcelain", "--untracked-files=no"))}
