"""A training step written from docs/method.md in the usual way: eager float32, five passes, dense targets.

What this package's step is compared with: the same loss and gradients (tests/unit/test_plain_step.py). No needless
slowness: the momentum branch has no gradient, nothing is computed twice, and every layer is torch's or timm's own.

N  images     C  local crops of each     M  images mixed into one
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from patchmix.config import Config
from patchmix.models.spec import EncoderSpec
from patchmix.timing import part


class PlainModel(nn.Module):
    """Encoder, projector and predictor of method.md, and copies of the first two for keys."""

    def __init__(self, config: Config, spec: EncoderSpec) -> None:
        super().__init__()
        self.encoder = timm.create_model(
            "vit_tiny_patch16_224",
            num_classes=0,
            img_size=spec.image_size,
            patch_size=spec.patch_size,
            embed_dim=spec.width,
            depth=spec.depth,
            num_heads=spec.num_heads,
            in_chans=spec.channels,
            drop_path_rate=config.model.drop_path,
            dynamic_img_size=True,  # patches come as a grid, so that local crops fit too
            weight_init="moco",
        )
        hidden, size = config.model.projector_width, config.model.projection_size
        self.projector = nn.Sequential(
            nn.Linear(spec.width, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, size, bias=False),
            nn.BatchNorm1d(size, affine=False),
        )
        self.predictor = nn.Sequential(
            nn.Linear(size, hidden, bias=False),
            nn.BatchNorm1d(hidden),
            nn.ReLU(inplace=True),
            nn.Linear(hidden, size, bias=False),
            nn.BatchNorm1d(size, affine=False),
        )
        self.has_momentum = config.method.momentum is not None
        self.copy_momentum_branch()

    def copy_momentum_branch(self) -> None:
        """The momentum branch begins as the trained one, without drop path."""
        if not self.has_momentum:
            return
        self.momentum_encoder = copy.deepcopy(self.encoder).requires_grad_(False)
        self.momentum_projector = copy.deepcopy(self.projector).requires_grad_(False)
        for module in self.momentum_encoder.modules():
            if isinstance(module, timm.layers.DropPath):
                module.drop_prob = 0.0

    @torch.no_grad()
    def update_momentum_branch(self, momentum: float) -> None:
        """ξ ← m·ξ + (1 − m)·θ, parameter by parameter."""
        pairs = ((self.momentum_encoder, self.encoder), (self.momentum_projector, self.projector))
        for old, new in pairs:
            for kept, trained in zip(old.parameters(), new.parameters(), strict=True):
                kept.mul_(momentum).add_(trained, alpha=1 - momentum)

    def project(self, images: Tensor) -> Tensor:
        """Projections of the trained branch, with gradient."""
        return self.projector(features(self.encoder, images))

    @torch.no_grad()
    def keys(self, images: Tensor) -> Tensor:
        """Projections without gradient, of the momentum branch where there is one."""
        if not self.has_momentum:
            return self.project(images)
        return self.momentum_projector(features(self.momentum_encoder, images))


def features(encoder: nn.Module, images: Tensor) -> Tensor:
    """Class token of a timm ViT; the position embeddings of another grid are resized as method.md says."""
    patches = encoder.patch_embed(images)
    _, rows, columns, width = patches.shape
    grid, position = encoder.patch_embed.grid_size, encoder.pos_embed
    if (rows, columns) != tuple(grid):
        trained = position[:, 1:].reshape(1, *grid, width).permute(0, 3, 1, 2)
        factors = ((rows + 0.1) / grid[0], (columns + 0.1) / grid[1])
        resized = F.interpolate(trained, scale_factor=factors, mode="bicubic")
        position = torch.cat([position[:, :1], resized.permute(0, 2, 3, 1).reshape(1, rows * columns, width)], dim=1)
    token = encoder.cls_token.expand(len(images), -1, -1)
    tokens = torch.cat([token, patches.flatten(1, 2)], dim=1) + position
    return encoder.norm(encoder.blocks(tokens))[:, 0]


def mix(images: Tensor, permutation: Tensor, num_mix: int, patch_size: int) -> Tensor:
    """Mixed images: every image gets, one after the other, the patches of the other groups from its neighbours."""
    rows, columns = images.shape[2] // patch_size, images.shape[3] // patch_size
    size = len(permutation) // num_mix
    mixed = images.clone()
    for group in range(1, num_mix):
        chosen = torch.zeros(rows * columns, dtype=torch.bool, device=images.device)
        chosen[permutation[group * size : (group + 1) * size]] = True
        pixels = chosen.view(rows, columns).repeat_interleave(patch_size, 0).repeat_interleave(patch_size, 1)
        for number in range(len(images)):
            other = images[(number + group) % len(images)]
            mixed[number] = torch.where(pixels, other, mixed[number])
    return mixed


def mix_to_origin(batch_size: int, num_mix: int, device: torch.device) -> Tensor:
    """[N, N]: 1/M at columns i, i + 1, …, i + M − 1 (mod N)."""
    own = torch.eye(batch_size, device=device)
    return torch.stack([own.roll(offset, dims=1) for offset in range(num_mix)]).sum(0) / num_mix


def mix_to_mix(batch_size: int, num_mix: int, device: torch.device) -> Tensor:
    """[N, N]: (M − |d|)/M² at column i + d (mod N)."""
    own = torch.eye(batch_size, device=device)
    offsets = range(1 - num_mix, num_mix)
    weighted = [(num_mix - abs(offset)) / num_mix**2 * own.roll(offset, dims=1) for offset in offsets]
    return torch.stack(weighted).sum(0)


def contrast(queries: Tensor, keys: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """CE(q, k; t) of method.md with a dense target, [rows, N]."""
    logits = F.normalize(queries) @ F.normalize(keys).T / temperature
    return F.cross_entropy(logits, targets.to(logits.dtype))


class PlainStep:
    """Whole training steps: momentum update, mixing, five passes (seven with crops), losses, backward, AdamW.

    Its mixing squares are the model's patches; targets are those of the recipes (all images of a mixture alike).
    """

    def __init__(self, config: Config, spec: EncoderSpec, device: torch.device | str = "cpu") -> None:
        self.config, self.spec, self.device = config, spec, torch.device(device)
        self.model = PlainModel(config, spec).to(self.device).train()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        groups = [
            {"params": [each for each in trained if each.ndim > 1], "weight_decay": config.optim.weight_decay},
            {"params": [each for each in trained if each.ndim <= 1], "weight_decay": 0.0},
        ]
        lr = config.optim.lr * config.optim.batch_size / 256
        self.optimizer = torch.optim.AdamW(groups, lr=lr, betas=(config.optim.beta1, config.optim.beta2))

    def load(self, parts: dict[str, nn.Module]) -> None:
        """Take the weights of an `encoder`, a `projector` and a `predictor` of the same sizes."""
        for name, module in parts.items():
            getattr(self.model, name).load_state_dict(module.state_dict())
        self.model.copy_momentum_branch()

    def __call__(self, views: Sequence[Tensor], local_views: Sequence[Tensor] = ()) -> float:
        """One step on uint8 views [N, channels, height, width]; returns the loss."""
        if self.config.method.momentum is not None:
            with part("momentum"):
                self.model.update_momentum_branch(self.config.method.momentum)
        with part("views"):
            whole, crops = ([self.normalise(each) for each in some] for some in (views, local_views))
            orders, crop_orders = ([self.draw(each) for each in some] for some in (whole, crops))
        loss = self.loss(whole, orders, crops, crop_orders)
        with part("optimiser"):
            self.optimizer.zero_grad()
        with part("backward"):
            loss.backward()
        with part("optimiser"):
            self.optimizer.step()
        with part("logging"):
            return loss.item()

    def normalise(self, images: Tensor) -> Tensor:
        """uint8 to normalised float32, on the device."""
        scaled = images.to(self.device).float() / 255
        mean, std = (torch.tensor(each, device=self.device).view(-1, 1, 1) for each in (self.spec.mean, self.spec.std))
        return (scaled - mean) / std

    def draw(self, images: Tensor) -> Tensor:
        """A permutation of the patch positions of these images."""
        height, width = images.shape[-2:]
        return torch.randperm(height * width // self.spec.patch_size**2, device=self.device)

    def loss(
        self,
        views: Sequence[Tensor],
        permutations: Sequence[Tensor],
        local_views: Sequence[Tensor] = (),
        local_permutations: Sequence[Tensor] = (),
    ) -> Tensor:
        """Loss of one step (method.md) on normalised views."""
        model, method = self.model, self.config.method
        num_mix, patch_size, count = method.num_mix, self.spec.patch_size, len(views[0])
        with part("mixing"):
            pairs = zip([*views, *local_views], [*permutations, *local_permutations], strict=True)
            mixed1, mixed2, *mixed_crops = (mix(view, order, num_mix, patch_size) for view, order in pairs)
        with part("forward view1"):
            projection = model.project(views[0])
            key1 = model.keys(views[0]) if model.has_momentum else projection.detach()
            query = model.predictor(projection)
        with part("forward view2"):
            key2 = model.keys(views[1])
        with part("forward mixed1"):
            mixed_key = model.keys(mixed1)
        with part("forward mixed2"):
            mixed_query = model.predictor(model.project(mixed2))
        with part("loss"):
            own = self.smooth(torch.eye(count, device=self.device))
            to_origin = self.smooth(mix_to_origin(count, num_mix, self.device))
            to_mix = self.smooth(mix_to_mix(count, num_mix, self.device))
            total = contrast(query, key2, own, method.temperature)
            total = total + contrast(mixed_query, key1, to_origin, method.temperature) / 2
            total = total + contrast(mixed_query, mixed_key, to_mix, method.temperature) / 2
        named = {"locals": (local_views, own), "mixed_locals": (mixed_crops, to_origin)}
        for name, (crops, target) in named.items() if local_views else ():
            with part(f"forward {name}"):
                query = model.predictor(model.project(torch.cat(list(crops))))
            with part("loss"):
                # The mean over C · N rows is the (1/C)·Σ of method.md.
                target = target.repeat(len(crops), 1)
                total = total + sum(contrast(query, key, target, method.temperature) for key in (key1, key2))
        return total

    def smooth(self, target: Tensor) -> Tensor:
        """Spread ε evenly over all columns."""
        smoothing = self.config.method.smoothing
        return (1 - smoothing) * target + smoothing / target.shape[1]
