"""The recipes of the paper: every number, the size of every model, the schedules, and what the headers promise."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from tests.recipes.paper import COLUMNS, LOCAL_SCALE, LOCAL_SIZE, NUM_IMAGES, PUBLISHED, SMALL_16, Column

from patchmix.config import Config
from patchmix.method import build_model
from patchmix.models.encoders import resolve_spec
from patchmix.recipes import find_recipe, resolve
from patchmix.schedules import settings_at

GPU_RECIPES = [*COLUMNS, "imagenette-vit-small"]
ROOT = {"data.root": "DIR"}
PAGE = Path(__file__).parents[2] / "docs" / "recipes.md"


@pytest.mark.parametrize(("name", "column"), COLUMNS.items())
def test_a_recipe_has_the_numbers_of_its_column(name: str, column: Column) -> None:
    config = resolve(name)
    data, model, method, views, optim = config.data, config.model, config.method, config.views, config.optim
    assert data.name == name.partition("-")[0]
    found = Column(
        model.width or 0,
        model.depth or 0,
        model.num_heads or 0,
        data.image_size or 0,
        model.patch_size or 0,
        optim.epochs,
        optim.warmup_epochs,  # type: ignore[arg-type]  # may be half an epoch; here it is not
        optim.batch_size,
        optim.lr,
        (optim.weight_decay, optim.final_weight_decay),
        None if method.momentum is None else (method.momentum, method.momentum_final),
        views.global_scale,
        views.num_local_crops,
        optim.final_lr,
        method.num_mix,
        method.temperature,
        method.smoothing,
    )
    assert found == column
    if column.num_local_crops:
        assert (views.local_size, views.local_scale) == (LOCAL_SIZE, LOCAL_SCALE)


@pytest.mark.parametrize("name", COLUMNS)
def test_what_all_columns_share_is_as_published(name: str) -> None:
    config = resolve(name)
    model, optim, views = config.model, config.optim, config.views
    assert (model.drop_path, model.projector_width, model.projection_size) == (0.1, 4096, 256)
    assert (optim.beta1, optim.beta2, optim.clip_grad_norm) == (0.9, 0.999, None)
    assert (views.kind, views.flip, views.jitter, views.grey) == ("photo", 0.5, 0.8, 0.2)
    assert (views.brightness, views.contrast, views.saturation, views.hue) == (0.4, 0.4, 0.2, 0.1)
    assert (views.blur, views.solarise) == ((1.0, 0.1, 0.5), (0.0, 0.2, 0.0))
    assert (config.method.mix_size, config.method.mix_group) == (None, None)


def test_imagenette_takes_the_imagenet_column_but_for_length_and_batch() -> None:
    ours, papers = resolve("imagenette-vit-small"), resolve("imagenet-vit-small")
    assert (ours.model, ours.method, ours.views) == (papers.model, papers.method, papers.views)
    assert (ours.optim.lr, ours.optim.weight_decay, ours.optim.final_weight_decay) == (SMALL_16.lr, 0.04, 0.4)
    assert (ours.optim.epochs, ours.optim.warmup_epochs, ours.optim.batch_size) == (800, 40, 256)


@pytest.mark.parametrize(("name", "column"), COLUMNS.items())
def test_the_full_model_has_the_papers_size(name: str, column: Column) -> None:
    config = resolve(name)
    size = (column.image_size, column.image_size)
    spec = resolve_spec(config.model, size, 3, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    with torch.device("meta"):  # shapes without memory
        model = build_model(config, spec)

    def count(module: torch.nn.Module | None) -> int:
        return 0 if module is None else sum(parameter.numel() for parameter in module.parameters())

    width, patch, hidden, out = column.width, column.patch_size, 4096, 256
    block = (
        (width + 1) * 3 * width  # q, k, v
        + (width + 1) * width  # attention's output
        + (width + 1) * 4 * width + (4 * width + 1) * width  # MLP
        + 2 * 2 * width  # two LayerNorms
    )  # fmt: skip
    num_patches = (column.image_size // patch) ** 2
    embedding = (3 * patch * patch + 1) * width + width + (num_patches + 1) * width  # patches, class token, positions
    encoder = embedding + column.depth * block + 2 * width
    projector = width * hidden + hidden * hidden + hidden * out + 2 * 2 * hidden  # two BatchNorms with affine
    predictor = out * hidden + hidden * out + 2 * hidden
    assert (count(model.encoder), count(model.projector), count(model.predictor)) == (encoder, projector, predictor)
    assert (spec.num_heads, spec.pooling) == (column.num_heads, "token")
    momentum = (encoder, projector) if column.momentum else (0, 0)
    assert (count(model.momentum_encoder), count(model.momentum_projector)) == momentum


def test_parameter_counts_in_millions() -> None:
    """The formula above and the model could share a mistake; these are the known sizes of ViT-T, S and B."""
    counts = {}
    for name in ("cifar10-vit-tiny", "imagenet-vit-small", "imagenet-vit-base"):
        config = resolve(name)
        size = (config.data.image_size or 0,) * 2
        with torch.device("meta"):
            encoder = build_model(config, resolve_spec(config.model, size, 3, (0.5,) * 3, (0.5,) * 3)).encoder
        counts[name] = round(sum(parameter.numel() for parameter in encoder.parameters()) / 1e6, 1)
    assert counts == {"cifar10-vit-tiny": 5.4, "imagenet-vit-small": 21.7, "imagenet-vit-base": 85.8}


@pytest.mark.parametrize(("name", "column"), COLUMNS.items())
def test_schedules_have_the_papers_values_at_chosen_steps(name: str, column: Column) -> None:
    config = resolve(name)
    per_epoch = NUM_IMAGES[config.data.name] // column.batch_size  # incomplete last batches are dropped
    assert per_epoch == (97 if column.batch_size == 512 else 1251)
    warmup, total = column.warmup_epochs * per_epoch, column.epochs * per_epoch
    peak = column.lr * column.batch_size / 256
    first, last = column.weight_decay

    def half_cosine(start: float, end: float, done: float) -> float:
        return start + (end - start) * math.sin(math.pi * done / 2) ** 2

    for step in (0, 1, warmup // 2, warmup, (warmup + total) // 2, total // 3, total - 1):
        values = settings_at(step, config, per_epoch)
        if step < warmup:
            lr = peak * step / warmup
        else:
            lr = half_cosine(peak, column.final_lr, (step - warmup) / (total - 1 - warmup))
        done = step / (total - 1)
        assert values.lr == pytest.approx(lr, rel=1e-9)
        assert values.weight_decay == pytest.approx(half_cosine(first, last, done), rel=1e-9)
        assert values.temperature == 0.2
        if column.momentum is None:
            assert values.momentum is None
        else:
            assert values.momentum == pytest.approx(half_cosine(*column.momentum, done), rel=1e-12)
    assert settings_at(warmup, config, per_epoch).lr == pytest.approx(peak)
    assert settings_at(total - 1, config, per_epoch).lr == 1e-6


@pytest.mark.parametrize(("name", "numbers"), PUBLISHED.items())
def test_a_header_expects_the_published_numbers_and_says_whether_they_were_reproduced(
    name: str, numbers: tuple[str, str, str]
) -> None:
    text = find_recipe(name).text
    assert "kNN {} %, linear probe {} %, fine-tuned {} % (arXiv:2306.12243)".format(*numbers) in text
    assert "Not reproduced here yet" in text


def test_a_recipe_without_a_published_number_says_so() -> None:
    assert "no published number" in find_recipe("imagenette-vit-small").text


def forward_flops(config: Config) -> float:
    """Of the encoder for one image: two a multiplication, matrices and attention."""
    model, size = config.model, config.data.image_size or 0
    width, depth, patch = model.width or 0, model.depth or 0, model.patch_size or 1
    patches = (size // patch) ** 2
    tokens = patches + 1
    return 2 * (depth * (12 * tokens * width**2 + 2 * tokens**2 * width) + patches * 3 * patch**2 * width)


@pytest.mark.parametrize("name", GPU_RECIPES)
def test_hours_memory_and_steps_that_are_stated_follow_from_the_numbers(name: str) -> None:
    """docs/recipes.md, "Hours and memory, as calculated": 15 % of an A100's 312 Tflop/s; 36 bytes a token."""
    config, text = resolve(name), find_recipe(name).text
    optim, views, model = config.optim, config.views, config.model
    side = (config.data.image_size or 0) // (model.patch_size or 1)
    local_side = views.local_size // (model.patch_size or 1) if views.num_local_crops else 0
    steps = NUM_IMAGES[config.data.name] // optim.batch_size
    units = (8 if config.method.momentum is None else 9) + 6 * views.num_local_crops * local_side**2 / side**2
    flops = optim.epochs * steps * optim.batch_size * forward_flops(config) * units
    hours = flops / (0.15 * 312e12) / 3600
    assert f"calculated, not measured: {hours:,.0f} A100 hours, {hours / 8:,.0f} h on eight" in text
    (row,) = [
        line for line in PAGE.read_text(encoding="utf-8").splitlines() if re.search(rf"^\|[^|]*\| `{name}\b", line)
    ]
    assert f"| {hours:,.0f} A100 hours |" in row
    assert f"| {' | '.join(PUBLISHED.get(name, ('none published',)))} |" in row
    assert f"{optim.epochs} epochs of {steps:,} steps, {optim.batch_size:,} images a step" in text

    tokens = max(side**2 + 1, views.num_local_crops * (local_side**2 + 1))  # of the largest view with gradient
    activations = optim.batch_size * tokens * (model.depth or 0) * 36 * (model.width or 0)
    stated = re.search(r"# Memory +about (\d+) GB for ([\d,]+) images", text)
    assert stated is not None
    assert int(stated[2].replace(",", "")) == optim.batch_size
    assert 0 < int(stated[1]) - activations / 1e9 < 3  # and the weights, their gradients and AdamW's moments


@pytest.mark.parametrize("name", GPU_RECIPES)
def test_eight_processes_divide_the_batch(name: str) -> None:
    assert resolve(name, overrides={**ROOT, "run.num_devices": 8}).optim.batch_size % 8 == 0
