"""What recipe `folder` has chosen for a folder and a machine, and how it is said; the rules are in choosing.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patchmix.config import RunConfig


@dataclass(frozen=True)
class Machine:
    """What a run will run on: device cpu or cuda, usable cores, GPUs in sight, bytes of one GPU's memory."""

    device: str
    cores: int
    num_gpus: int = 0
    gpu_name: str = ""
    gpu_memory: int = 0
    num_processes: int = 1

    @classmethod
    def here(cls, run: RunConfig) -> Machine:
        """This machine, as `run.device` and `run.num_devices` use it."""
        import torch

        from patchmix.environment import resolve_device, usable_cores

        device = resolve_device(run.device).type
        processes = run.num_devices * run.num_nodes
        if device != "cuda":
            return cls(device, usable_cores(), num_processes=processes)
        gpu = torch.cuda.get_device_properties(0)
        count = torch.cuda.device_count()
        return cls(device, usable_cores(), count, gpu.name, gpu.total_memory, processes)

    @property
    def text(self) -> str:
        """`CPU with 2 cores`, `2 × NVIDIA H100`."""
        if self.device == "cuda":
            return f"{self.num_gpus} × {self.gpu_name} ({self.gpu_memory / 2**30:.0f} GiB)"
        return f"a CPU with {self.cores} core{'' if self.cores == 1 else 's'}"


@dataclass(frozen=True)
class Choice:
    """Options that were chosen together, in words, and why."""

    what: str
    why: str
    options: dict[str, Any]

    @property
    def names(self) -> str:
        """Names of the first options."""
        names = list(self.options)
        return ", ".join(names[:2]) + (", …" if len(names) > 2 else "")


@dataclass(frozen=True)
class Choices:
    """All that was chosen, for which images and machine."""

    subject: str
    items: tuple[Choice, ...]

    @property
    def values(self) -> dict[str, Any]:
        """{'section.key': value}."""
        return {option: value for each in self.items for option, value in each.options.items()}

    @property
    def reasons(self) -> dict[str, str]:
        """{'section.key': why}."""
        return {option: each.why for each in self.items for option in each.options}

    @property
    def text(self) -> str:
        """What was chosen and why, a line each."""
        if not self.items:
            return f"{self.subject}. Everything is given, nothing was chosen."
        lines = [f"  {each.what} ({each.names}): {each.why}" for each in self.items]
        return "\n".join([f"{self.subject}. Chosen for them:", *lines, "Any option that is given is kept as given."])
