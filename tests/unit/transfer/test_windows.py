"""Attention within windows: what it leaves as it was, what it sees, and which blocks have it."""

from __future__ import annotations

import pytest
import torch
from tests.models import small_spec
from timm.models.vision_transformer import ResPostBlock, VisionTransformer
from torch import Tensor

from patchmix.errors import UserError
from patchmix.models.blocks import run_block
from patchmix.models.vit import Encoder, create_vit
from patchmix.transfer.windows import check_windows, encode_map, global_positions, in_windows, run_windowed_block


def build(drop_path: float = 0.0, **spec: object) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return create_vit(small_spec(depth=4, **spec), drop_path, position_std=0.3).eval()


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("pooling", ["token", "avg"])
@pytest.mark.parametrize("size", [(16, 16), (20, 28), (4, 36)])
def test_the_map_has_the_patch_tokens_of_forward_features(size: tuple[int, int], pooling: str) -> None:
    encoder, images = build(pooling=pooling), drawn(2, 3, *size)
    found = encode_map(encoder, images, window=None, global_blocks=0)
    expected = encoder.forward_features(images)[:, 1:].transpose(1, 2).reshape(2, 24, size[0] // 4, size[1] // 4)
    torch.testing.assert_close(found, expected)
    assert torch.equal(found, encode_map(encoder, images, window=9, global_blocks=0))  # it fits in one window


@pytest.mark.parametrize("window", [4, 7])
@pytest.mark.parametrize("training", [False, True])
def test_one_window_over_everything_is_the_plain_block_exactly(training: bool, window: int) -> None:
    block = build(drop_path=0.6).blocks[3].train(training)

    def run(windowed: bool) -> list[Tensor]:
        block.zero_grad()
        tokens = drawn(5, 17, 24).requires_grad_()
        with torch.random.fork_rng():
            torch.manual_seed(1)  # the same drop path
            found = run_windowed_block(block, tokens, (4, 4), window) if windowed else run_block(block, tokens)
        found.square().sum().backward()
        return [found.detach(), tokens.grad, *(parameter.grad.clone() for parameter in block.parameters())]

    for found, expected in zip(run(True), run(False), strict=True):
        assert torch.equal(found, expected)


def test_a_block_with_hooks_is_computed_by_its_own_layers() -> None:
    block, tokens = build().blocks[0], drawn(2, 17, 24)
    seen: list[torch.Size] = []
    expected = block(tokens)
    block.attn.register_forward_hook(lambda module, given, found: seen.append(found.shape))
    torch.testing.assert_close(run_windowed_block(block, tokens, (4, 4), 4), expected, rtol=0, atol=0)
    run_windowed_block(block, tokens, (4, 4), 2)
    assert seen == [(2, 17, 24), (8, 5, 24)]


@pytest.mark.parametrize("prefix", [0, 1, 3])
@pytest.mark.parametrize("grid", [(6, 3), (5, 7), (2, 4)])
def test_windows_are_those_of_a_plain_loop(grid: tuple[int, int], prefix: int) -> None:
    attention = build().blocks[0].attn
    height, width = grid
    tokens = drawn(2, prefix + height * width, 24)
    patches = tokens[:, prefix:].reshape(2, height, width, 24)
    expected = torch.zeros_like(patches)
    firsts = []
    side = min(3, height)
    for top in range(0, height, side):
        for left in range(0, width, 3):
            part = torch.zeros(2, side, 3, 24)
            given = patches[:, top : top + side, left : left + 3]
            part[:, : given.shape[1], : given.shape[2]] = given
            found = attention(torch.cat([tokens[:, :prefix], part.flatten(1, 2)], dim=1))
            firsts.append(found[:, :prefix])
            part = found[:, prefix:].reshape(2, side, 3, 24)
            expected[:, top : top + side, left : left + 3] = part[:, : given.shape[1], : given.shape[2]]
    found = in_windows(attention, tokens, grid, 3)
    torch.testing.assert_close(found[:, prefix:], expected.flatten(1, 2))
    torch.testing.assert_close(found[:, :prefix], torch.stack(firsts).mean(dim=0))


def test_a_patch_reaches_its_own_window_and_the_class_token_only() -> None:
    block = build().blocks[0]
    tokens = drawn(1, 26, 24)
    changed = tokens.clone()
    changed[0, 1 + 1 * 5 + 4] += drawn(24, seed=1)  # row 1, column 4 of 5 × 5: the second window across, of 3 × 3
    difference = run_windowed_block(block, changed, (5, 5), 3) - run_windowed_block(block, tokens, (5, 5), 3)
    moved = difference[0].abs().amax(dim=1) > 1e-6
    inside = torch.zeros(5, 5, dtype=torch.bool)
    inside[:3, 3:] = True
    assert moved[0]
    assert torch.equal(moved[1:].reshape(5, 5), inside)


@pytest.mark.parametrize("hooked", [False, True])
def test_drop_path_drops_whole_images(hooked: bool) -> None:
    block = build(drop_path=0.6).blocks[3].train()
    if hooked:
        block.attn.register_forward_hook(lambda module, given, found: None)
    tokens = drawn(32, 17, 24)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        same = (run_windowed_block(block, tokens, (4, 4), 2) == tokens).all(dim=2)
    dropped = same.all(dim=1)
    assert 2 < int(dropped.sum()) < 30
    assert torch.equal(same.any(dim=1), dropped)


@pytest.mark.parametrize(
    ("depth", "number", "expected"),
    [(12, 4, [2, 5, 8, 11]), (24, 4, [5, 11, 17, 23]), (12, 0, []), (12, 1, [11]), (2, 4, [0, 1]), (7, 2, [3, 6])],
)
def test_global_blocks_end_equal_parts(depth: int, number: int, expected: list[int]) -> None:
    assert global_positions(depth, number) == expected


def test_blocks_are_global_where_they_should_be() -> None:
    encoder, images = build(), drawn(2, 3, 20, 28)
    tokens = encoder._pos_embed(encoder.patch_embed(images))
    for number, block in enumerate(encoder.blocks):
        tokens = run_block(block, tokens) if number in (1, 3) else run_windowed_block(block, tokens, (5, 7), 3)
    expected = encoder.norm(tokens)[:, 1:].transpose(1, 2).reshape(2, 24, 5, 7)
    assert torch.equal(encode_map(encoder, images, window=3, global_blocks=2), expected)
    everything = encode_map(encoder, images, window=None, global_blocks=0)
    assert torch.equal(encode_map(encoder, images, window=3, global_blocks=4), everything)
    assert not torch.allclose(expected, everything, atol=1e-3)


def test_activations_computed_again_give_the_same_gradients() -> None:
    encoder, images = build(drop_path=0.5).train(), drawn(3, 3, 20, 28)

    def gradients() -> list[Tensor | None]:
        encoder.zero_grad()
        with torch.random.fork_rng():
            torch.manual_seed(1)
            encode_map(encoder, images, window=3, global_blocks=1).square().sum().backward()
        return [None if each.grad is None else each.grad.clone() for each in encoder.parameters()]

    expected = gradients()
    encoder.set_grad_checkpointing()
    torch.testing.assert_close(gradients(), expected)


def test_windows_that_make_no_sense_are_refused() -> None:
    encoder = build()
    check_windows(encoder, 14, 4)
    check_windows(encoder, None, 0)
    with pytest.raises(UserError, match=r"window = 0: give the patches"):
        check_windows(encoder, 0, 4)
    with pytest.raises(UserError, match=r"global_blocks = -1"):
        check_windows(encoder, 14, -1)
    other = VisionTransformer(
        img_size=16, patch_size=4, embed_dim=24, depth=1, num_heads=3, num_classes=0, block_fn=ResPostBlock
    )
    check_windows(other, None, 4)
    with pytest.raises(UserError, match=r"blocks of kind ResPostBlock cannot .* set window to null"):
        check_windows(other, 14, 4)
