"""What an encoder is and which images it expects, as every file of ours says it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class EncoderSpec:
    """What an encoder is and which images it expects: written into every file of ours, checked on loading.

    patch_size, depth and num_heads describe plain Vision Transformers; they are None for every other network,
    which is built by its name alone. width: size of the features that the encoder gives.
    """

    name: str
    image_size: tuple[int, int]
    patch_size: int | None
    width: int
    depth: int | None
    num_heads: int | None
    channels: int
    pooling: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @property
    def is_vit(self) -> bool:
        """Whether it is a plain Vision Transformer (models/vit.py), else another timm model (models/backbones.py)."""
        return self.patch_size is not None

    def to_dict(self) -> dict[str, Any]:
        """Plain lists and numbers."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in dataclasses.asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> EncoderSpec:
        """The inverse of `to_dict`."""

        def frozen(value: Any) -> Any:
            return tuple(value) if isinstance(value, list) else value

        return cls(**{key: frozen(value) for key, value in values.items()})
