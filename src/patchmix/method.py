"""The method: views in, losses of one step out (method.md, "Loss of one step").

The table of contrasts (contrasts.py) says what is compared; one pass over the views reads it.

    x¹, x²  view1, view2          x̃¹, x̃²  mixed1, mixed2
    c, c̃    locals, mixed_locals: C crops of N images, concatenated crop by crop into C * N rows
    q, k    query (predictor output), key (gradient-free projection): [rows, projection_size]
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from patchmix import distributed
from patchmix.config import Config
from patchmix.contrasts import LOCAL_CROPS, PATCHMIX, Contrast, StepLosses
from patchmix.losses import soft_info_nce
from patchmix.mixing import MixPlan
from patchmix.models import heads
from patchmix.models.encoders import create_encoder
from patchmix.models.in_parts import encode, num_parts
from patchmix.models.spec import EncoderSpec
from patchmix.passes import Passes, stages
from patchmix.targets import Offsets, SoftTargets, soft_targets
from patchmix.timing import part


class ContrastiveModel(nn.Module):
    """Encoder, projector and predictor, and the momentum copies of the first two where there are any.

    Args:
        encoder: images [N, channels, height, width] to features [N, width].
        projector, predictor: the heads (models/heads.py).
        momentum: whether keys come from a momentum encoder (a copy, without drop path) or from the
            trained branch without gradient.
        smoothing: ε of the targets.
        mix_group: images among which mixing wraps; None: those of this process.
        exact_targets: weigh the images of a mixed one by their patches, not alike.
        contrasts: the method's table, without local crops.
        spec: of the encoder; with it a pass is cut into parts where that is quicker (models/in_parts.py).
        recompute: keep no activations of the encoder, compute them again in the backward pass.
    """

    def __init__(
        self,
        encoder: nn.Module,
        projector: nn.Module,
        predictor: nn.Module,
        *,
        momentum: bool,
        smoothing: float = 0.0,
        mix_group: int | None = None,
        exact_targets: bool = False,
        contrasts: tuple[Contrast, ...] = PATCHMIX,
        spec: EncoderSpec | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.projector, self.predictor = encoder, projector, predictor
        self.smoothing, self.mix_group = smoothing, mix_group
        self.exact_targets, self.contrasts = exact_targets, contrasts
        self.spec, self.recompute = spec, recompute
        self._targets: dict[object, SoftTargets] = {}
        self.momentum_encoder: nn.Module | None = None
        self.momentum_projector: nn.Module | None = None
        if momentum:
            self.momentum_encoder = copy.deepcopy(encoder).requires_grad_(False)
            self.momentum_projector = copy.deepcopy(projector).requires_grad_(False)
            for module in self.momentum_encoder.modules():
                if isinstance(module, DropPath):
                    module.drop_prob = 0.0

    @torch.no_grad()
    def update_momentum_encoder(self, momentum: float) -> None:
        """ξ ← m·ξ + (1 − m)·θ, parameters only: BatchNorm's buffers are the momentum branch's own."""
        if self.momentum_encoder is None or self.momentum_projector is None:
            return
        old: list[Tensor] = [*self.momentum_encoder.parameters(), *self.momentum_projector.parameters()]
        new: list[Tensor] = [*self.encoder.parameters(), *self.projector.parameters()]
        torch._foreach_lerp_(old, new, 1 - momentum)

    def forward(
        self,
        views: tuple[Tensor, Tensor],
        plans: tuple[MixPlan, MixPlan],
        temperature: float,
        local_views: Sequence[Tensor] = (),
        local_plans: Sequence[MixPlan] = (),
    ) -> StepLosses:
        """Losses of one step; every distinct (branch, view) runs once, view by view in the order of `inputs`.

        (BatchNorm's running statistics depend on that order; it is the reference's.) `begin` and `advance` do the same
        in stages.

        Args:
            views: x¹ and x², each [N, channels, height, width].
            plans: the mixing of x¹ and of x².
            temperature: τ.
            local_views: C crops, each [N, channels, local size, local size].
            local_plans: one per crop.
        """
        passes = self.begin(views, plans, temperature, local_views, local_plans)
        losses = dict.fromkeys(StepLosses._fields, torch.zeros((), device=views[0].device))
        while passes.stages:
            parts = self.advance(passes)
            losses |= parts | {"total": losses["total"] + self.weighted(parts)}
        return StepLosses(**losses)

    def begin(
        self,
        views: tuple[Tensor, Tensor],
        plans: tuple[MixPlan, MixPlan],
        temperature: float,
        local_views: Sequence[Tensor] = (),
        local_plans: Sequence[MixPlan] = (),
    ) -> Passes:
        """The passes of one step, of which none has run; the arguments are those of `forward`."""
        if len({plan.num_mix for plan in (*plans, *local_plans)}) > 1:
            raise ValueError("all plans of a step mix the same number of images")
        with part("mixing"):
            inputs = self.inputs(views, plans, local_views, local_plans)
        contrasts = self.contrasts + (LOCAL_CROPS if local_views else ())
        shares = self.shares(plans, local_plans)
        return Passes(inputs, shares, list(stages(inputs, contrasts)), len(views[0]), temperature)

    def advance(self, passes: Passes) -> dict[str, Tensor]:
        """Run the next stage: the bare cross-entropies (with gradient), by row, that are complete with it."""
        asking, answering = passes.asking, passes.answering
        stage = passes.stages.pop(0)
        for view in stage.views:
            with part(f"forward {view}"):
                images = passes.inputs.pop(view)
                key = None
                if view in asking:
                    projection = self.projector(self.encode(self.encoder, images))
                    passes.queries[view] = self.predictor(projection)
                    if self.momentum_encoder is None:
                        key = projection.detach()  # without momentum, k(x¹) is the one of q(x¹)'s own pass
                if view in answering:
                    passes.keys[view] = distributed.gather_rows(self.keys_of(images) if key is None else key)
        with part("loss"):
            losses = {row.name: self.loss_of(row, passes) for row in stage.rows}
            for row in stage.rows:
                passes.queries.pop(row.query, None)
        passes.losses |= {name: loss.detach() for name, loss in losses.items()}
        return losses

    def loss_of(self, row: Contrast, passes: Passes) -> Tensor:
        """The bare cross-entropy of one row of the table, summed over its keys."""
        query, parts = passes.queries[row.query], []
        for key in row.keys:
            offsets = row.target(passes.shares[row.query], passes.shares[key])
            target = self.target(offsets, passes.batch_size, query.device)
            target = target.repeat(len(query) // passes.batch_size)
            parts.append(soft_info_nce(query, passes.keys[key], target, passes.temperature, gather=False))
        return torch.stack(parts).sum()

    def weighted(self, losses: dict[str, Tensor]) -> Tensor:
        """The weighted sum of these rows' cross-entropies: a scalar."""
        rows = (*self.contrasts, *LOCAL_CROPS)
        return torch.stack([row.weight * losses[row.name] for row in rows if row.name in losses]).sum()

    def inputs(
        self,
        views: tuple[Tensor, Tensor],
        plans: tuple[MixPlan, MixPlan],
        local_views: Sequence[Tensor],
        local_plans: Sequence[MixPlan],
    ) -> dict[str, Tensor]:
        """The views that contrasts name, mixed ones included, in the order in which they run."""
        if len(local_views) != len(local_plans):
            raise ValueError(f"{len(local_views)} local views need as many plans, not {len(local_plans)}")
        inputs = {"view1": views[0], "view2": views[1]}
        inputs |= {
            f"mixed{number}": plan.mix(view, self.mix_group)
            for number, (view, plan) in enumerate(zip(views, plans, strict=True), start=1)
        }
        if local_views:
            pairs = zip(local_views, local_plans, strict=True)
            inputs["locals"] = torch.cat(list(local_views))
            inputs["mixed_locals"] = torch.cat([plan.mix(view, self.mix_group) for view, plan in pairs])
        return inputs

    def encode(self, encoder: nn.Module, images: Tensor) -> Tensor:
        """Features [rows, width] of one of the two encoders; a few images at a time where that pays."""
        recompute = self.recompute and torch.is_grad_enabled()
        parts = 1 if self.spec is None else num_parts(self.spec, images, recompute)
        return encode(encoder, images, parts, recompute)

    @torch.no_grad()
    def keys_of(self, images: Tensor) -> Tensor:
        """Keys [rows, projection_size] without gradient, of the momentum branch where there is one."""
        keys: Tensor
        if self.momentum_encoder is None or self.momentum_projector is None:
            keys = self.projector(self.encode(self.encoder, images))
            # Older torch (< 2.11) would give the next pass the weights that autocast has cast here, without gradient.
            torch.clear_autocast_cache()
        else:
            keys = self.momentum_projector(self.encode(self.momentum_encoder, images))
        return keys

    def shares(self, plans: tuple[MixPlan, MixPlan], local_plans: Sequence[MixPlan]) -> dict[str, tuple[int, ...]]:
        """How much of an image each of its groups is, by view; an image that is not mixed is one group."""
        mixed = {"mixed1": plans[0], "mixed2": plans[1]}
        if local_plans:
            mixed["mixed_locals"] = local_plans[0]
            if self.exact_targets and len({plan.group_sizes for plan in local_plans}) > 1:
                raise ValueError("all local crops are mixed in equally many patches")
        own: dict[str, tuple[int, ...]] = dict.fromkeys(("view1", "view2", "locals"), (1,))
        return own | {
            view: plan.group_sizes if self.exact_targets else (1,) * plan.num_mix for view, plan in mixed.items()
        }

    def target(self, offsets: Offsets, batch_size: int, device: torch.device) -> SoftTargets:
        """The sparse target with these offsets for this process's queries.

        The same in every step, so it is made once: sending one to a GPU would let the step wait for it.
        """
        key = (*offsets.items(), batch_size, device, self.mix_group, self.smoothing)
        if key not in self._targets:
            self._targets[key] = soft_targets(
                offsets,
                batch_size,
                rank=distributed.rank(),
                world_size=distributed.world_size(),
                mix_group=self.mix_group,
                smoothing=self.smoothing,
                device=device,
            )
        return self._targets[key]

    def parameter_groups(self, weight_decay: float) -> list[dict[str, Any]]:
        """[{decayed}, {not decayed}]: no decay on biases and one-dimensional parameters."""
        trained = [parameter for parameter in self.parameters() if parameter.requires_grad]
        return [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]

    @property
    def evaluation_encoder(self) -> nn.Module:
        """The encoder that evaluations take: the momentum encoder where there is one."""
        return self.encoder if self.momentum_encoder is None else self.momentum_encoder


class StageLoss(nn.Module):
    """The weighted loss of a step's next stage, as a module, since DDP and Fabric wrap modules."""

    def __init__(self, model: ContrastiveModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, passes: Passes) -> Tensor:
        """A scalar with gradient."""
        return self.model.weighted(self.model.advance(passes))


def mean_losses(losses: dict[str, Tensor]) -> dict[str, Tensor]:
    """What is logged of a step: {"loss", "loss_origin_to_origin", …}, means over all processes, no gradient.

    losses: bare cross-entropies by row, and "total".
    """
    names = [name for name in StepLosses._fields if name in losses]
    means = distributed.mean_over_ranks(torch.stack([losses[name] for name in names]))
    return {"loss" if name == "total" else f"loss_{name}": mean for name, mean in zip(names, means, strict=True)}


def build_model(config: Config, spec: EncoderSpec) -> ContrastiveModel:
    """A newly initialised model, the same for the same config.seed; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return ContrastiveModel(
            create_encoder(spec, config.model.drop_path, config.model.position_std),
            heads.projector(spec.width, config.model.projector_width, config.model.projection_size),
            heads.predictor(config.model.projector_width, config.model.projection_size),
            momentum=config.method.momentum is not None,
            smoothing=config.method.smoothing,
            mix_group=config.method.mix_group,
            exact_targets=config.method.target_weights == "patches",
            spec=spec,
            recompute=config.run.activation_checkpointing,
        )
