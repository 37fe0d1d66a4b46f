"""Which image gives which patch: the mixing of method.md, "Mixing" (PatchMix, arXiv:2306.12243, section 3).

N  images in the batch          T  patch positions, (H / p) * (W / p), row-major
M  images mixed into one        S  patches per group, floor(T / M)

Other mixers are other plans: CutMix (arXiv:1905.04899) a rectangle of pixels, mixup (arXiv:1710.09412) a weighted mean.
Whatever the plan, mixed image i is made of the images i, i + 1, …, i + M - 1, in the `shares` that the plan has.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def group_sizes(num_patches: int, num_mix: int) -> tuple[int, ...]:
    """Patches of each of the M groups: S, and S + (T - M * S) for group 0, which has the left-over ones."""
    size = num_patches // num_mix
    return (num_patches - (num_mix - 1) * size, *[size] * (num_mix - 1))


class MixPlan:
    """One random division of the T patch positions into M groups, shared by a whole batch.

    Place q of the permutation belongs to group floor(q / S) for q < M * S; the T - M * S positions left
    over stay with their own image, as group 0 does. Mixed image i takes, at every position of group g,
    the patch that image (i + g) mod N has at that same position. M = 1 is the identity.

    Args:
        permutation: [num_patches], int64: position at each place.
        num_mix: M, from 1 to num_patches.
        patch_size: pixels a side of the patches that are mixed; a multiple of the model's patch.

    Raises:
        ValueError: M outside 1 … num_patches, or (checked on the CPU only, since it would stall a GPU)
            not a permutation.
    """

    exact = False  # whether targets weigh the images by their shares whatever the options say

    def __init__(self, permutation: Tensor, num_mix: int, patch_size: int) -> None:
        num_patches = permutation.numel()
        if permutation.ndim != 1 or permutation.dtype != torch.int64:
            shape = tuple(permutation.shape)
            raise ValueError(f"a permutation is an int64 vector, not {permutation.dtype} {shape}")
        if not 1 <= num_mix <= num_patches:
            raise ValueError(f"num_mix = {num_mix} is not accepted: 1 to {num_patches} patches")
        if patch_size < 1:
            raise ValueError(f"patch_size = {patch_size} is not accepted: 1 or more pixels")
        if permutation.device.type == "cpu" and not torch.equal(permutation.sort().values, torch.arange(num_patches)):
            raise ValueError(f"not a permutation of 0 … {num_patches - 1}")
        self.permutation = permutation
        self.num_mix = num_mix
        self.patch_size = patch_size
        group_size = num_patches // num_mix
        place = torch.arange(num_patches, device=permutation.device)
        group = torch.where(place < num_mix * group_size, place // group_size, 0)
        # groups[t] is the group of position t: the offset of the image that gives the patch there.
        self.groups = torch.empty_like(group).scatter_(0, permutation, group)
        self.sizes: tuple[int, ...] | None = None  # other ones than those of a permutation

    @classmethod
    def of_groups(cls, groups: Tensor, sizes: Sequence[int], patch_size: int) -> MixPlan:
        """A plan that says itself which group each position is in.

        Args:
            groups: [num_patches], or [batch, num_patches] where each image is cut in its own way: int64, 0 to M - 1.
            sizes: positions of each of the M groups, the same in every image.
            patch_size: as above.
        """
        plan = object.__new__(cls)
        plan.groups, plan.patch_size = groups, patch_size
        plan.num_mix, plan.sizes = len(sizes), tuple(sizes)
        return plan

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Patches of each group, the left-over ones counted to group 0: what each image gives to a mixed one."""
        return self.sizes or group_sizes(self.groups.shape[-1], self.num_mix)

    @property
    def shares(self) -> tuple[int | float, ...]:
        """How much of a mixed image each of its M images is, in any unit."""
        return self.group_sizes

    @classmethod
    def draw(cls, num_patches: int, num_mix: int, patch_size: int, generator: torch.Generator | None = None) -> MixPlan:
        """A plan with a uniformly random permutation, drawn on the generator's device (CPU without one)."""
        device = generator.device if generator is not None else torch.device("cpu")
        return cls(torch.randperm(num_patches, generator=generator, device=device), num_mix, patch_size)

    @classmethod
    def draw_each(
        cls, num_images: int, num_patches: int, num_mix: int, patch_size: int, generator: torch.Generator
    ) -> MixPlan:
        """A permutation for each image of a batch (an ablation: the paper has one for all)."""
        order = torch.rand(num_images, num_patches, generator=generator).argsort(1)
        sizes = group_sizes(num_patches, num_mix)
        group = torch.arange(num_mix).repeat_interleave(torch.tensor(sizes)).expand_as(order)
        return cls.of_groups(torch.empty_like(order).scatter_(1, order, group), sizes, patch_size)

    def to(self, device: torch.device | str) -> MixPlan:
        """The same plan on another device; nothing is checked again and the copy does not stall a GPU."""
        plan = object.__new__(type(self))
        plan.__dict__ = self.__dict__ | {"groups": self.groups.to(device, non_blocking=True)}
        return plan

    def sources(self, num_images: int, mix_group: int | None = None) -> Tensor:
        """[num_images, num_patches], int64: the image that each position of each mixed image comes from.

        `mix_group`: images among which (i + g) wraps, a divisor of num_images (None: all of them). One
        process with mix_group = n mixes as several processes of n images each do.
        """
        size = num_images if mix_group is None else mix_group
        if num_images % size:
            raise ValueError(f"mix_group = {size} does not divide the {num_images} images of the batch")
        if self.groups.ndim == 2 and len(self.groups) != num_images:
            raise ValueError(f"a plan for {len(self.groups)} images does not fit a batch of {num_images}")
        image = torch.arange(num_images, device=self.groups.device)[:, None]
        return image - image % size + (image % size + self.groups) % size

    def mix(self, images: Tensor, mix_group: int | None = None) -> Tensor:
        """Mixed images; method.md, "Mixing", step 2. One gather, no loop over patches or images.

        Args:
            images: [batch, channels, height, width], any floating or integer type; height and width are
                multiples of patch_size and give num_patches positions.
            mix_group: see `sources`.

        Returns:
            A new tensor of the same shape, type and device.

        Raises:
            ValueError: the images do not divide into the plan's patches.
        """
        batch, channels, height, width = images.shape
        size = self.patch_size
        rows, columns = height // size, width // size
        if height % size or width % size or rows * columns != self.groups.shape[-1]:
            raise ValueError(
                f"images of {height} × {width} pixels do not divide into {self.groups.shape[-1]} patches of "
                f"{size} × {size}"
            )
        source = self.sources(batch, mix_group).to(images.device)
        patches = images.reshape(batch, channels, rows, size, columns, size)
        # Expanded, so the index costs one number a patch and not one a pixel.
        index = source.view(batch, 1, rows, 1, columns, 1).expand_as(patches)
        return patches.gather(0, index).view(batch, channels, height, width)


class PastePlan:
    """CutMix of two: in a rectangle every image has the pixels of the next one.

    Args:
        image_size: (height, width).
        rows, columns: of the rectangle: from, to below.
    """

    exact, num_mix = True, 2

    def __init__(self, image_size: tuple[int, int], rows: tuple[int, int], columns: tuple[int, int]) -> None:
        self.image_size, self.rows, self.columns = image_size, slice(*rows), slice(*columns)
        area = (rows[1] - rows[0]) * (columns[1] - columns[0])
        self.shares = (image_size[0] * image_size[1] - area, area)

    @classmethod
    def draw(cls, image_size: tuple[int, int], generator: torch.Generator) -> PastePlan:
        """A rectangle of 1 - λ of the area (λ uniform), its centre anywhere, cut off at the borders."""
        area, *centre = torch.rand(3, generator=generator).tolist()
        rows, columns = (
            (max(0, round((middle - area**0.5 / 2) * side)), min(side, round((middle + area**0.5 / 2) * side)))
            for middle, side in zip(centre, image_size, strict=True)
        )
        return cls(image_size, rows, columns)

    def to(self, device: torch.device | str) -> PastePlan:
        """The same plan: it has no tensors."""
        return self

    def mix(self, images: Tensor, mix_group: int | None = None) -> Tensor:
        """Mixed images [batch, channels, height, width], of the same type. `mix_group` as in `MixPlan.sources`."""
        if images.shape[-2:] != self.image_size:
            raise ValueError(f"a plan for {self.image_size} pixels does not fit images of {tuple(images.shape[-2:])}")
        mixed = images.clone()
        box = _grouped(images, mix_group)[..., self.rows, self.columns]
        _grouped(mixed, mix_group)[..., self.rows, self.columns] = box.roll(-1, 1)
        return mixed


class BlendPlan:
    """mixup: mixed image i is Σ s_g · image (i + g) mod N.

    Args:
        shares: s_0 … s_(M-1), which sum to 1.
    """

    exact = True

    def __init__(self, shares: Sequence[int | float]) -> None:
        self.shares = tuple(shares)
        self.num_mix = len(self.shares)

    @classmethod
    def draw(cls, num_mix: int, generator: torch.Generator) -> BlendPlan:
        """Shares uniform over all that sum to 1: for two images λ of Beta(1, 1), as Un-Mix and i-Mix draw it."""
        spacings = torch.empty(num_mix).exponential_(generator=generator)
        return cls((spacings / spacings.sum()).tolist())

    def to(self, device: torch.device | str) -> BlendPlan:
        """The same plan: it has no tensors."""
        return self

    def mix(self, images: Tensor, mix_group: int | None = None) -> Tensor:
        """Mixed images [batch, channels, height, width], of floating type. `mix_group` as in `MixPlan.sources`."""
        grouped = _grouped(images, mix_group)
        mixed = grouped * self.shares[0]
        for group, share in enumerate(self.shares[1:], start=1):
            mixed.add_(grouped.roll(-group, 1), alpha=share)
        return mixed.view_as(images)


def _grouped(images: Tensor, mix_group: int | None) -> Tensor:
    """[groups, images of a group, …], a view."""
    size = mix_group or len(images)
    if len(images) % size:
        raise ValueError(f"mix_group = {size} does not divide the {len(images)} images of the batch")
    return images.view(-1, size, *images.shape[1:])


Plan = MixPlan | PastePlan | BlendPlan
