"""What can be said about features without labels: RankMe, alignment, uniformity, standard deviation.

All take features [n, width] in any precision and compute in float64. Non-finite features give NaN, so that
a diverging run is seen in its curves and not in a traceback.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

RANKME_EPSILON = 1e-7


def rankme(features: Tensor) -> float:
    """Effective rank exp(−Σ pₖ log pₖ), pₖ = σₖ / Σσ + 1e-7 over the singular values σ of the features.

    From about 1 (all features alike, whatever their length) to about min(n, width). Features enter as they
    are, neither centred nor normalised. All-zero features have rank 0.
    Source: Garrido et al., "RankMe", ICML 2023 (arXiv:2210.02885), equations 1 and 2.
    """
    matrix = features.detach().double()
    if not bool(torch.isfinite(matrix).all()):
        return math.nan
    singular = torch.linalg.svdvals(matrix)
    total = singular.sum()
    if total == 0:
        return 0.0
    share = singular / total + RANKME_EPSILON
    return float(torch.exp(-(share * share.log()).sum()))


def alignment(first: Tensor, second: Tensor) -> float:
    """Mean squared distance E‖f(x) − f(y)‖² of two views' L2-normalised features, row i with row i; 0 to 4.

    Lower means views of one image lie closer together.
    Source: Wang & Isola, ICML 2020 (arXiv:2005.10242), section 4.1, with α = 2.
    """
    if first.shape != second.shape:
        raise ValueError(f"alignment pairs rows: shapes {tuple(first.shape)} and {tuple(second.shape)} differ")
    difference = _normalised(first) - _normalised(second)
    return float(difference.square().sum(dim=1).mean())


def uniformity(features: Tensor, chunk_size: int = 1024) -> float:
    """log E exp(−2‖f(x) − f(y)‖²) over pairs of different images' L2-normalised features; −8 < value ≤ 0.

    Lower means more evenly spread over the sphere; 0 means collapsed. `chunk_size` bounds memory: so many
    rows are compared at once. NaN for fewer than two images, which have no pairs.
    Source: Wang & Isola, ICML 2020 (arXiv:2005.10242), section 4.1, with t = 2.
    """
    unit = _normalised(features)
    count = len(unit)
    if count < 2:
        return math.nan
    total = torch.zeros((), dtype=torch.float64, device=unit.device)
    for start in range(0, count, chunk_size):
        rows = unit[start : start + chunk_size]
        # ‖a − b‖² = 2 − 2a·b for unit vectors, exactly 0 for equal ones only up to rounding.
        kernel = torch.exp(-2 * (2 - 2 * rows @ unit.T).clamp_(min=0))
        kernel.diagonal(offset=start).zero_()
        total += kernel.sum()
    return float(torch.log(total / (count * (count - 1))))


def feature_std(features: Tensor) -> float:
    """Standard deviation of each L2-normalised feature over the images, mean over features, times √width.

    About 1 for features spread isotropically over the sphere, 0 when all images have the same feature.
    Source: Chen & He, "Exploring Simple Siamese Representation Learning", CVPR 2021 (arXiv:2011.10566),
    section 4.1, where it is plotted against 1/√width; the factor makes widths comparable.
    """
    unit = _normalised(features)
    return float(unit.std(dim=0, correction=0).mean() * math.sqrt(unit.shape[1]))


def _normalised(features: Tensor) -> Tensor:
    return F.normalize(features.detach().double(), dim=1)
