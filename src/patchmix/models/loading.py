"""Encoders from whatever a user has: a run, a file of ours, a reference .pth, or timm:MODEL."""

from __future__ import annotations

import dataclasses
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import nn

from patchmix import checkpoint
from patchmix.errors import UserError
from patchmix.interop import official
from patchmix.models.backbones import OWN_POOLING, feature_width
from patchmix.models.encoders import create_encoder
from patchmix.models.spec import EncoderSpec
from patchmix.models.vit import is_plain_vit

HEAD_STD = 0.02  # of a new classifier's weights, as timm's ViTs have them
CLASSIFIER_PREFIX = "classifier."


@dataclass(frozen=True)
class LoadedEncoder:
    """An encoder in eval mode and where it comes from.

    encoder: images [N, channels, height, width], normalised, to features [N, width], before any head.
    spec: its architecture and the images it expects.
    description: one line that says what was loaded.
    config: the config of the run, where it is one of ours.
    run_directory: the run it belongs to, where there is one.
    timm_name: set for timm:MODEL.
    """

    encoder: nn.Module
    spec: EncoderSpec
    description: str
    config: dict[str, Any] | None = None
    run_directory: Path | None = None
    timm_name: str | None = None

    def untrained(self, seed: int) -> nn.Module:
        """The same architecture before training, initialised as pre-training does, in eval mode."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self._build(0.0).eval()

    def classifier(self, num_classes: int, *, drop_path: float = 0.0, seed: int = 0) -> nn.Module:
        """A trainable copy of the encoder with stochastic depth and a new linear head: images to logits [N, classes].

        The head is timm's of this architecture, with weights of σ = 0.02 (`seed`) and no bias, as timm begins ViTs.

        Raises:
            UserError: the architecture has no stochastic depth.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model: Any = self._build(drop_path)
            model.load_state_dict(self.encoder.state_dict())
            model.reset_classifier(num_classes)
            head = model.get_classifier()
            if isinstance(head, nn.Linear):
                nn.init.trunc_normal_(head.weight, std=HEAD_STD)
                nn.init.zeros_(head.bias)
        network: nn.Module = model.train()
        return network

    def _build(self, drop_path: float) -> nn.Module:
        """The architecture, newly initialised."""
        if self.timm_name is None:
            position_std = (self.config or {}).get("model", {}).get("position_std")
            return create_encoder(self.spec, drop_path, position_std)
        options = {"drop_path_rate": drop_path} if drop_path else {}
        try:
            model: nn.Module = timm.create_model(self.timm_name, pretrained=False, num_classes=0, **options)
        except TypeError as error:
            if "drop_path_rate" not in str(error):
                raise
            raise UserError(f"drop_path = {drop_path}: {self.timm_name} has no stochastic depth; give 0") from None
        return model


def resolve_encoder(source: str | Path, *, num_heads: int | None = None, pretrained: bool = True) -> LoadedEncoder:
    """The encoder that `--checkpoint` names; of a run, the momentum encoder of the newest whole checkpoint.

    Args:
        source: a run directory, a `.safetensors` file of ours, a reference checkpoint (`.pth`, `.pt`,
            `.tar`), or `timm:MODEL` with its pretrained weights.
        num_heads: for reference checkpoints of unpublished widths; our files say it themselves.
        pretrained: False takes timm:MODEL with weights as timm initialises it, for its architecture alone.

    Raises:
        UserError: nothing there, not such a file, or tensors that do not all fit.
    """
    text = str(source)
    if text.startswith("timm:"):
        return _from_timm(text.removeprefix("timm:"), pretrained)
    path = Path(source)
    if not path.exists():
        raise UserError(f"checkpoint {text!r}: no such run or file (a model of timm's is named timm:MODEL)")
    if path.is_dir():
        return _from_run(path, num_heads)
    if path.suffix == ".safetensors":
        return _from_file(path, num_heads)
    return _from_reference(path, num_heads)


def untrained(architecture: str, *, num_heads: int | None = None, seed: int = 0) -> LoadedEncoder:
    """An encoder before training, with the architecture of a run, a file or timm:MODEL; it belongs to no run.

    Raises:
        UserError: as `resolve_encoder`.
    """
    loaded = resolve_encoder(architecture, num_heads=num_heads, pretrained=False)
    return dataclasses.replace(
        loaded,
        encoder=loaded.untrained(seed),
        description=f"untrained, the architecture of {architecture}",
        run_directory=None,
    )


def _from_run(path: Path, num_heads: int | None) -> LoadedEncoder:
    found, damaged = checkpoint.newest_whole(path)
    for line in damaged:
        print(f"patchmix: {line}", file=sys.stderr)
    if found is None:
        if (path / "config.yaml").exists():
            raise UserError(f"{path}: the run has no whole checkpoint yet; go on with pretrain --resume")
        raise UserError(f"{path} is no run of patchmix (it has no checkpoints/step-*.safetensors)")
    return _of_checkpoint(found, path, num_heads)


def _from_file(path: Path, num_heads: int | None) -> LoadedEncoder:
    try:
        found = checkpoint.read(path)
    except checkpoint.DamagedCheckpoint as error:
        raise UserError(f"{path}: {error}") from None
    run = path.parent.parent
    return _of_checkpoint(found, run if (run / "config.yaml").exists() else None, num_heads)


def _of_checkpoint(found: checkpoint.Checkpoint, run_directory: Path | None, num_heads: int | None) -> LoadedEncoder:
    if "encoder" not in found.metadata and (command := found.metadata.get("command")):
        raise UserError(
            f"{found.path} holds the state of `{command}`, not an encoder: give the checkpoint "
            "that it started from, or results/finetune/model.safetensors"
        )
    spec = EncoderSpec.from_dict(checkpoint.refuse_other_encoder(found.metadata, found.path))
    if num_heads is not None and num_heads != spec.num_heads:
        # The tensors would fit and the features would be nonsense.
        has = f"was trained with {spec.num_heads}" if spec.is_vit else f"is a {spec.name}, which has none"
        raise UserError(f"num_heads = {num_heads}, but {found.path} {has}")
    tensors = found.model_tensors()
    momentum = any(name.startswith("momentum_encoder.") for name in tensors)
    prefix = "momentum_encoder." if momentum else "encoder."
    state = {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
    encoder = create_encoder(spec)
    count = official.load_exactly(encoder, state, found.path, prefix[:-1])
    branch = "momentum encoder" if momentum else "encoder"
    headless = ", its classifier left out" if any(name.startswith(CLASSIFIER_PREFIX) for name in tensors) else ""
    return LoadedEncoder(
        encoder.eval(),
        spec,
        f"{branch} of {found.path}, step {found.step}: {count} of {count} tensors"
        + (f", {spec.num_heads} heads" if spec.is_vit else f" of {spec.name}")
        + headless,
        config=found.metadata.get("config"),
        run_directory=run_directory,
    )


def _from_reference(path: Path, num_heads: int | None) -> LoadedEncoder:
    encoder = official.load_encoder(path, num_heads=num_heads)
    state = encoder.state_dict()
    spec = official.spec_of(state, path, num_heads)
    return LoadedEncoder(encoder.float(), spec, f"reference checkpoint {path}: {len(state)} of {len(state)} tensors")


def _from_timm(name: str, pretrained: bool) -> LoadedEncoder:
    if not timm.is_model(name):
        near = timm.list_models(f"*{name.split('.')[0]}*")[:3]
        hint = f"; do you mean {', '.join(near)}?" if near else ""
        raise UserError(f"checkpoint timm:{name}: timm has no such model{hint}")
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)  # a line for each retry
    try:
        model: Any = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # the hub's errors are many, none of them in timm's interface
        why = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"checkpoint timm:{name}: its pretrained weights cannot be had ({why}); without network they must lie in "
            "the Hugging Face cache (HF_HOME)"
        ) from None
    model.eval()
    cfg = model.pretrained_cfg
    vit = is_plain_vit(model)
    channels, *image_size = cfg["input_size"]
    try:
        width = feature_width(model, channels, tuple(image_size))
    except ValueError as error:
        raise UserError(f"checkpoint timm:{name} cannot be evaluated: {error}") from None
    spec = EncoderSpec(
        name=name,
        image_size=tuple(image_size),
        patch_size=model.patch_embed.patch_size[0] if vit else None,
        width=width,
        depth=len(model.blocks) if vit else None,
        num_heads=model.blocks[0].attn.num_heads if vit else None,
        channels=channels,
        pooling=model.global_pool if vit else OWN_POOLING,
        mean=tuple(cfg["mean"]),
        std=tuple(cfg["std"]),
    )
    count = len(model.state_dict())
    return LoadedEncoder(model, spec, f"timm model {name}: {count} of {count} tensors", timm_name=name)
