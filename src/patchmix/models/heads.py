"""Projector and predictor: method.md, "Networks". The layer numbers are those of MoCo v3's checkpoints.

Both take and give [rows, size]. BatchNorm sees the rows of a pass, so a pass is never split.
"""

from __future__ import annotations

from torch import nn


def mlp_head(num_layers: int, in_size: int, hidden_size: int, out_size: int) -> nn.Sequential:
    """Linear layers without bias, BatchNorm + ReLU between them, BatchNorm without affine after the last."""
    layers: list[nn.Module] = []
    sizes = [in_size, *[hidden_size] * (num_layers - 1), out_size]
    for number in range(num_layers):
        layers.append(nn.Linear(sizes[number], sizes[number + 1], bias=False))
        if number < num_layers - 1:
            layers += [nn.BatchNorm1d(hidden_size), nn.ReLU(inplace=True)]
        else:
            # Without affine, as in SimSiam and MoCo v3: the scale is lost to L2 normalisation anyway.
            layers.append(nn.BatchNorm1d(out_size, affine=False))
    return nn.Sequential(*layers)


def projector(width: int, hidden_size: int = 4096, out_size: int = 256) -> nn.Sequential:
    """Three layers, on queries and keys."""
    return mlp_head(3, width, hidden_size, out_size)


def predictor(hidden_size: int = 4096, size: int = 256) -> nn.Sequential:
    """Two layers, on queries only."""
    return mlp_head(2, size, hidden_size, size)
