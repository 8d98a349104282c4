"""Bilinear lookup on a CPU: all taps of a point are one bag of `embedding_bag`.

The gradient of the texels is the same operator over samples grouped by texel cell, so that neither
direction writes a tap to memory. Arrays are points-last until the bags need them otherwise: then
every operation runs along contiguous memory, for all planes and levels at once.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...common.checks import axis_indices
from .texels import Layout


class Cells(NamedTuple):
    """The texel cell of M points in every plane of every level."""

    corner: Tensor  # (3, L, M) int32, row of the cell's first texel
    inside: Tensor  # (6, L, M) position in the cell, in [0, 1]: across 3 planes, then down them


def find_cells(unit: Tensor, layout: Layout) -> Cells:
    """Cells of points (3, M), the box at [-1, 1].

    A point that is not a number reads the border alone, as does one far outside.
    """
    along = unit.index_select(0, layout.axis)[:, None]  # (6, 1, M)
    position = torch.addcmul(layout.centre, along, layout.half)
    position = position.clamp_(min=0).minimum(layout.last).nan_to_num_(0.0)
    first = position.floor().minimum(layout.last - 1)
    column, row = first.int().split(3)
    corner = (column + layout.first).addcmul_(row, layout.stride)
    return Cells(corner, position.sub_(first))


def _taps(cells: Cells, layout: Layout) -> Tensor:
    """Rows of the four corners of every cell: (M, 12 L) int32, plane by plane."""
    return _bags_first(cells.corner[:, :, None] + layout.corners)


def _shares(inside: Tensor) -> Tensor:
    """Weights of the near and the far side: (6, L, M) -> (6, L, 2, M)."""
    return torch.stack([1 - inside, inside], 2)


def _bilinear(shares: Tensor) -> Tensor:
    """Products of shares down and across, in the order of `_taps`: (6, L, 2, M) -> (M, 12 L)."""
    across, down = shares.split(3)
    return _bags_first(down[:, :, :, None] * across[:, :, None])


def _bags_first(x: Tensor) -> Tensor:
    return x.view(-1, x.shape[-1]).t().contiguous()


def gather(rows: Tensor, cells: Cells, layout: Layout, per_plane: bool) -> Tensor:
    """Sums of taps: (T, F) rows -> (M, F), or (M, 3 F) with the planes apart."""
    n_points = cells.corner.shape[2]
    n_bags = 3 * n_points if per_plane else n_points
    if n_points == 0:
        return rows.new_zeros(0, rows.shape[1] * (3 if per_plane else 1))
    bags = F.embedding_bag(
        _taps(cells, layout).view(n_bags, -1),
        rows,
        mode="sum",
        per_sample_weights=_bilinear(_shares(cells.inside)).view(n_bags, -1),
    )
    return bags.view(n_points, -1)


def texel_gradient(cells: Cells, grad: Tensor, layout: Layout, per_plane: bool) -> Tensor:
    """Gradient (T, F) of the rows from that of what `gather` gave.

    Samples are grouped by cell; the four corners of a cell are four weighted sums over its group.
    """
    n_points = cells.corner.shape[2]
    source = torch.arange(n_points, dtype=torch.int32)
    if per_plane:
        source = 3 * source + torch.arange(3, dtype=torch.int32)[:, None, None]
        grad = grad.view(3 * n_points, -1)
    source = source.expand(cells.corner.shape).reshape(-1)
    keys = cells.corner.flatten()
    sizes = torch.bincount(keys, minlength=layout.n_rows)
    if layout.n_rows <= torch.iinfo(torch.int16).max:
        keys = keys.short()  # the radix sort takes half the passes
    order = keys.argsort(stable=True)
    source = source.index_select(0, order)
    offsets = (sizes.cumsum(0) - sizes).int()
    fx, fy = (x.flatten().index_select(0, order) for x in cells.inside.split(3))
    far = fx * fy
    right, down = fx - far, fy - far

    def sums_of(weights: Tensor) -> Tensor:
        return F.embedding_bag(source, grad, offsets, mode="sum", per_sample_weights=weights)

    d_rows = sums_of(1 - fy - right)
    for corner, weights in ((1, right), (2, down), (3, far)):
        sums = sums_of(weights)
        for level in range(len(layout.sides)):
            start, end = layout.starts[level], layout.starts[level + 1]
            offset = int(layout.corners[level, corner])
            d_rows[start + offset : end] += sums[start : end - offset]
    return d_rows


def point_gradient(
    rows: Tensor, cells: Cells, grad: Tensor, layout: Layout, per_plane: bool
) -> Tensor:
    """Gradient (3, M) of the points: the bags again, with the weights' derivatives."""
    n_points = cells.corner.shape[2]
    taps = _taps(cells, layout).view(3 * n_points, -1)
    source = grad.view(n_points, -1, rows.shape[1])  # one or three per point
    d_unit = grad.new_zeros(3, n_points)
    texel = cells.corner - layout.first
    for down, index in enumerate((texel % layout.stride, texel // layout.stride)):
        planes = slice(3 * down, 3 * down + 3)
        inside = cells.inside[planes]
        # Where a point was moved to the border's outer edge, moving it changes nothing.
        moved = (inside == 1) | ((inside == 0) & (index == 0))
        half = torch.where(moved, 0, layout.half[planes])
        shares = _shares(cells.inside)
        shares[planes] = torch.stack([-half, half], 2)
        weights = _bilinear(shares).view(3 * n_points, -1)
        bags = F.embedding_bag(taps, rows, mode="sum", per_sample_weights=weights)
        along = (bags.view(n_points, 3, -1) * source).sum(-1)
        for plane, pair in enumerate(axis_indices(layout.axes)):
            d_unit[pair[down]] += along[:, plane]
    return d_unit
