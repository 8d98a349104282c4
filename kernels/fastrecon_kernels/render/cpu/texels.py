"""Planes as the CPU path reads them: one table of bordered texels, the first layer folded in.

Bilinear sampling is linear, so the decoder's first layer W may be applied to the texels instead of
to the samples. Concatenation, mean and sum over planes and levels then all become one sum of taps:

    W concat_p f_p(x) + b = sum_p sum_taps weight (W_p texel + b / 3)

The bilinear weights of a point in a plane add up to 1, its taps in the border included, so the
bias is spread over the planes and levels, a share of it on every texel, border and all.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...common.checks import axis_indices
from ...settings import Axes
from ...types import Decoder

TAP_COST = 8
"""Multiply-adds of a matrix product that take as long as one gathered number (bench/NOTES.md)."""


class Layout(NamedTuple):
    """Where texels lie among the rows of the table, and how positions on a plane become indices.

    The first dimension of a (6, ...) tensor runs across the three planes, then down them; every
    side counts its border, so a side of W texels has W + 2.
    """

    axes: Axes
    sides: tuple[tuple[int, int], ...]  # (H, W) of each level, without the border
    starts: tuple[int, ...]  # first row of each level, and the number of rows
    axis: Tensor  # (6,) world axis
    half: Tensor  # (6, L, 1) texels in half of the box
    centre: Tensor  # (6, L, 1) index of the box's centre
    last: Tensor  # (6, L, 1) last index of a side
    first: Tensor  # (3, L, 1) int32, each plane's first row
    stride: Tensor  # (1, L, 1) int32, rows from a texel to the one below
    corners: Tensor  # (L, 4, 1) int32, rows from a cell's first texel to its corners

    @property
    def n_rows(self) -> int:
        """T."""
        return self.starts[-1]


def make_layout(levels: tuple[Tensor, ...], axes: Axes) -> Layout:
    """The layout of levels (B, 3, C, H, W)."""
    sides = tuple((level.shape[3], level.shape[4]) for level in levels)
    counts = [(height + 2) * (width + 2) for height, width in sides]
    starts = list(itertools.accumulate((3 * n for n in counts), initial=0))
    pairs = axis_indices(axes)
    length = levels[0].new_tensor([[side[1] for side in sides]] * 3 + [[s[0] for s in sides]] * 3)
    first = [[start + p * n for start, n in zip(starts, counts, strict=False)] for p in range(3)]
    widths = [width + 2 for _, width in sides]
    return Layout(
        axes,
        sides,
        tuple(starts),
        axis=torch.tensor([pair[0] for pair in pairs] + [pair[1] for pair in pairs]),
        half=length[..., None] / 2,
        centre=length[..., None] / 2 + 0.5,
        last=length[..., None] + 1,
        first=torch.tensor(first, dtype=torch.int32)[..., None],
        stride=torch.tensor(widths, dtype=torch.int32)[None, :, None],
        corners=torch.tensor([[0, 1, w, w + 1] for w in widths], dtype=torch.int32)[..., None],
    )


def worth_folding(layout: Layout, decoder: Decoder, channels: int, n_points: int) -> bool:
    """Whether the first layer costs less on every texel than on every point."""
    hidden, features = decoder.weights[0].shape
    taps = 12 * len(layout.sides) * TAP_COST
    folded = layout.n_rows * channels * hidden + n_points * taps * hidden
    return folded < n_points * (taps * channels + features * hidden)


def bordered(level: Tensor) -> Tensor:
    """A level (1, 3, C, H, W) as (3, (H + 2) (W + 2), C) texels with a border of zeros."""
    last = F.pad(level[0].permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1))
    return last.reshape(3, -1, last.shape[-1])


def level_rows(
    level: Tensor, weight: Tensor | None, bias: Tensor | None, reduction: str, n_levels: int
) -> Tensor:
    """A level (1, 3, C, H, W) as (3 (H + 2) (W + 2), F) rows.

    Args:
        weight: (hidden, features) of a first layer that is folded in; None: rows of C channels.
        bias: (hidden,), of which every level of ``n_levels`` takes its share, or None.
    """
    texels = bordered(level)
    channels = texels.shape[-1]
    if weight is None:
        rows = texels / 3 if reduction == "mean" else texels
    else:
        if reduction == "concat":
            each = weight.view(-1, 3, channels).permute(1, 2, 0)  # (3, C, hidden)
        else:
            each = (weight / 3 if reduction == "mean" else weight).t().expand(3, -1, -1)
        share = None if bias is None else bias / (3 * n_levels)
        rows = texels @ each if share is None else torch.baddbmm(share, texels, each)
    return rows.flatten(0, 1)
