"""Reads the checkpoints of the authors' reference implementation (method.md, last section).

A file is a dict with `state_dict`, `epoch`, `arch`; the keys are `module.base_encoder.*` and
`module.momentum_encoder.*` (a ViT in timm's naming, the projector as `head.0` … `head.7`) and
`module.predictor.*`. Nothing in it is unpickled but tensors and plain containers (`weights_only=True`).
"""

from __future__ import annotations

import math
import pickle
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from patchmix.checkpoint import below
from patchmix.data.statistics import GREY_PHOTO_MEAN, GREY_PHOTO_STD, IMAGENET_MEAN, IMAGENET_STD
from patchmix.errors import UserError
from patchmix.method import ContrastiveModel
from patchmix.models import heads
from patchmix.models.spec import EncoderSpec
from patchmix.models.vit import PUBLISHED_NAMES, PUBLISHED_SIZES, Encoder, create_vit

State = dict[str, Tensor]


def load_pretraining(path: str | Path, num_heads: int | None = None, drop_path: float = 0.0) -> ContrastiveModel:
    """The whole pre-training model of a reference checkpoint, heads included, in training mode.

    Args:
        path: the `.pth` file.
        num_heads: attention heads; None: by the published widths (192: 3, 384: 12, 768: 12).
        drop_path: of the trained encoder; it has no weights, so the file does not say.

    Returns:
        A model of the file's dtype; without momentum encoder where the file has none.

    Raises:
        UserError: not such a file, an unpublished width without num_heads, tensors missing or too many.
    """
    state = read_state(path)
    base = _part(state, "base_encoder.", path)
    spec = spec_of(base, path, num_heads)
    projector_state, predictor_state = below(base, "head."), below(state, "predictor.")
    try:
        out_size, hidden_size = projector_state["6.weight"].shape
        predictor_size, _ = predictor_state["0.weight"].shape
    except (KeyError, ValueError):
        raise UserError(
            f"{path}: no whole projector (head.0 … head.7) and predictor (predictor.0 … predictor.4): load_encoder "
            "reads the encoder alone"
        ) from None
    has_momentum = any(key.startswith("momentum_encoder.") for key in state)
    dtype = base["pos_embed"].dtype
    model = ContrastiveModel(
        create_vit(spec, drop_path),
        heads.projector(spec.width, hidden_size, out_size),
        heads.predictor(predictor_size, out_size),
        momentum=has_momentum,
    ).to(dtype)
    load_exactly(model.encoder, _without_head(base), path, "base_encoder")
    load_exactly(model.projector, projector_state, path, "base_encoder.head")
    load_exactly(model.predictor, predictor_state, path, "predictor")
    if model.momentum_encoder is not None and model.momentum_projector is not None:
        momentum = _part(state, "momentum_encoder.", path)
        load_exactly(model.momentum_encoder, _without_head(momentum), path, "momentum_encoder")
        load_exactly(model.momentum_projector, below(momentum, "head."), path, "momentum_encoder.head")
    return model


def load_encoder(
    path: str | Path, num_heads: int | None = None, branch: Literal["momentum", "base"] = "momentum"
) -> Encoder:
    """One encoder of a reference checkpoint, in eval mode: images to class-token features [N, width].

    `branch` "momentum" means the only encoder where the file has no momentum encoder. Other arguments and
    errors as in `load_pretraining`.
    """
    if branch not in ("momentum", "base"):
        raise ValueError(f"branch = {branch!r} is not accepted: momentum or base")
    state = read_state(path)
    prefix = f"{branch}_encoder."
    if branch == "momentum" and not any(key.startswith(prefix) for key in state):
        prefix = "base_encoder."
    part = _without_head(_part(state, prefix, path))
    encoder: Encoder = create_vit(spec_of(part, path, num_heads)).to(part["pos_embed"].dtype)
    load_exactly(encoder, part, path, prefix[:-1])
    encoder.eval()
    return encoder


def read_state(path: str | Path) -> State:
    """The tensors of a reference checkpoint, without the `module.` prefix of DistributedDataParallel."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except pickle.UnpicklingError:
        # torch's message advises to read the file unsafely.
        raise UserError(f"{path} holds more than tensors (a pickled model?), or is no torch file: not read") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from None
    except Exception as error:  # a file of something else can make torch's reader raise anything
        raise UserError(f"{path} is no torch file ({type(error).__name__} while reading it)") from None
    state = content.get("state_dict") if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise UserError(f"{path} is not a reference checkpoint: it has no `state_dict` of tensors")
    return {key.removeprefix("module."): value for key, value in state.items()}


def spec_of(encoder: State, path: str | Path, num_heads: int | None = None) -> EncoderSpec:
    """The encoder's description, read off the shapes; the number of heads leaves no trace in them."""
    try:
        width, channels, patch_size, _ = encoder["patch_embed.proj.weight"].shape
        num_patches = encoder["pos_embed"].shape[1] - 1
        grid = math.isqrt(num_patches)
    except (KeyError, ValueError):
        raise UserError(f"{path}: no Vision Transformer in timm's naming (patch_embed, pos_embed)") from None
    if grid * grid != num_patches:
        raise UserError(f"{path}: position embeddings of {num_patches} patches, which is no square grid")
    name = PUBLISHED_NAMES.get(width, "vit_tiny")
    if num_heads is None and width not in PUBLISHED_NAMES:
        raise UserError(
            f"{path}: width {width} is none of the published ones, {list(PUBLISHED_NAMES)}, and the file "
            "does not say how many attention heads it has: give num_heads"
        )
    heads_ = num_heads or PUBLISHED_SIZES[name][2]
    if width % heads_:
        raise UserError(f"num_heads = {heads_} does not divide the width {width} of {path}")
    depth = len({key.split(".")[1] for key in encoder if key.startswith("blocks.")})
    grey = channels == 1
    return EncoderSpec(
        name=name,
        image_size=(grid * patch_size, grid * patch_size),
        patch_size=patch_size,
        width=width,
        depth=depth,
        num_heads=heads_,
        channels=channels,
        pooling="token",
        mean=GREY_PHOTO_MEAN if grey else IMAGENET_MEAN,
        std=GREY_PHOTO_STD if grey else IMAGENET_STD,
    )


def load_exactly(module: nn.Module, state: State, source: str | Path, what: str) -> int:
    """Load every tensor or fail; returns how many there were.

    Raises:
        UserError: names the first missing, surplus or differently shaped tensors.
    """
    own = module.state_dict()
    missing, surplus = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    shapes = [key for key in own.keys() & state.keys() if own[key].shape != state[key].shape]
    if missing or surplus or shapes:
        found = (("missing", missing), ("not expected", surplus), ("of another shape", shapes))
        problems = [f"{len(keys)} {problem} (such as {keys[0]})" for problem, keys in found if keys]
        fit = len(own) - len(missing) - len(shapes)
        raise UserError(f"{source}: {fit} of {len(own)} tensors of {what} fit; {', '.join(problems)}")
    module.load_state_dict(state)
    return len(own)


def _without_head(state: State) -> State:
    return {key: value for key, value in state.items() if not key.startswith("head.")}


def _part(state: State, prefix: str, path: str | Path) -> State:
    part = below(state, prefix)
    if not part:
        raise UserError(f"{path} is not a reference checkpoint: no tensors named {prefix}*")
    return part
