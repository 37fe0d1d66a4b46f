"""Lightning Fabric, launched without announcements."""

from __future__ import annotations

import logging
from typing import Any

import torch
from lightning.fabric import Fabric


def launch_fabric(
    device: torch.device, precision: str, *, devices: int = 1, num_nodes: int = 1, strategy: Any = "auto"
) -> Fabric:
    """Fabric for this kind of device and precision; by default one device."""
    # Fabric announces every process on stderr, below the line that says what is wrong or what will happen.
    # It does so by the logger of lightning.pytorch, which `import lightning` puts in the place of its own.
    for name in ("lightning.fabric", "lightning.fabric.utilities.rank_zero", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=device.type,
        devices=devices,
        num_nodes=num_nodes,
        strategy=strategy,
        precision=precision,  # type: ignore[arg-type]
    )
    fabric.launch()
    return fabric
