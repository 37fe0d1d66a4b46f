"""Which image gives which patch: the mixing of method.md, "Mixing" (PatchMix, arXiv:2306.12243, section 3).

N  images in the batch          T  patch positions, (H / p) * (W / p), row-major
M  images mixed into one        S  patches per group, floor(T / M)
"""

from __future__ import annotations

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

    @property
    def group_sizes(self) -> tuple[int, ...]:
        """Patches of each group, the left-over ones counted to group 0: what each image gives to a mixed one."""
        return group_sizes(self.groups.numel(), self.num_mix)

    @classmethod
    def draw(cls, num_patches: int, num_mix: int, patch_size: int, generator: torch.Generator | None = None) -> MixPlan:
        """A plan with a uniformly random permutation, drawn on the generator's device (CPU without one)."""
        device = generator.device if generator is not None else torch.device("cpu")
        return cls(torch.randperm(num_patches, generator=generator, device=device), num_mix, patch_size)

    def to(self, device: torch.device | str) -> MixPlan:
        """The same plan on another device; nothing is checked again and the copy does not stall a GPU."""
        plan = object.__new__(type(self))
        plan.num_mix, plan.patch_size = self.num_mix, self.patch_size
        plan.permutation = self.permutation.to(device, non_blocking=True)
        plan.groups = self.groups.to(device, non_blocking=True)
        return plan

    def sources(self, num_images: int, mix_group: int | None = None) -> Tensor:
        """[num_images, num_patches], int64: the image that each position of each mixed image comes from.

        `mix_group`: images among which (i + g) wraps, a divisor of num_images (None: all of them). One
        process with mix_group = n mixes as several processes of n images each do.
        """
        size = num_images if mix_group is None else mix_group
        if num_images % size:
            raise ValueError(f"mix_group = {size} does not divide the {num_images} images of the batch")
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
        if height % size or width % size or rows * columns != self.groups.numel():
            raise ValueError(
                f"images of {height} × {width} pixels do not divide into {self.groups.numel()} patches of "
                f"{size} × {size}"
            )
        source = self.sources(batch, mix_group).to(images.device)
        patches = images.reshape(batch, channels, rows, size, columns, size)
        # Expanded, so the index costs one number a patch and not one a pixel.
        index = source.view(batch, 1, rows, 1, columns, 1).expand_as(patches)
        return patches.gather(0, index).view(batch, channels, height, width)
