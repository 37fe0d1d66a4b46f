"""What a contrast's target gives to which image, by distance: method.md, "Targets". No torch.

Every group g of a mixed image i is of image i + g. How large the groups of queries and keys are, decides the weights:
a sequence of M numbers in any unit, such as patches; (1,) * M says equal, as published, and (1,) an image that is not
mixed (decision 0018).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# d: weight of the key of image i + d for the query of image i; the weights of a contrast sum to 1.
Offsets = dict[int, float]
Shares = Sequence[int | float]  # of the groups of a mixed image, in any unit


def origin_offsets(query: Shares, key: Shares) -> Offsets:
    """origin to origin: 1 at the image's own column."""
    return {0: 1.0}


def mix_to_origin_offsets(query: Shares, key: Shares) -> Offsets:
    """mix to origin: s_g at image i + g, the share of group g; 1/M for equal groups."""
    whole = sum(query)
    return {group: size / whole for group, size in enumerate(query)}


def origin_to_mix_offsets(query: Shares, key: Shares) -> Offsets:
    """origin to mix, the same seen from the key: mixed image j holds image i as group i - j, so s_g at j = i - g."""
    return {-group: weight for group, weight in mix_to_origin_offsets(key, query).items()}


def mix_to_mix_offsets(query: Shares, key: Shares) -> Offsets:
    """mix to mix: Σ s_g·s'_h over the groups g of one and h of the other with g - h = d, which are of one image.

    (M - |d|)/M² for equal groups, the share of groups that two mixed images d apart have in common.
    """
    common = np.correlate(query, key, "full").tolist()
    whole = sum(query) * sum(key)
    return {d: size / whole for d, size in enumerate(common, start=1 - len(key))}


def overlap_offsets(query: Shares, key: Shares) -> Offsets:
    """mix to mix of SDMP: in proportion to Σ min(s_g, s'_h) over the groups g - h = d, which are of one image.

    That is 1 for a mixed image and itself with the same shares, min(λ, 1 - λ) for its neighbours of two.
    """
    first, second = ([share / sum(shares) for share in shares] for shares in (query, key))
    common: Offsets = {}
    for group, share in enumerate(first):
        for other, least in enumerate(second):
            common[group - other] = common.get(group - other, 0.0) + min(share, least)
    whole = sum(common.values())
    return {d: size / whole for d, size in common.items()}
