"""The quick linear probe: features of a few augmented copies, computed once; heads fitted to them by L-BFGS.

What differs from the protocol (probe_protocol.py): a few fixed copies in place of new crops every epoch, an L2
penalty chosen on held-out training images in place of a learning rate, and a fit to convergence. How far the two are
apart was measured: docs/results.md.

shapes: n training images, q test images, d numbers that a pooling reads, r = (1 + copies) · n rows
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console
from torch import Tensor, nn

from patchmix.config import ProbeConfig
from patchmix.data.augmentation import create_augment
from patchmix.data.datasets import ImageSource
from patchmix.errors import UserError
from patchmix.evaluation.augmented import Augmented, probe_augmentation
from patchmix.evaluation.baselines import pixel_evaluation
from patchmix.evaluation.description import describe_skipped
from patchmix.evaluation.features import Features, InputSpec
from patchmix.evaluation.logistic import equalise, fit_logistic
from patchmix.evaluation.opening import Evaluation
from patchmix.evaluation.pooling import WHOLE, ProbeEncoder
from patchmix.evaluation.probe_heads import held_out
from patchmix.evaluation.probe_outcome import GridEntry, Outcome, Row, available, best


@dataclass(frozen=True)
class _Copies:
    """Features of the plain training images [n, all], of their augmented copies, and of the test images [q, all]."""

    train: Features
    augmented: list[Tensor]
    test: Features


def fast_probe(evaluation: Evaluation, config: ProbeConfig, console: Console) -> Outcome:
    """Fit heads for every pooling and penalty; the one best on held-out training images is refitted to all of them."""
    encoder = ProbeEncoder(evaluation.loaded.encoder, evaluation.spec).to(evaluation.device)
    copies = _extract(evaluation, encoder, evaluation.spec, config, "encoder", console)
    slices = available(encoder.slices, config.poolings)
    grid, row, unconverged = _fit(evaluation, copies, slices, config, "", "encoder")
    skipped = describe_skipped(copies.train, copies.test, console)
    rows = [row]
    if config.baselines:
        untrained = ProbeEncoder(evaluation.loaded.untrained(config.seed), evaluation.spec).to(evaluation.device)
        copies = _extract(evaluation, untrained, evaluation.spec, config, "untrained encoder", console)
        _, row, failures = _fit(evaluation, copies, slices, config, "random_init_", "untrained encoder")
        rows, unconverged = [*rows, row], unconverged + failures
        whole, plain = pixel_evaluation(evaluation)
        copies = _extract(whole, nn.Flatten(), plain, config, "raw pixels", console)
        width = copies.train.features.shape[1]
        _, row, failures = _fit(evaluation, copies, {WHOLE: slice(0, width)}, config, "pixels_", "raw pixels")
        rows, unconverged = [*rows, row], unconverged + failures
    num_held_out = int(held_out(_labels(copies.train), config.holdout, config.seed).sum())
    settings = {"unconverged_fits": unconverged, "num_blocks": encoder.num_blocks}
    return Outcome("C", num_held_out, grid, best(grid), rows, skipped, settings)


def _extract(
    evaluation: Evaluation, encoder: nn.Module, spec: InputSpec, config: ProbeConfig, title: str, console: Console
) -> _Copies:
    train = evaluation.features(encoder, evaluation.train, spec, title, console)
    kind = probe_augmentation(config.augmentation, config.data)
    # The augmented image has the input's size already.
    as_it_is = dataclasses.replace(evaluation, config=dataclasses.replace(config, crop_ratio=None))
    augment = create_augment(kind, spec, config.seed)
    augmented = []
    for copy in range(config.copies if kind != "none" else 0):
        source: ImageSource = Augmented(evaluation.train, augment, copy, f"{kind}-{config.seed}")
        found = as_it_is.features(encoder, source, spec, f"{title}, copy {copy + 1} of {config.copies}", console)
        augmented.append(found.features)
    return _Copies(train, augmented, evaluation.features(encoder, evaluation.test, spec, title, console))


def _fit(
    evaluation: Evaluation,
    copies: _Copies,
    slices: Mapping[str, slice],
    config: ProbeConfig,
    prefix: str,
    title: str,
) -> tuple[list[GridEntry], Row, int]:
    """The grid, the test figures of the head it chooses, and how many fits had not converged."""
    labels, device = _labels(copies.train), evaluation.device
    held = held_out(labels, config.holdout, config.seed)
    if not bool(held.any()):
        raise UserError("every class has one training image only: none can be held out to choose the head")
    classes = len(evaluation.train.classes)
    penalties = sorted(set(config.penalties))
    grid: list[GridEntry] = []
    unconverged = 0
    for pooling, part in slices.items():
        train, _ = _rows(copies, part, device)
        kept = (~held).repeat(1 + len(copies.augmented)).to(device)
        fits = fit_logistic(
            train[kept],
            labels.repeat(1 + len(copies.augmented)).to(device)[kept],
            classes,
            penalties,
            num_images=int((~held).sum()),
        )
        plain, expected = train[: len(labels)][held.to(device)], labels[held].to(device)
        for penalty, (weight, bias, converged) in zip(penalties, fits, strict=True):
            unconverged += not converged
            right = (torch.nn.functional.linear(plain, weight, bias).argmax(dim=1) == expected).double().mean()
            grid.append(GridEntry(pooling, penalty, 100 * float(right)))
    chosen = best(grid)
    train, test = _rows(copies, slices[chosen.pooling], device)
    all_labels = labels.repeat(1 + len(copies.augmented)).to(device)
    ((weight, bias, converged),) = fit_logistic(train, all_labels, classes, [chosen.value], num_images=len(labels))
    unconverged += not converged
    logits = torch.nn.functional.linear(test, weight, bias).cpu()
    head = f"{title} ({chosen.pooling}, C = {chosen.value:.3g})"
    return grid, Row(prefix, "", head, logits, _labels(copies.test)), unconverged


def _rows(copies: _Copies, part: slice, device: torch.device) -> tuple[Tensor, Tensor]:
    """Rows to learn from [r, d], the plain images first, and to test on [q, d]: centred and scaled by one number."""
    train = torch.cat([each[:, part] for each in (copies.train.features, *copies.augmented)])
    scaled, test = equalise(train, copies.test.features[:, part])
    return scaled.to(device), test.to(device)


def _labels(features: Features) -> Tensor:
    assert features.labels is not None
    return features.labels


def fast_settings(config: ProbeConfig) -> dict[str, Any]:
    """What the result says about how this was done."""
    return {
        "protocol": f"features of the plain image and {config.copies} augmented copies; multinomial logistic "
        "regression by L-BFGS (scikit-learn's objective), features centred and divided by one number",
        "selection": f"pooling and C by {100 * config.holdout:.3g} % of the training images; refitted to all",
    }
