"""Which tokens are read: against timm's own ways to get them."""

from __future__ import annotations

import pytest
import torch
from tests.models import small_spec

from patchmix.config import ModelConfig
from patchmix.errors import UserError
from patchmix.evaluation.pooling import PooledEncoder, ProbeEncoder
from patchmix.models.encoders import create_encoder, resolve_spec

IMAGES = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(0))


def blocks_by_hand(encoder, images):  # type: ignore[no-untyped-def]
    """Every block's tokens after the final normalisation, block by block."""
    tokens = encoder.norm_pre(encoder._pos_embed(encoder.patch_embed(images)))
    found = []
    for block in encoder.blocks:
        tokens = block(tokens)
        found.append(encoder.norm(tokens))
    return found


@pytest.fixture
def encoder():  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    return create_encoder(small_spec(depth=5)).eval()


@torch.no_grad()
def test_default_is_what_the_encoder_gives(encoder) -> None:  # type: ignore[no-untyped-def]
    assert PooledEncoder(encoder, small_spec(depth=5))(IMAGES).equal(encoder(IMAGES))


@torch.no_grad()
@pytest.mark.parametrize("pool", ["token", "mean", "both"])
def test_pooled_tokens_are_those_of_the_last_blocks_in_their_order(encoder, pool) -> None:  # type: ignore[no-untyped-def]
    spec = small_spec(depth=5)
    expected = []
    for tokens in blocks_by_hand(encoder, IMAGES)[-2:]:
        token, mean = tokens[:, 0], tokens[:, 1:].mean(dim=1)
        expected += {"token": [token], "mean": [mean], "both": [token, mean]}[pool]
    pooled = PooledEncoder(encoder, spec, layers=2, pool=pool)
    found = pooled(IMAGES)
    assert found.shape[1] == pooled.width
    torch.testing.assert_close(found, torch.cat(expected, dim=1))


@torch.no_grad()
def test_probe_reads_four_blocks_and_its_slices_are_the_poolings(encoder) -> None:  # type: ignore[no-untyped-def]
    blocks = blocks_by_hand(encoder, IMAGES)
    probe = ProbeEncoder(encoder, small_spec(depth=5))
    found = {name: probe(IMAGES)[:, part] for name, part in probe.slices.items()}
    token, mean = blocks[-1][:, 0], blocks[-1][:, 1:].mean(dim=1)
    torch.testing.assert_close(found["token"], token)
    torch.testing.assert_close(found["mean"], mean)
    torch.testing.assert_close(found["both"], torch.cat([token, mean], dim=1))
    torch.testing.assert_close(found["last4"], torch.cat([each[:, 0] for each in blocks[-4:]], dim=1))


@torch.no_grad()
def test_a_network_trained_on_the_mean_is_read_as_it_pools() -> None:
    spec = small_spec(pooling="avg")
    encoder = create_encoder(spec).eval()
    torch.testing.assert_close(PooledEncoder(encoder, spec, pool="mean")(IMAGES), encoder(IMAGES))
    probe = ProbeEncoder(encoder, spec)
    torch.testing.assert_close(probe(IMAGES)[:, probe.slices["mean"]], encoder(IMAGES))


@torch.no_grad()
def test_a_network_without_tokens_has_one_pooling() -> None:
    spec = resolve_spec(ModelConfig(name="resnet10t"), (32, 32), 3, (0.5,) * 3, (0.5,) * 3)
    encoder = create_encoder(spec).eval()
    probe = ProbeEncoder(encoder, spec)
    images = torch.randn(2, 3, 32, 32)
    assert list(probe.slices) == ["default"]
    assert probe(images).equal(encoder(images))
    with pytest.raises(UserError, match="resnet10t has no tokens"):
        PooledEncoder(encoder, spec, pool="mean")


def test_more_layers_than_blocks_are_refused(encoder) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UserError, match="layers = 6 is more than the encoder's 5 blocks"):
        PooledEncoder(encoder, small_spec(depth=5), layers=6, pool="token")
