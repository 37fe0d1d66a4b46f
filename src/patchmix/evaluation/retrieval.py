"""What is nearest to an image: its neighbours, and how well they retrieve its class (recall@N, mean average precision).

shapes: q test (query) images, n training images, d width
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

# Training images compared at once: a block of chunk_size = 1024 similarities is then at most 256 MiB.
TRAIN_BLOCK = 65_536


def nearest(
    train: Tensor, test: Tensor, k: int, *, chunk_size: int = 1024, exclude_self: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Per chunk of test images the k largest cosine similarities [chunk, k], descending, and their indices.

    Features [n, d] and [q, d] of any length and precision are L2-normalised and compared in float32. With
    `exclude_self`, test image i is training image i and no neighbour of its own. k is at most the number of
    neighbours there are.
    """
    train = F.normalize(train.float(), dim=1)
    for start in range(0, len(test), chunk_size):
        queries = F.normalize(test[start : start + chunk_size].float(), dim=1)
        best: tuple[Tensor, Tensor] | None = None
        for first in range(0, len(train), TRAIN_BLOCK):
            similarity = queries @ train[first : first + TRAIN_BLOCK].T
            if exclude_self:
                similarity.diagonal(offset=start - first).fill_(-torch.inf)
            values, index = similarity.topk(min(k, similarity.shape[1]), dim=1)
            index += first
            if best is not None:
                values, index = torch.cat([best[0], values], dim=1), torch.cat([best[1], index], dim=1)
                values, order = values.topk(min(k, values.shape[1]), dim=1)
                index = index.gather(1, order)
            best = values, index
        assert best is not None
        yield best


def found_among(neighbours: Tensor, labels: Tensor, recall_at: Sequence[int]) -> Tensor:
    """Whether one of the N nearest is of the image's class, for every N of `recall_at`: bool [len(recall_at), q].

    `neighbours` [q, k] are the classes of the nearest, nearest first; `labels` [q] those of the images. N beyond k
    means all of them.
    """
    first = neighbours == labels[:, None]
    return torch.stack([first[:, :number].any(dim=1) for number in recall_at])


def average_precision(
    train: Tensor,
    train_labels: Tensor,
    test: Tensor,
    test_labels: Tensor,
    *,
    chunk_size: int = 1024,
    exclude_self: bool = False,
) -> Tensor:
    """Average precision of ranking ALL training images by similarity to each test image: float64 [q], 0 to 1.

    The mean, over the training images of the test image's class, of the precision at their rank: those of the class
    that are at least as similar, over all that are. Images of equal similarity count together (as scikit-learn's
    average_precision_score has it), so the order of files means nothing. 0 where there is no other image of the class.
    `mAP` is the mean over test images. Features as in `nearest`; memory is bounded by `chunk_size` as there.
    """
    count = len(train)
    order = train_labels.argsort(stable=True)
    column = order.argsort()
    train = F.normalize(train.float(), dim=1)[order]
    sizes = train_labels.bincount(minlength=int(test_labels.max()) + 1 if len(test_labels) else 0)
    ends = sizes.cumsum(dim=0)
    rows = max(1, chunk_size * min(TRAIN_BLOCK, count) // max(1, count))
    result = torch.zeros(len(test), dtype=torch.float64, device=train.device)
    for label in torch.unique(test_labels).tolist():
        size, end = int(sizes[label]), int(ends[label])
        if size - exclude_self < 1:
            continue
        for chunk in torch.split((test_labels == label).nonzero()[:, 0], rows):
            similarity = F.normalize(test[chunk].float(), dim=1) @ train.T
            if exclude_self:
                similarity[torch.arange(len(chunk), device=train.device), column[chunk]] = -torch.inf
            same = _ascending(similarity[:, end - size : end].clone())[:, int(exclude_self) :].contiguous()
            everything = _ascending(similarity)
            of_class = same.shape[1] - torch.searchsorted(same, same, out_int32=True)
            of_all = count - torch.searchsorted(everything, same, out_int32=True)
            result[chunk] = (of_class / of_all).mean(dim=1, dtype=torch.float64)
    return result


def _ascending(rows: Tensor) -> Tensor:
    """Each row sorted; `rows` may be overwritten."""
    if rows.device.type != "cpu":
        return rows.sort(dim=1).values
    rows.numpy().sort(axis=1)  # a quarter of torch's time, which sorts indices too
    return rows
