"""timm models that are not plain Vision Transformers: ResNet, ConvNeXt, Swin, … (decision 0017).

Any that gives pooled features: images [B, channels, height, width] -> features [B, width]. They are built by name
with timm's own sizes, initialisation and pooling.
"""

from __future__ import annotations

from typing import Any

import timm
import torch
from torch import Tensor, nn

from patchmix.config import ModelConfig
from patchmix.errors import UserError
from patchmix.models.spec import EncoderSpec

OWN_POOLING = "own"  # EncoderSpec.pooling: the one that timm gives the model
VIT_OPTIONS = ("patch_size", "width", "depth", "num_heads", "pooling", "position_std")


def backbone_spec(
    config: ModelConfig, image_size: tuple[int, int], channels: int, mean: tuple[float, ...], std: tuple[float, ...]
) -> EncoderSpec:
    """The description of the timm model that a config names, tried on images of this size (without computing).

    Raises:
        UserError: options of Vision Transformers, a drop path that the model does not have, images that it does
            not take, or no pooled features.
    """
    given = [name for name in VIT_OPTIONS if getattr(config, name) is not None]
    if given:
        raise UserError(
            f"model.name = {config.name!r} is no plain Vision Transformer and has none of these options: leave them "
            f"out, or add {' '.join(f'--model.{name} null' for name in given)}"
        )
    width = trial_width(config.name, image_size, channels, config.drop_path, "data.image_size")
    return EncoderSpec(config.name, image_size, None, width, None, None, channels, OWN_POOLING, mean, std)


def check_size(spec: EncoderSpec, size: tuple[int, int], option: str) -> None:
    """A UserError that names the option unless the model, built for spec.image_size, takes images of this size too."""
    outline = _built_without_memory(spec.name, spec.image_size, spec.channels, 0.0, "data.image_size")
    try:
        feature_width(outline, spec.channels, size)
    except ValueError as error:
        raise UserError(_refused(spec.name, size, option, error)) from None


def trial_width(name: str, image_size: tuple[int, int], channels: int, drop_path: float, option: str) -> int:
    """Size of the model's features; a UserError, naming the option, where it does not take such images."""
    outline = _built_without_memory(name, image_size, channels, drop_path, option)
    try:
        return feature_width(outline, channels, image_size)
    except ValueError as error:
        raise UserError(_refused(name, image_size, option, error)) from None


@torch.no_grad()
def feature_width(model: nn.Module, channels: int, image_size: tuple[int, int]) -> int:
    """Size of the features that a model in eval mode gives for images of this size, on the device that it is on.

    (Not its num_features: some have layers between those and the classifier.)

    Raises:
        ValueError: the model fails, or gives something else than a row of features per image.
    """
    device = next(model.parameters()).device
    try:
        features = model(torch.zeros(2, channels, *image_size, device=device))
    except Exception as error:  # each network says in its own way what it does not take
        raise ValueError(_first_line(error)) from None
    if not isinstance(features, Tensor) or features.ndim != 2:
        raise ValueError("it gives no pooled features, [images, width]")
    return int(features.shape[1])


def create_backbone(
    name: str, image_size: tuple[int, int], channels: int, drop_path: float = 0.0, option: str = "data.image_size"
) -> nn.Module:
    """A newly initialised timm model without classifier, for images of this size where it is made for one.

    Raises:
        UserError: no such option in the model, or (naming the option) a size that it cannot be made for.
    """
    options: dict[str, Any] = {"num_classes": 0, "in_chans": channels}
    published = timm.get_pretrained_cfg(name, allow_unregistered=True)
    if published is not None and published.fixed_input_size:
        options["img_size"] = image_size
    if drop_path:
        options["drop_path_rate"] = drop_path
    try:
        model: nn.Module = timm.create_model(name, pretrained=False, **options)
    except TypeError as error:
        if "drop_path_rate" in str(error):
            raise UserError(
                f"model.drop_path = {drop_path}: timm's {name} has no stochastic depth; set model.drop_path to 0"
            ) from None
        if "img_size" not in str(error):
            raise
        raise UserError(_refused(name, image_size, option, "it is made for one size only")) from None
    except (AssertionError, ValueError, RuntimeError) as error:
        raise UserError(_refused(name, image_size, option, _first_line(error))) from None
    return model


def _built_without_memory(
    name: str, image_size: tuple[int, int], channels: int, drop_path: float, option: str
) -> nn.Module:
    with torch.device("meta"):
        return create_backbone(name, image_size, channels, drop_path, option).eval()


def _refused(name: str, size: tuple[int, int], option: str, why: object) -> str:
    return (
        f"{option}: timm's {name} does not take images of {size[0]} × {size[1]} px ({why}); set another {option}, or "
        "another model.name"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
