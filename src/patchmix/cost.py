"""What a training step costs, in units of one encoder forward pass of the batch (method.md, "Networks"). No torch.

A view that asks costs three (a backward pass counts two), one that answers one; where keys come from the trained branch
a view that does both is computed once. Heads, loss and optimiser are not counted.
"""

from __future__ import annotations

from patchmix.config import Config
from patchmix.contrasts import OTHER, has_momentum, table


def forward_units(config: Config, image_size: tuple[int, int] | None = None) -> float:
    """Units of a step with these options: 9 for PatchMix with a momentum encoder, 8 without.

    image_size: of a global view in pixels (None: data.image_size); local crops count by their patches, which is by
        their area.

    Raises:
        ValueError: there are local crops and nothing says how large a view is.
    """
    rows = table(config.method, config.views.num_local_crops > 0)
    queries = {row.query for row in rows}
    keys = {key for row in rows for key in row.keys}
    if not has_momentum(config.method):
        keys -= queries
    global_queries = queries & set(OTHER)
    units = 3.0 * len(global_queries) + len(keys)
    if crops := queries - global_queries:
        units += 3 * len(crops) * config.views.num_local_crops * _share_of_crop(config, image_size)
    return units


def _share_of_crop(config: Config, image_size: tuple[int, int] | None) -> float:
    """Patches of a local crop as a share of a view's, which is the ratio of their areas."""
    if image_size is None:
        if config.data.image_size is None:
            raise ValueError("local crops are counted by their share of a view, whose size is not known")
        image_size = (config.data.image_size,) * 2
    return config.views.local_size**2 / (image_size[0] * image_size[1])
