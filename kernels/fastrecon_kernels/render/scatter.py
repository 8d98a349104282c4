"""Plane gradients without atomics, for ``deterministic=True``."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.checks import axis_indices
from ..settings import Axes


def scatter_features(
    d_rows: Tensor,
    d_features: Tensor,
    unit: Tensor,
    objects: Tensor,
    axes: Axes,
    levels: tuple[Tensor, ...],
) -> None:
    """Add feature gradients to texel gradients, in an order that never changes.

    Args:
        d_rows: (T, C) fp32 in the row order of `common.texels`, added to.
        d_features: (M, 3 C) for "concat", else (M, C), which every plane then gets.
        unit: (M, 3) positions with the box at [-1, 1].
        objects: (M,) int64 object of each sample.
        axes: world axes of each plane.
        levels: whose rows they are; only their shapes are read.
    """
    channels = d_rows.shape[1]
    first = 0
    for batch, _, _, height, width in (level.shape for level in levels):
        for plane, (u, v) in enumerate(axis_indices(axes)):
            base = first + (objects * 3 + plane) * (height * width)
            concat = d_features.shape[1] != channels
            part = d_features[:, plane * channels :][:, :channels] if concat else d_features
            x = (unit[:, u] + 1) * (width / 2) - 0.5
            y = (unit[:, v] + 1) * (height / 2) - 0.5
            x0, y0 = x.floor(), y.floor()
            for dy, weight_y in ((0, 1 - (y - y0)), (1, y - y0)):
                for dx, weight_x in ((0, 1 - (x - x0)), (1, x - x0)):
                    column, row = x0 + dx, y0 + dy
                    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
                    texel = base + (row * width + column).masked_fill(~inside, 0).long()
                    weight = torch.where(inside, weight_x * weight_y, 0)
                    add_rows(d_rows, texel, weight[:, None] * part)
        first += batch * 3 * height * width


def add_rows(total: Tensor, index: Tensor, values: Tensor) -> None:
    """``total[index] += values`` in a fixed order."""
    if total.is_cuda:  # sorts the indices, where index_add_ would use atomics
        total.index_put_((index,), values, accumulate=True)
    else:  # one thread after the other, where index_put_ may use atomics
        total.index_add_(0, index, values)
