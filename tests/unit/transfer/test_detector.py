"""The detector: what goes in and comes out, what is trained and how fast."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.models import small_spec
from torch import Tensor
from torchvision.models.detection import FasterRCNN, MaskRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList

from patchmix.errors import UserError
from patchmix.models.loading import LoadedEncoder, resolve_encoder
from patchmix.models.spec import EncoderSpec
from patchmix.models.vit import create_vit
from patchmix.transfer.detector import build_detector, parameter_groups
from patchmix.transfer.windows import encode_map


def loaded_encoder(**spec: Any) -> LoadedEncoder:
    spec = small_spec(**spec)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return LoadedEncoder(create_vit(spec).eval(), spec, "an encoder")


def build(loaded: LoadedEncoder | None = None, num_categories: int = 2, **options: Any) -> Any:
    small = {"image_size": 32, "channels": 16, "scales": (2, 1, 0.5), "box_batch_size_per_image": 32, "window": 3}
    return build_detector(loaded or loaded_encoder(), num_categories, **{**small, **options})


def scenes(*sizes: tuple[int, int], channels: int = 3) -> tuple[list[Tensor], list[dict[str, Tensor]]]:
    """Images with noise and one bright box, and torchvision's targets."""
    generator = torch.Generator().manual_seed(0)
    images, targets = [], []
    for number, (height, width) in enumerate(sizes):
        image = torch.randint(0, 100, (channels, height, width), generator=generator).to(torch.uint8)
        masks = torch.zeros(1, height, width, dtype=torch.uint8)
        masks[0, 4:14, 5:17] = 1
        image[:, 4:14, 5:17] += 150
        boxes, labels = torch.tensor([[5.0, 4.0, 17.0, 14.0]]), torch.tensor([number % 2 + 1])
        images.append(image)
        targets.append({"boxes": boxes, "labels": labels, "masks": masks})
    return images, targets


def total_loss(detector: Any, images: list[Tensor], targets: list[dict[str, Tensor]]) -> Tensor:
    with torch.random.fork_rng():
        torch.manual_seed(3)  # the same samples of proposals
        return sum(detector(images, targets).values(), torch.zeros(()))


@pytest.mark.parametrize("masks", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_two_steps_lower_the_loss(masks: bool, frozen: bool) -> None:
    detector = build(drop_path=0.0, masks=masks, frozen=frozen)
    assert type(detector) is (MaskRCNN if masks else FasterRCNN)
    images, targets = scenes((32, 32), (32, 32))
    groups = parameter_groups(detector, lr=1e-3, weight_decay=0.05, layer_decay=0.7)
    optimizer = torch.optim.AdamW(groups)
    losses = []
    for _ in range(3):
        loss = total_loss(detector, images, targets)
        losses.append(loss.item())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert losses[1] < losses[0]
    assert losses[2] < 0.9 * losses[0]


def test_every_parameter_has_a_gradient() -> None:
    detector = build()
    images, targets = scenes((30, 33), (31, 19))
    losses = detector(images, targets)
    names = ("classifier", "box_reg", "mask", "objectness", "rpn_box_reg")
    assert set(losses) == {f"loss_{name}" for name in names}
    sum(losses.values()).backward()
    assert [name for name, parameter in detector.named_parameters() if parameter.grad is None] == []


def test_images_without_objects_are_trained_on() -> None:
    detector = build()
    images, targets = scenes((32, 32), (32, 20))
    for target in targets:
        for name, value in target.items():
            target[name] = value[:0]
    loss = total_loss(detector, images, targets)
    loss.backward()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(parameter.grad).all() for parameter in detector.parameters())


def test_a_frozen_encoder_has_no_gradient_and_stays_in_eval_mode() -> None:
    detector = build(frozen=True, drop_path=0.5)
    detector.train()
    assert detector.training
    assert detector.backbone.pyramid.training
    assert not any(module.training for module in detector.backbone.encoder.modules())
    images, targets = scenes((32, 32))
    total_loss(detector, images, targets).backward()
    trained = {name for name, parameter in detector.named_parameters() if parameter.grad is not None}
    expected = {name for name, _ in detector.named_parameters() if not name.startswith("backbone.encoder.")}
    assert trained == expected
    groups = parameter_groups(detector, lr=1.0, weight_decay=0.05, layer_decay=0.5)
    assert sum(len(group["params"]) for group in groups) == len(expected)
    assert {group["lr_scale"] for group in groups} == {1}


@pytest.mark.parametrize("masks", [True, False])
def test_results_are_boxes_labels_scores_and_masks_of_the_image_as_given(masks: bool) -> None:
    detector = build(masks=masks, box_score_thresh=0.0).eval()
    sizes = [(45, 70), (20, 13)]
    with torch.no_grad():
        found = detector(scenes(*sizes)[0])
    for (height, width), result in zip(sizes, found, strict=True):
        number = len(result["scores"])
        assert number > 0
        assert set(result) == {"boxes", "labels", "scores"} | ({"masks"} if masks else set())
        assert result["boxes"].shape == (number, 4)
        assert set(result["labels"].tolist()) <= {1, 2}
        assert result["boxes"].min() >= 0
        assert (result["boxes"] <= torch.tensor([width, height, width, height]) + 1e-3).all()
        assert (result["boxes"][:, 2:] > result["boxes"][:, :2]).all()
        if masks:
            assert result["masks"].shape == (number, 1, height, width)
            assert 0 <= result["masks"].min() <= result["masks"].max() <= 1


def test_rates_fall_from_the_heads_to_the_embeddings() -> None:
    detector = build(loaded_encoder(depth=4), drop_path=0.3)
    assert detector.backbone.encoder.blocks[-1].drop_path1.drop_prob == pytest.approx(0.3)
    found: dict[int, dict[str, Any]] = {}
    for group in parameter_groups(detector, lr=0.1, weight_decay=0.05, layer_decay=0.5):
        assert group["lr"] == pytest.approx(0.1 * group["lr_scale"])
        for parameter in group["params"]:
            assert id(parameter) not in found
            found[id(parameter)] = group
    named = {
        name: (found[id(parameter)]["lr_scale"], found[id(parameter)]["weight_decay"])
        for name, parameter in detector.named_parameters()
    }
    encoder = "backbone.encoder."
    for number in range(4):
        assert named[f"{encoder}blocks.{number}.attn.qkv.weight"] == (0.5 ** (4 - number), 0.05)
        assert named[f"{encoder}blocks.{number}.mlp.fc1.bias"] == (0.5 ** (4 - number), 0)
    assert named[f"{encoder}norm.weight"] == (0.5, 0)  # timm counts it to the last block
    assert named[f"{encoder}pos_embed"] == named[f"{encoder}cls_token"] == (0.5**5, 0)
    assert named[f"{encoder}patch_embed.proj.weight"] == (0.5**5, 0.05)
    rest = {value for name, value in named.items() if not name.startswith(encoder)}
    assert rest == {(1, 0.05), (1, 0)}


@pytest.mark.parametrize(("patch_size", "image_size"), [(2, 16), (8, 64), (14, 56), (16, 96)])
@pytest.mark.parametrize("scales", [(4, 2, 1, 0.5), (1, 0.5)])
def test_other_patch_sizes_train_and_have_exact_strides(
    patch_size: int, image_size: int, scales: tuple[float, ...]
) -> None:
    loaded = loaded_encoder(patch_size=patch_size, image_size=(2 * patch_size, 2 * patch_size))
    detector = build(loaded, image_size=image_size, scales=scales)
    images, targets = scenes((image_size - 1, image_size + 3), (18, 18))
    loss = total_loss(detector, images, targets)
    loss.backward()
    assert torch.isfinite(loss)

    batch = detector.transform(images)[0]
    height, width = batch.tensors.shape[-2:]
    levels = list(detector.backbone(batch.tensors).values())
    strides = [patch_size / scale for scale in scales]
    for level, stride in zip(levels, strides, strict=False):
        assert (level.shape[-2] * stride, level.shape[-1] * stride) == (height, width)
    assert detector.roi_heads.box_roi_pool.scales == [1 / stride for stride in strides]
    anchors = detector.rpn.anchor_generator(batch, levels)[0]
    finest = anchors[: 3 * levels[0].shape[-2] * levels[0].shape[-1]]
    assert finest[-3, 0] + finest[-3, 2] == 2 * (width - strides[0])
    assert finest[-3, 1] + finest[-3, 3] == 2 * (height - strides[0])


def test_patches_of_16_have_torchvisions_anchors_and_levels() -> None:
    detector = build(loaded_encoder(patch_size=16, image_size=(32, 32)), scales=(4, 2, 1, 0.5), image_size=128)
    theirs = AnchorGenerator(((32,), (64,), (128,), (256,), (512,)), ((0.5, 1.0, 2.0),) * 5)
    images = ImageList(torch.zeros(1, 3, 128, 192), [(128, 192)])
    levels = list(detector.backbone(images.tensors).values())
    torch.testing.assert_close(detector.rpn.anchor_generator(images, levels)[0][:-18], theirs(images, levels)[0][:-18])
    # Boxes of 224 px belong to stride 16, smaller ones to finer levels.
    boxes = [torch.tensor([[0.0, 0.0, side, side]]) for side in (50.0, 112.0, 224.0, 500.0)]
    assert detector.roi_heads.box_roi_pool.map_levels(boxes).tolist() == [0, 1, 2, 3]
    small = build(loaded_encoder(patch_size=4), scales=(2, 1, 0.5))  # in proportion: strides 2, 4 and 8
    assert small.roi_heads.box_roi_pool.map_levels([box / 4 for box in boxes]).tolist() == [0, 0, 1, 2]


def test_a_grey_encoder_takes_images_in_colour() -> None:
    detector = build(loaded_encoder(channels=1, mean=(0.1,), std=(0.3,)))
    images, targets = scenes((32, 32), (28, 28), channels=1)
    colour = [image.expand(3, -1, -1) for image in images]
    grey_loss = total_loss(detector, images, targets)
    torch.testing.assert_close(total_loss(detector, colour, targets), grey_loss, rtol=1e-3, atol=1e-3)
    assert detector.transform(colour)[0].tensors.shape == (2, 1, 32, 32)
    in_colour = build()
    assert in_colour.transform(images)[0].tensors.shape == (2, 3, 32, 32)
    with pytest.raises(UserError, match=r"images have 4 channels, but the encoder takes 3"):
        in_colour(scenes((32, 32), channels=4)[0], targets[:1])


def test_images_are_normalised_as_the_encoders_were() -> None:
    detector = build(loaded_encoder(mean=(0.2, 0.4, 0.6), std=(0.1, 0.2, 0.5)))
    image = torch.tensor([51, 102, 153], dtype=torch.uint8)[:, None, None].expand(3, 32, 32)
    torch.testing.assert_close(detector.transform([image])[0].tensors, torch.zeros(1, 3, 32, 32), atol=1e-6, rtol=0)
    image = scenes((32, 32))[0][0]
    mean, std = torch.tensor([0.2, 0.4, 0.6]), torch.tensor([0.1, 0.2, 0.5])
    expected = (image / 255 - mean[:, None, None]) / std[:, None, None]
    for given in (image, image / 255):
        torch.testing.assert_close(detector.transform([given])[0].tensors[0], expected)


def test_images_are_resized_in_eval_mode_only() -> None:
    detector = build(image_size=32)
    images = scenes((20, 50), (13, 21))[0]
    assert detector.transform(images)[0].image_sizes == [(20, 50), (13, 21)]
    assert detector.transform(images)[0].tensors.shape == (2, 3, 24, 56)  # whole places of the coarsest stride, 8 px
    detector.eval()
    assert detector.transform(images)[0].image_sizes == [(13, 32), (20, 32)]
    assert detector.transform(images)[0].tensors.shape == (2, 3, 24, 32)


def test_resizing_does_not_alias() -> None:
    detector = build(image_size=16).eval()
    stripes = torch.zeros(3, 64, 64)
    stripes[:, :, ::2] = 1
    found = detector.transform([stripes])[0].tensors * 0.5 + 0.5
    torch.testing.assert_close(found, torch.full_like(found, 0.5), atol=0.07, rtol=0)


def test_boxes_are_float32_under_autocast() -> None:
    detector = build(box_score_thresh=0.0)
    images, targets = scenes((32, 32), (32, 32))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert all(loss.dtype == torch.float32 for loss in detector(images, targets).values())
        detector.eval()
        features = detector.backbone(detector.transform(images)[0].tensors)
        anchors = detector.rpn.anchor_generator(detector.transform(images)[0], list(features.values()))
        found = detector(images)
    assert anchors[0].dtype == found[0]["boxes"].dtype == found[0]["scores"].dtype == torch.float32
    assert not torch.equal(found[0]["boxes"], found[0]["boxes"].bfloat16().float())


def test_the_loaded_encoder_is_copied_and_its_features_kept() -> None:
    loaded = loaded_encoder()
    before = copy.deepcopy(loaded.encoder.state_dict())
    detector = build(loaded, drop_path=0.0)
    images, targets = scenes((16, 16))
    batch = detector.transform(images)[0].tensors
    found = encode_map(detector.backbone.encoder, batch, window=None, global_blocks=0)
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), loaded.encoder.forward_features(batch)[:, 1:])
    optimizer = torch.optim.SGD(detector.parameters(), lr=0.1)
    total_loss(detector, images, targets).backward()
    optimizer.step()
    assert not torch.equal(detector.backbone.encoder.norm.weight, before["norm.weight"])
    for name, value in loaded.encoder.state_dict().items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("name", ["test_vit", "test_vit2"])
def test_timms_vits_are_backbones(name: str) -> None:
    loaded = resolve_encoder(f"timm:{name}", pretrained=False)
    detector = build(loaded, image_size=64, drop_path=0.0)
    batch = torch.randn(1, 3, *loaded.spec.image_size)
    found = encode_map(detector.backbone.encoder, batch, window=None, global_blocks=0)
    prefix = loaded.encoder.num_prefix_tokens
    expected = loaded.encoder.forward_features(batch)[:, prefix:]
    torch.testing.assert_close(found.flatten(2).transpose(1, 2), expected)
    images, targets = scenes((64, 50))
    total_loss(detector, images, targets).backward()
    assert [name for name, parameter in detector.named_parameters() if parameter.grad is None] == []


def test_new_parameters_follow_from_the_seed_alone() -> None:
    state = torch.get_rng_state()
    first, second, other = build().state_dict(), build().state_dict(), build(seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    name = "rpn.head.cls_logits.weight"
    assert not torch.equal(first[name], other[name])


def test_what_cannot_be_a_detector_is_refused() -> None:
    resnet = EncoderSpec("resnet18", (32, 32), None, 512, None, None, 3, "own", (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(UserError, match=r"resnet18 is no plain Vision Transformer"):
        build(LoadedEncoder(torch.nn.Identity(), resnet, "no ViT"))
    with pytest.raises(UserError, match=r"no category to detect"):
        build(num_categories=0)
    with pytest.raises(UserError, match=r"image_size = 3 is smaller than a patch"):
        build(image_size=3)
    with pytest.raises(UserError, match=r"window = 0"):
        build(window=0)
