"""The method: views in, losses of one step out (method.md, "Loss of one step").

The table of contrasts (contrasts.py) says what is compared; one pass over the views reads it.

    x¹, x²  view1, view2          x̃¹, x̃²  mixed1, mixed2
    c, c̃    locals, mixed_locals: C crops of N images, concatenated crop by crop into C * N rows
    q, k    query (predictor output), key (gradient-free projection): [rows, projection_size]
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from patchmix import distributed
from patchmix.config import Config
from patchmix.contrasts import LOCAL_CROPS, METHODS, PATCHMIX, Contrast, has_momentum, table
from patchmix.losses import paired_info_nce, soft_info_nce
from patchmix.mixing import Plan
from patchmix.models import heads
from patchmix.models.encoders import create_encoder
from patchmix.models.in_parts import encode, num_parts
from patchmix.models.spec import EncoderSpec
from patchmix.offsets import Offsets
from patchmix.passes import Passes, stages
from patchmix.step_losses import StepLosses, by_name
from patchmix.targets import SoftTargets, target_columns, target_weights
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
        contrasts, with_crops: the method's table, of steps without and with local crops.
        paired: both sides of a contrast learn, as in SimCLR (losses.paired_info_nce).
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
        with_crops: tuple[Contrast, ...] = PATCHMIX + LOCAL_CROPS,
        paired: bool = False,
        spec: EncoderSpec | None = None,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        self.encoder, self.projector, self.predictor = encoder, projector, predictor
        self.smoothing, self.mix_group = smoothing, mix_group
        self.contrasts, self.with_crops = contrasts, with_crops
        self.exact_targets, self.paired = exact_targets, paired
        self.spec, self.recompute = spec, recompute
        self._columns: dict[object, Tensor] = {}
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
        plans: tuple[Plan, Plan],
        temperature: float,
        local_views: Sequence[Tensor] = (),
        local_plans: Sequence[Plan] = (),
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
        found: dict[Contrast, Tensor] = {}
        while passes.stages:
            found |= self.advance(passes)
        nothing = torch.zeros((), device=views[0].device)
        parts = dict.fromkeys(StepLosses._fields, nothing) | by_name(found)
        return StepLosses(**parts | {"total": self.weighted(found)})

    def begin(
        self,
        views: tuple[Tensor, Tensor],
        plans: tuple[Plan, Plan],
        temperature: float,
        local_views: Sequence[Tensor] = (),
        local_plans: Sequence[Plan] = (),
    ) -> Passes:
        """The passes of one step, of which none has run; the arguments are those of `forward`."""
        if len({plan.num_mix for plan in (*plans, *local_plans)}) > 1:
            raise ValueError("all plans of a step mix the same number of images")
        with part("mixing"):
            inputs = self.inputs(views, plans, local_views, local_plans)
        contrasts = self.with_crops if local_views else self.contrasts
        shares = self.shares(plans, local_plans)
        return Passes(inputs, shares, list(stages(inputs, contrasts)), len(views[0]), temperature)

    def advance(self, passes: Passes) -> dict[Contrast, Tensor]:
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
                    if self.momentum_encoder is None and not self.paired:
                        key = projection.detach()  # without momentum, k(x¹) is the one of q(x¹)'s own pass
                if view in answering and not self.paired:
                    passes.keys[view] = distributed.gather_rows(self.keys_of(images) if key is None else key)
        with part("loss"):
            losses = {row: self.loss_of(row, passes) for row in stage.rows}
            for row in stage.rows:
                passes.queries.pop(row.query, None)
        passes.losses |= {row: loss.detach() for row, loss in losses.items()}
        return losses

    def loss_of(self, row: Contrast, passes: Passes) -> Tensor:
        """The bare cross-entropy of one row of the table, summed over its keys."""
        query, parts = passes.queries[row.query], []
        if self.paired:
            (key,) = row.keys
            return paired_info_nce(query, passes.queries[key], passes.temperature)
        for key in row.keys:
            offsets = row.target(passes.shares[row.query], passes.shares[key])
            target = self.target(offsets, passes.batch_size, query.device)
            target = target.repeat(len(query) // passes.batch_size)
            parts.append(soft_info_nce(query, passes.keys[key], target, passes.temperature, gather=False))
        return torch.stack(parts).sum()

    def weighted(self, losses: dict[Contrast, Tensor]) -> Tensor:
        """The weighted sum of these rows' cross-entropies: a scalar."""
        return torch.stack([row.weight * loss for row, loss in losses.items()]).sum()

    def inputs(
        self,
        views: tuple[Tensor, Tensor],
        plans: tuple[Plan, Plan],
        local_views: Sequence[Tensor],
        local_plans: Sequence[Plan],
    ) -> dict[str, Tensor]:
        """The views that contrasts name, mixed ones included, in the order in which they run."""
        if len(local_views) != len(local_plans):
            raise ValueError(f"{len(local_views)} local views need as many plans, not {len(local_plans)}")
        contrasts = self.with_crops if local_views else self.contrasts
        named = {view for row in contrasts for view in (row.query, *row.keys)}
        makers: dict[str, Callable[[], Tensor]] = {
            "view1": lambda: views[0],
            "view2": lambda: views[1],
            "mixed1": lambda: plans[0].mix(views[0], self.mix_group),
            "mixed2": lambda: plans[1].mix(views[1], self.mix_group),
        }
        if local_views:
            pairs = list(zip(local_views, local_plans, strict=True))
            makers["locals"] = lambda: torch.cat(list(local_views))
            makers["mixed_locals"] = lambda: torch.cat([plan.mix(view, self.mix_group) for view, plan in pairs])
        return {view: make() for view, make in makers.items() if view in named}

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

    def shares(self, plans: tuple[Plan, Plan], local_plans: Sequence[Plan]) -> dict[str, tuple[int | float, ...]]:
        """How much of an image each of its groups is, by view; an image that is not mixed is one group."""
        mixed = {"mixed1": plans[0], "mixed2": plans[1]}
        if local_plans:
            mixed["mixed_locals"] = local_plans[0]
        weighed = {view: plan.exact or self.exact_targets for view, plan in mixed.items()}
        if weighed.get("mixed_locals") and len({plan.shares for plan in local_plans}) > 1:
            raise ValueError("all local crops are mixed in the same shares")
        own: dict[str, tuple[int | float, ...]] = dict.fromkeys(("view1", "view2", "locals"), (1,))
        return own | {view: plan.shares if weighed[view] else (1,) * plan.num_mix for view, plan in mixed.items()}

    def target(self, offsets: Offsets, batch_size: int, device: torch.device) -> SoftTargets:
        """The sparse target with these offsets for this process's queries.

        Its columns are the same in every step, so they are made once: sending them to a GPU would let the step wait.
        """
        key = (*offsets, batch_size, device, self.mix_group)
        if key not in self._columns:
            self._columns[key] = target_columns(
                tuple(offsets), batch_size, rank=distributed.rank(), mix_group=self.mix_group, device=device
            )
        num_keys = distributed.world_size() * batch_size
        return SoftTargets(self._columns[key], target_weights(offsets, device), num_keys, self.smoothing)

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


def build_model(config: Config, spec: EncoderSpec) -> ContrastiveModel:
    """A newly initialised model, the same for the same config.seed; the global random state is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        method = METHODS[config.method.name]
        return ContrastiveModel(
            create_encoder(spec, config.model.drop_path, config.model.position_std),
            heads.projector(spec.width, config.model.projector_width, config.model.projection_size),
            nn.Identity()
            if method.paired
            else heads.predictor(config.model.projector_width, config.model.projection_size),
            momentum=has_momentum(config.method),
            smoothing=config.method.smoothing,
            mix_group=config.method.mix_group,
            exact_targets=config.method.target_weights == "patches",
            contrasts=table(config.method, crops=False),
            with_crops=table(config.method, crops=True),
            paired=method.paired,
            spec=spec,
            recompute=config.run.activation_checkpointing,
        )
