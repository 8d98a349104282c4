"""Position codes that tell image patches and plane tokens where they are, alike, from the start.

A reconstruction model must learn which image patch each plane token is about. With random tables it
takes a large model a long time to find out; a small one may never do so. Here both tables start as
sine-cosine codes of the *same* quantity, the place in the canonical picture:

- the camera stands at ``(d, 0, 0)`` and looks along -x, image right is +y, image up is +z, so a
  point ``(x, y, z)`` is seen at ``u = y / ((d - x) tan(fov / 2))`` (right) and
  ``v = z / ((d - x) tan(fov / 2))`` (up), both within [-1, 1] inside the picture;
- a patch gets the code of ``(u, v)`` of its centre, a plane token that of its own point; the
  channels of an axis that the plane lacks (v for xy, u for xz) are zero, so that such a token
  matches a whole column or row of patches alike;
- depth x, which no patch has, gets channels of its own at half the amplitude.

Channels: ``[u: 3/8 | v: 3/8 | x: 1/4]``. The codes only serve if they reach the cross-attention:
`match_attention` makes the way there an identity and lets queries and keys share one projection.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fastrecon.config import LRMConfig

from .triplane import GROUP_NORM_EPS, GROUPS, Block, TriplaneTransformer

DEPTH_AMPLITUDE = 0.5
NOISE = 0.02
"""Standard deviation of what tells equal codes apart (and all tables from exact symmetry)."""
MATCH_LOGIT = 8.0
"""Attention logit of two equal codes: e^8 = 3000 outweighs the other patches of a 32 x 32 grid."""


def code_widths(dim: int) -> tuple[int, int, int]:
    """Channels of the codes for u, v and x; what 16 leaves over stays without code."""
    unit = dim // 16
    return 6 * unit, 6 * unit, 4 * unit


def sincos(position: Tensor, width: int, grid: int) -> Tensor:
    """Sines, then cosines of ``position (...)`` in [-1, 1] -> ``(..., width)``.

    Frequencies are geometric from a half turn over the whole range (so that no two places share a
    code) to a quarter turn from one cell of ``grid`` to the next (so that neighbours differ).
    """
    lowest, highest = math.pi / 2, max(math.pi / 2, math.pi * grid / 4)
    # Said outright: under "meta", other libraries may have replaced linspace (transformers does).
    steps = torch.linspace(0, 1, width // 2, dtype=position.dtype, device=position.device)
    angles = position[..., None] * lowest * (highest / lowest) ** steps
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def cell_centres(n: int) -> Tensor:
    """Centres of ``n`` equal cells of [-1, 1], as ``align_corners=False`` has them."""
    return (torch.arange(n, dtype=torch.float32) + 0.5) * (2 / n) - 1


def code_grid(config: LRMConfig) -> int:
    """The coarser of the position table and the token grid: what both can represent."""
    encoder = config.encoder
    return min(encoder.position_grid, encoder.image_size // encoder.patch_size)


def image_codes(config: LRMConfig) -> Tensor:
    """Codes of the patches ``(grid^2, encoder.dim)``, row by row from the top."""
    encoder = config.encoder
    centres = cell_centres(encoder.position_grid)
    v, u = torch.meshgrid(-centres, centres, indexing="ij")  # row 0 is the top, where z is largest
    code = torch.zeros(encoder.position_grid, encoder.position_grid, encoder.dim)
    wide_u, wide_v, _ = code_widths(encoder.dim)
    grid = code_grid(config)
    code[..., :wide_u] = sincos(u, wide_u, grid)
    code[..., wide_u : wide_u + wide_v] = sincos(v, wide_v, grid)
    return code.flatten(0, 1)


def plane_codes(config: LRMConfig) -> Tensor:
    """Codes of the plane tokens ``(3, backbone.dim, grid, grid)``, planes as in ``render.axes``.

    Row index 0 is coordinate -1 of the second letter, column 0 that of the first.
    """
    backbone, radius = config.backbone, config.render.radius
    wide_u, wide_v, wide_x = code_widths(backbone.dim)
    grid = code_grid(config)
    rows, columns = torch.meshgrid(*[cell_centres(backbone.grid)] * 2, indexing="ij")
    spread = math.tan(math.radians(config.fov_deg) / 2)
    code = torch.zeros(3, backbone.grid, backbone.grid, backbone.dim)
    for plane, (across, down) in zip(code, config.render.axes, strict=True):
        place = {across: columns * radius, down: rows * radius}
        # A camera inside the box is no use for the projection; keep it finite there.
        ahead = config.camera_distance - place.get("x", torch.zeros_like(rows))
        half_picture = ahead.clamp(min=0.1 * radius) * spread
        if "y" in place:
            plane[..., :wide_u] = sincos(place["y"] / half_picture, wide_u, grid)
        if "z" in place:
            plane[..., wide_u : wide_u + wide_v] = sincos(place["z"] / half_picture, wide_v, grid)
        if "x" in place:
            depth = sincos(place["x"] / radius, wide_x, backbone.grid)
            plane[..., wide_u + wide_v : wide_u + wide_v + wide_x] = DEPTH_AMPLITUDE * depth
    return code.permute(0, 3, 1, 2)


@torch.no_grad()
def match_codes(config: LRMConfig, positions: nn.Parameter, planes: nn.Parameter) -> None:
    """Fill the image's table ``(1, 1 + g^2, dim)`` (CLS stays small) and the plane tokens."""
    for table, codes in ((positions[0, 1:], image_codes(config)), (planes, plane_codes(config))):
        table.normal_(std=NOISE)
        table.add_(codes.to(table))


@torch.no_grad()
def match_attention(backbone: TriplaneTransformer, tokens: Tensor) -> None:
    """Let the codes of ``tokens (3, dim, g, g)`` reach every cross-attention and find their likes.

    - Group norm gets the mean and deviation that it takes away as its bias and weight, and
      ``proj_in`` is the identity: the blocks start from the tokens themselves.
    - Cross-attention: ``to_q`` is orthogonal, which keeps inner products, and ``to_k`` the same
      matrix where the widths agree, so equal codes attend to each other.
    - Cross-attention's values keep their scale; residual branches begin small, divided by
      sqrt(3 depth).
    """
    groups = tokens.transpose(0, 1).reshape(GROUPS, -1)
    per_group = tokens.shape[1] // GROUPS
    deviation = (groups.var(dim=1, unbiased=False) + GROUP_NORM_EPS).sqrt()
    backbone.norm.weight.copy_(deviation.repeat_interleave(per_group))
    backbone.norm.bias.copy_(groups.mean(dim=1).repeat_interleave(per_group))
    nn.init.eye_(backbone.proj_in.weight)
    nn.init.zeros_(backbone.proj_in.bias)
    depth = max(len(backbone.transformer_blocks), 1)
    for block in backbone.transformer_blocks:
        assert isinstance(block, Block)
        cross = block.attn2
        head_dim = cross.to_q.out_features // cross.heads
        # A normalised code has squared length dim, of which each head sees head_dim.
        nn.init.orthogonal_(cross.to_q.weight, gain=(MATCH_LOGIT / head_dim**0.5) ** 0.5)
        if cross.to_k.weight.shape == cross.to_q.weight.shape:
            cross.to_k.weight.copy_(cross.to_q.weight)
        nn.init.normal_(cross.to_v.weight, std=cross.to_v.in_features**-0.5)
        for linear in (block.attn1.to_out[0], cross.to_out[0], block.ff.net[2]):
            assert isinstance(linear, nn.Linear)
            nn.init.normal_(linear.weight, std=(3 * depth * linear.in_features) ** -0.5)
            nn.init.zeros_(linear.bias)
