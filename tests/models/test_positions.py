"""The matching codes: a plane token and the patch it projects to agree."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from fastrecon.config import BackboneConfig, DecoderConfig, EncoderConfig, LRMConfig
from fastrecon.models import LRM
from fastrecon.models.positions import code_widths, image_codes, plane_codes
from fastrecon.models.triplane import Block, TriplaneTransformer

GRID = 16
CONFIG = LRMConfig(
    encoder=EncoderConfig(
        image_size=64, patch_size=4, dim=128, depth=1, heads=4, mlp_dim=128, position_grid=GRID
    ),
    backbone=BackboneConfig(grid=GRID, dim=128, depth=2, heads=4, head_dim=32, channels=4),
    decoder=DecoderConfig(hidden=16, layers=1),
    position_init="sincos",
)
CENTRES = (torch.arange(GRID) + 0.5) / 8 - 1
HALF_PICTURE = math.tan(math.radians(20))  # at distance 1


def blocks(model: LRM) -> list[Block]:
    assert isinstance(model.backbone, TriplaneTransformer)
    found = [b for b in model.backbone.transformer_blocks if isinstance(b, Block)]
    assert len(found) == model.config.backbone.depth
    return found


def nearest_patch(token: torch.Tensor) -> tuple[float, float]:
    """(u, v) of the patch whose code is most like a token's."""
    scores = image_codes(CONFIG) @ token
    row, column = divmod(int(scores.argmax()), GRID)
    return float(CENTRES[column]), float(-CENTRES[row])


def test_yz_tokens_match_the_patch_that_shows_them() -> None:
    codes = plane_codes(CONFIG)
    for row in range(3, 13):
        for column in range(3, 13):
            y, z = float(CENTRES[column]) * 0.87, float(CENTRES[row]) * 0.87
            u, v = nearest_patch(codes[2, :, row, column])
            # the nearest of patches 1/8 apart
            assert abs(u - y / (1.9 * HALF_PICTURE)) <= 0.0626
            assert abs(v - z / (1.9 * HALF_PICTURE)) <= 0.0626


def test_xy_tokens_match_a_column_and_xz_tokens_a_row() -> None:
    codes, patches = plane_codes(CONFIG), image_codes(CONFIG).view(GRID, GRID, -1)
    row, column = 9, 12  # y (or z) from the row, x from the column
    x, other = float(CENTRES[column]) * 0.87, float(CENTRES[row]) * 0.87
    seen_at = other / ((1.9 - x) * HALF_PICTURE)
    along_u = patches @ codes[0, :, row, column]
    torch.testing.assert_close(along_u, along_u[:1].expand_as(along_u))
    assert abs(float(CENTRES[along_u[0].argmax()]) - seen_at) <= 0.0626
    along_v = patches @ codes[1, :, row, column]
    torch.testing.assert_close(along_v, along_v[:, :1].expand_as(along_v))
    assert abs(float(-CENTRES[along_v[:, 0].argmax()]) - seen_at) <= 0.0626


def test_channels_of_an_absent_axis_are_zero() -> None:
    wide_u, wide_v, _ = code_widths(128)
    u, v, x = slice(wide_u), slice(wide_u, wide_u + wide_v), slice(wide_u + wide_v, None)
    xy, xz, yz = plane_codes(CONFIG)
    assert not xy[v].any()
    assert not xz[u].any()
    assert not yz[x].any()
    assert not image_codes(CONFIG)[:, x].any()
    assert xy[u].any()
    assert xz[v].any()
    assert float(xy[x].abs().max()) == pytest.approx(0.5, abs=0.01)


def test_axis_names_decide_which_side_is_which() -> None:
    swapped = replace(CONFIG, render=replace(CONFIG.render, axes=("yx", "zx", "zy")))
    torch.testing.assert_close(plane_codes(swapped), plane_codes(CONFIG).transpose(2, 3))


def test_attention_looks_at_the_right_patch_from_the_start() -> None:
    torch.manual_seed(0)
    model = LRM(CONFIG)
    block = blocks(model)[0]
    with torch.no_grad():
        assert isinstance(model.backbone, TriplaneTransformer)
        tokens = model.tokenizer()
        context = model.image_tokenizer(torch.rand(1, 3, 64, 64))
        hidden = model.backbone.norm(tokens.mT).mT
        hidden = model.backbone.proj_in(hidden)
        torch.testing.assert_close(hidden, tokens, rtol=0, atol=1e-5)  # codes survive the way in
        cross = block.attn2
        q, k = (
            linear(x).unflatten(-1, (4, 32)).transpose(1, 2)
            for linear, x in ((cross.to_q, block.norm2(hidden)), (cross.to_k, context))
        )
        weights = (q @ k.mT / 32**0.5).softmax(-1).mean(1)[0, :, 1:]  # (tokens, patches)
    weights = weights.view(3, GRID, GRID, GRID, GRID)[2]  # yz tokens
    u = (weights.sum(-2) * CENTRES).sum(-1) / weights.sum((-1, -2))
    v = (weights.sum(-1) * -CENTRES).sum(-1) / weights.sum((-1, -2))
    expected = CENTRES * 0.87 / (1.9 * HALF_PICTURE)
    inside = expected.abs() < 0.8
    error_u = (u - expected[None, :])[inside][:, inside].abs().mean()
    error_v = (v - expected[:, None])[inside][:, inside].abs().mean()
    assert max(error_u, error_v) < 0.2, "mean gaze is off by more than 1.6 patches"


def test_queries_and_keys_share_a_projection_where_widths_agree() -> None:
    for block in blocks(LRM(CONFIG)):
        assert torch.equal(block.attn2.to_q.weight, block.attn2.to_k.weight)
        assert block.attn2.to_q.weight is not block.attn2.to_k.weight
    other = replace(CONFIG, encoder=replace(CONFIG.encoder, dim=64))
    assert blocks(LRM(other))[0].attn2.to_k.weight.shape == (128, 64)


def test_random_tables_stay_random() -> None:
    model = LRM(replace(CONFIG, position_init="random"))
    assert float(model.tokenizer.embeddings.detach().std()) == pytest.approx(128**-0.5, rel=0.05)


def test_no_values_while_another_library_replaces_linspace(monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers' stand-in makes its numbers on the CPU, and torch may remember it for good."""
    real = torch.linspace
    monkeypatch.setattr(
        torch, "linspace", lambda *args, device="cpu", **kw: real(*args, device=device, **kw)
    )
    with torch.device("meta"):
        assert image_codes(CONFIG).device.type == plane_codes(CONFIG).device.type == "meta"
