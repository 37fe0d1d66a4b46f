"""The paper's tables, transcribed from method.md: what the recipes are held against."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Column:
    """One column of "Pre-training recipes"; lr is per 256 images, momentum None where there is no such encoder."""

    width: int
    depth: int
    num_heads: int
    image_size: int
    patch_size: int
    epochs: int
    warmup_epochs: int
    batch_size: int
    lr: float
    weight_decay: tuple[float, float]
    momentum: tuple[float, float] | None
    global_scale: tuple[float, float]
    num_local_crops: int
    final_lr: float = 1e-6
    num_mix: int = 2
    temperature: float = 0.2
    smoothing: float = 0.0


EMA, DECAY, CIFAR_SCALE, IMAGENET_SCALE = (0.996, 1.0), (0.04, 0.4), (0.1, 1.0), (0.35, 1.0)
TINY_2 = Column(192, 12, 3, 32, 2, 800, 100, 512, 2e-3, (0.02, 0.2), None, CIFAR_SCALE, 0)
SMALL_2 = Column(384, 12, 12, 32, 2, 800, 100, 512, 5e-4, DECAY, EMA, CIFAR_SCALE, 0)
BASE_2 = Column(768, 12, 12, 32, 2, 800, 100, 512, 7.5e-4, DECAY, EMA, CIFAR_SCALE, 0)
SMALL_16 = Column(384, 12, 12, 224, 16, 300, 10, 1024, 5e-4, DECAY, EMA, IMAGENET_SCALE, 8)
BASE_16 = Column(768, 12, 12, 224, 16, 300, 10, 1024, 7.5e-4, DECAY, EMA, IMAGENET_SCALE, 8)
LOCAL_SIZE, LOCAL_SCALE = 96, (0.05, 0.35)

COLUMNS = {
    "cifar10-vit-tiny": TINY_2,
    "cifar10-vit-small": SMALL_2,
    "cifar10-vit-base": BASE_2,
    "cifar100-vit-tiny": TINY_2,
    "cifar100-vit-small": SMALL_2,
    "cifar100-vit-base": BASE_2,
    "imagenet-vit-small": SMALL_16,
    "imagenet-vit-base": BASE_16,
}
# Top-1 in per cent: kNN, linear probe, fine-tuned.
PUBLISHED = {
    "cifar10-vit-tiny": ("92.9", "94.4", "97.5"),
    "cifar10-vit-small": ("94.6", "96.0", "98.1"),
    "cifar10-vit-base": ("95.8", "96.6", "98.3"),
    "cifar100-vit-tiny": ("68.8", "74.7", "84.9"),
    "cifar100-vit-small": ("75.4", "78.7", "86.0"),
    "cifar100-vit-base": ("75.7", "79.7", "86.0"),
    "imagenet-vit-small": ("73.3", "77.4", "82.8"),
    "imagenet-vit-base": ("76.2", "80.2", "84.1"),
}
NUM_IMAGES = {"cifar10": 50_000, "cifar100": 50_000, "imagenet": 1_281_167, "imagenette": 9_469}
