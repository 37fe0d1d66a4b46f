"""The look at the encoder while it trains, which must leave no trace."""

from __future__ import annotations

import copy
import dataclasses
import random

import numpy as np
import pytest
import torch

from patchmix.config import Config, RunConfig, ViewsConfig
from patchmix.data.sources import limited
from patchmix.evaluation import online
from patchmix.evaluation.diagnostics import rankme, uniformity
from patchmix.evaluation.features import extract
from patchmix.evaluation.knn import leave_one_out_knn
from patchmix.evaluation.online import online_evaluation

CONFIG = Config(views=ViewsConfig(kind="digits"), run=RunConfig(eval_images=24))


def test_the_figures_are_those_of_the_fixed_subset(encoder, spec, make_striped) -> None:
    source = make_striped(60)
    record = online_evaluation(encoder, source, CONFIG, "cpu", spec=spec)
    found = extract(encoder, limited(source, 24), spec)
    assert set(record) == {"knn_top1", "rankme", "alignment", "uniformity", "feature_std"}
    assert record["knn_top1"] == pytest.approx(leave_one_out_knn(found.features, found.labels, 2, k=20))
    assert record["rankme"] == pytest.approx(rankme(found.features), rel=1e-4)
    assert record["uniformity"] == pytest.approx(uniformity(found.features), rel=1e-4, abs=1e-6)
    assert 0 < record["alignment"] < 4


def test_it_is_the_same_for_every_seed_of_the_run_and_every_time(encoder, spec, make_striped) -> None:
    source = make_striped(60)
    first = online_evaluation(encoder, source, CONFIG, "cpu", spec=spec)
    torch.rand(3)
    assert online_evaluation(encoder, source, dataclasses.replace(CONFIG, seed=7), "cpu", spec=spec) == first


def test_local_crops_of_the_run_do_not_matter(encoder, spec, make_striped) -> None:
    source = make_striped(30)
    crops = dataclasses.replace(CONFIG, views=ViewsConfig(kind="digits", num_local_crops=3, local_size=8))
    assert online_evaluation(encoder, source, crops, "cpu", spec=spec) == online_evaluation(
        encoder, source, CONFIG, "cpu", spec=spec
    )


def test_training_goes_on_as_if_nothing_had_happened(encoder, spec, make_striped) -> None:
    source = make_striped(40)
    images = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))

    def train(look: bool) -> list[torch.Tensor]:
        model = copy.deepcopy(encoder).train()
        model.blocks[1].eval()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        torch.manual_seed(0)
        for _ in range(3):
            if look:
                online_evaluation(model, source, CONFIG, "cpu", spec=spec)
            optimizer.zero_grad()
            model(images).square().mean().backward()  # drop path draws from the global generator
            optimizer.step()
        assert model.training
        assert not model.blocks[1].training
        return [parameter.detach() for parameter in model.parameters()]

    for looked, undisturbed in zip(train(True), train(False), strict=True):
        assert torch.equal(looked, undisturbed)


def test_no_random_state_moves_and_no_gradient_appears(encoder, spec, make_striped) -> None:
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002
    online_evaluation(encoder, make_striped(30), CONFIG, "cpu", spec=spec)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert random.getstate() == states[1]
    assert np.array_equal(np.random.get_state()[1], states[2])  # noqa: NPY002
    assert all(parameter.grad is None for parameter in encoder.parameters())


def test_images_beyond_the_subset_are_never_read(encoder, spec, make_striped) -> None:
    source = make_striped(600)
    config = dataclasses.replace(CONFIG, run=RunConfig(eval_images=24))
    online_evaluation(encoder, source, config, "cpu", spec=spec)
    assert len(set(source.reads)) <= 24


def test_without_labels_only_the_label_free_figures_appear(encoder, spec, make_source) -> None:
    record = online_evaluation(encoder, make_source(10, 1, 16, 16), CONFIG, "cpu", spec=spec)
    assert set(record) == {"rankme", "alignment", "uniformity", "feature_std"}


def test_images_of_many_sizes_some_unreadable_are_looked_at(encoder, spec, make_source) -> None:
    source = make_source(12, 1, 16, 16, unreadable=[1, 5])
    source.images = [torch.full((1, 10 + i, 30 - i), 20 * i, dtype=torch.uint8) for i in range(12)]
    source.image_size = None
    photo = dataclasses.replace(CONFIG, views=ViewsConfig(kind="photo"))
    assert np.isfinite(list(online_evaluation(encoder, source, photo, "cpu", spec=spec).values())).all()


def test_one_readable_image_gives_an_empty_record(encoder, spec, make_source) -> None:
    assert online_evaluation(encoder, make_source(2, 1, 16, 16, unreadable=[0]), CONFIG, "cpu", spec=spec) == {}


@pytest.mark.parametrize("num_workers", [0, 1])
def test_no_readable_image_gives_an_empty_record(encoder, spec, make_source, num_workers: int) -> None:
    source = make_source(3, 1, 16, 16, unreadable=[0, 1, 2])
    assert online_evaluation(encoder, source, CONFIG, "cpu", spec=spec, num_workers=num_workers) == {}


def test_alignment_is_left_out_where_none_of_its_images_can_be_read(encoder, spec, make_source, monkeypatch) -> None:
    monkeypatch.setattr(online, "ALIGNMENT_IMAGES", 4)
    compared = limited(make_source(20, 1, 16, 16), 4).indices.tolist()
    source = make_source(20, 1, 16, 16, unreadable=compared)
    record = online_evaluation(encoder, source, CONFIG, "cpu", spec=spec)
    assert set(record) == {"rankme", "uniformity", "feature_std"}


def test_a_collapsed_encoder_shows_as_one(encoder, spec, make_striped) -> None:
    with torch.no_grad():
        encoder.norm.weight.zero_()
        encoder.norm.bias.fill_(1.0)
    record = online_evaluation(encoder, make_striped(30), CONFIG, "cpu", spec=spec)
    assert record["rankme"] == pytest.approx(1, rel=1e-3)
    assert record["feature_std"] == pytest.approx(0, abs=1e-6)
