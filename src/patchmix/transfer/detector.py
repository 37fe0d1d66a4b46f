"""Mask R-CNN or Faster R-CNN of torchvision's on one of our encoders, put together as in ViTDet.

images (list of [channels, H, W], uint8 or 0 … 1) -> normalised, in one batch -> ViT's last map -> feature pyramid ->
region proposals -> boxes, labels, scores and masks

The parts are those of torchvision's maskrcnn_resnet50_fpn_v2: two convolutions before the region proposals, four
normalised ones in the box head and in the mask head. DIFFERS from it in two points, as ViTDet does: the heads' norms
are layer norms (a step does not depend on the batch's other images, and one image is enough), and the longest side of
an image to be scored becomes `image_size`.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, cast

import torch
from timm.layers import LayerNorm2d
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNConvFCHead, FastRCNNPredictor
from torchvision.models.detection.mask_rcnn import MaskRCNNHeads, MaskRCNNPredictor
from torchvision.models.detection.rpn import RPNHead
from torchvision.models.detection.transform import GeneralizedRCNNTransform
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import initLevelMapper
from torchvision.transforms.v2 import functional as transforms

from patchmix.errors import UserError
from patchmix.evaluation.tuning_recipe import layer_groups
from patchmix.models.loading import LoadedEncoder
from patchmix.models.vit import Encoder, create_vit
from patchmix.transfer.feature_pyramid import SCALES, SimpleFeaturePyramid
from patchmix.transfer.windows import check_windows, encode_map

ANCHOR = 8  # a square anchor's side, in strides of its level; so torchvision and the literature have 32 px at stride 4
RATIOS = (0.5, 1.0, 2.0)  # height to width of the anchors
CANONICAL_LEVEL = 4  # name, in FPN's equation 1, of the level whose stride is the patch size …
CANONICAL_PATCHES = 14  # … which serves boxes of so many patches a side (224 px of 16 px patches)


class ViTBackbone(nn.Module):
    """Images [B, channels, H, W], normalised, H and W multiples of the patch, to the levels of a feature pyramid.

    frozen: the encoder stays in eval mode and has no gradient.
    """

    def __init__(
        self, encoder: Encoder, pyramid: SimpleFeaturePyramid, *, window: int | None, global_blocks: int, frozen: bool
    ) -> None:
        super().__init__()
        self.encoder, self.pyramid = encoder, pyramid
        self.window, self.global_blocks, self.frozen = window, global_blocks, frozen
        self.out_channels = pyramid.channels  # torchvision reads it
        if frozen:
            encoder.requires_grad_(False)
            encoder.eval()

    def train(self, mode: bool = True) -> ViTBackbone:
        """As nn.Module's, but for a frozen encoder."""
        super().train(mode)
        if self.frozen:
            self.encoder.eval()
        return self

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """Levels "0", "1", … and "pool", finest first."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen):
            features = encode_map(self.encoder, images, window=self.window, global_blocks=self.global_blocks)
        levels: OrderedDict[str, Tensor] = self.pyramid(features)
        return levels


def build_detector(
    loaded: LoadedEncoder,
    num_categories: int,
    *,
    image_size: int,
    masks: bool = True,
    frozen: bool = False,
    drop_path: float = 0.1,
    window: int | None = 14,
    global_blocks: int = 4,
    channels: int = 256,
    scales: Sequence[float] = SCALES,
    seed: int = 0,
    **options: Any,
) -> nn.Module:
    """A trainable MaskRCNN (or FasterRCNN) of torchvision's on a copy of the encoder, in training mode.

    In training it takes images of any size as they are, with torchvision's targets, and gives a dict of losses. In eval
    mode it resizes them so that the longest side is `image_size` and gives dicts with boxes [n, 4] (x, y, x, y, in
    pixels of the image as given), labels [n], scores [n] and masks [n, 1, H, W] (probabilities). Images are uint8, or
    floats from 0 to 1; they are normalised as the encoder's were, and become grey (or RGB) where it has other channels.

    Args:
        num_categories: without the background, whose label is 0.
        frozen: the encoder is not trained and has no drop path.
        window: patches on a window's side, None for global attention everywhere (windows.py); maps that fit in one
            window have global attention anyway.
        channels: of the pyramid's levels and the heads' convolutions; a quarter of a fully connected layer's.
        scales: of the pyramid's levels, as feature_pyramid.py has them; for small patches fewer, (2, 1, 0.5), say:
            the finest level of 4-pixel patches has a place for each pixel.
        seed: of the new parameters and nothing else.
        options: more of torchvision's, box_batch_size_per_image for one.

    Raises:
        UserError: the encoder is no plain ViT, or a number makes no sense.
    """
    spec = loaded.spec
    if spec.patch_size is None:
        raise UserError(f"{spec.name} is no plain Vision Transformer, and detection has backbones of those only")
    if num_categories < 1:
        raise UserError("no category to detect: give annotations with at least one")
    if image_size < spec.patch_size:
        raise UserError(f"image_size = {image_size} is smaller than a patch of the encoder, {spec.patch_size} px")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = create_vit(spec, 0.0 if frozen else drop_path)
        encoder.load_state_dict(loaded.encoder.state_dict())
        encoder.prune_intermediate_layers(1)  # keeps all blocks, drops what comes after the patch tokens
        check_windows(encoder, window, global_blocks)
        pyramid = SimpleFeaturePyramid(spec.width, channels, scales)
        backbone = ViTBackbone(encoder, pyramid, window=window, global_blocks=global_blocks, frozen=frozen)
        anchors = Anchors(pyramid.strides(spec.patch_size))
        options |= {
            "min_size": image_size,
            "max_size": image_size,
            "image_mean": list(spec.mean),
            "image_std": list(spec.std),
            "rpn_anchor_generator": anchors,
            "rpn_head": ProposalHead(channels, len(RATIOS), conv_depth=2),
            "box_roi_pool": _roi_pool(7, pyramid, spec.patch_size),
            "box_head": FastRCNNConvFCHead((channels, 7, 7), [channels] * 4, [4 * channels], norm_layer=LayerNorm2d),
            "box_predictor": BoxPredictor(4 * channels, num_categories + 1),
        }
        if masks:
            options |= {
                "mask_roi_pool": _roi_pool(14, pyramid, spec.patch_size),
                "mask_head": MaskRCNNHeads(channels, [channels] * 4, 1, norm_layer=LayerNorm2d),
                "mask_predictor": MaskRCNNPredictor(channels, channels, num_categories + 1),
            }
        detector: Any = MaskRCNN(backbone, **options) if masks else FasterRCNN(backbone, **options)
        # A whole number of places at each level: image and level begin and end at the same pixel.
        divisible = round(spec.patch_size * max(1.0, 1 / min(scales)))
        detector.transform = ImageTransform(
            image_size, image_size, list(spec.mean), list(spec.std), size_divisible=divisible
        )
    return cast(nn.Module, detector.train())


def parameter_groups(
    detector: nn.Module, *, lr: float, weight_decay: float, layer_decay: float
) -> list[dict[str, Any]]:
    """Groups for AdamW, each with its "lr" and, for schedules, "lr_scale" (lr = scale * the peak).

    The rates fall from block to block as in fine-tuning: pyramid and heads have 1, the last block `layer_decay`, the
    block before its square, embeddings the smallest. Position embeddings, class token, biases and norms are not
    decayed. Parameters without gradient are in no group.
    """
    groups = layer_groups(_Layers(detector), weight_decay, layer_decay)
    return [{**group, "lr": lr * group["lr_scale"]} for group in groups]


class _Layers(nn.Module):
    """What timm's layer decay asks of a network, for a detector: the encoder's layers, then everything else as one."""

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.detector = detector
        self._prefix = "detector.backbone.encoder."

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:
        prefix = self._prefix.replace(".", r"\.")
        return {
            "stem": rf"^{prefix}(?:cls_token|reg_token|pos_embed|patch_embed|norm_pre)",
            "blocks": [(rf"^{prefix}blocks\.(\d+)", None), (rf"^{prefix}norm\.", (99999,))],
        }

    def no_weight_decay(self) -> set[str]:
        return {self._prefix + name for name in cast(Any, self.detector).backbone.encoder.no_weight_decay()}


class ImageTransform(GeneralizedRCNNTransform):  # type: ignore[misc]  # torchvision is untyped here
    """torchvision's transform for uint8 images too, of the encoder's channels, resized in eval mode only.

    DIFFERS from torchvision's in being antialiased, as the training's resizing is.
    """

    def normalize(self, image: Tensor) -> Tensor:
        """[channels, H, W], 0 … 255 as uint8 or 0 … 1, to the encoder's channels, normalised."""
        image = transforms.to_dtype(image, torch.float32, scale=True)
        channels = len(self.image_mean)
        if channels == 1 and image.shape[0] == 3:
            image = transforms.rgb_to_grayscale(image)
        elif channels == 3 and image.shape[0] == 1:
            image = image.expand(3, -1, -1)
        elif channels != image.shape[0]:
            raise UserError(f"images have {image.shape[0]} channels, but the encoder takes {channels}")
        normalised: Tensor = super().normalize(image)
        return normalised

    def resize(self, image: Tensor, target: dict[str, Tensor] | None = None) -> tuple[Tensor, dict[str, Tensor] | None]:
        """In training what augmentation made of image and target; else the longest side becomes the image size."""
        if self.training:
            return image, target
        height, width = image.shape[-2:]
        scale = min(self.min_size[-1] / min(height, width), self.max_size / max(height, width))
        size = [max(1, round(height * scale)), max(1, round(width * scale))]
        return transforms.resize(image, size, antialias=True), target


class Anchors(AnchorGenerator):  # type: ignore[misc]
    """torchvision's anchors with the exact strides: it divides whole numbers, and 14-pixel patches have 3.5 px.

    Always in float32: bfloat16 has 8 bits, and anchors beyond 256 px would move by pixels.
    """

    def __init__(self, strides: Sequence[float]) -> None:
        super().__init__(tuple((ANCHOR * stride,) for stride in strides), (RATIOS,) * len(strides))
        self.strides = tuple(strides)

    def set_cell_anchors(self, dtype: torch.dtype, device: torch.device) -> None:
        super().set_cell_anchors(torch.float32, device)

    def grid_anchors(self, grid_sizes: list[list[int]], strides: Any) -> list[Tensor]:
        exact = [(stride, stride) for stride in self.strides]
        anchors: list[Tensor] = super().grid_anchors(grid_sizes, exact)
        return anchors


class ProposalHead(RPNHead):  # type: ignore[misc]
    """torchvision's, with results in float32 under autocast too: boxes are computed in their type."""

    def forward(self, x: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, boxes = super().forward(x)
        return [each.float() for each in logits], [each.float() for each in boxes]


class BoxPredictor(FastRCNNPredictor):  # type: ignore[misc]
    """torchvision's, with results in float32 under autocast too: boxes are computed in their type."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scores, boxes = super().forward(x)
        return scores.float(), boxes.float()


def _roi_pool(size: int, pyramid: SimpleFeaturePyramid, patch_size: int) -> Any:
    """torchvision's RoIAlign, told the scales, which it would guess from the first batch as powers of two."""
    names = [str(number) for number in range(len(pyramid.scales))]
    pool = MultiScaleRoIAlign(names, size, sampling_ratio=2)
    strides = pyramid.strides(patch_size)[:-1]
    pool.scales = [1 / stride for stride in strides]
    finest = CANONICAL_LEVEL - round(math.log2(pyramid.scales[0]))
    pool.map_levels = initLevelMapper(
        finest,
        finest + len(strides) - 1,
        canonical_scale=CANONICAL_PATCHES * patch_size,
        canonical_level=CANONICAL_LEVEL,
    )
    return pool
