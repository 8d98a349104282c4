"""The renderer's fast path on CPUs: the reference with a faster field.

Ray placement, importance sampling, compositing and chunking are the reference's own. Only the
lookup differs: all taps of a sample are one bag of `embedding_bag` over channel-last texels, and
the plane gradient is the same operator again over samples grouped by texel cell, so that neither
direction writes a tap to memory. Planes carry a border of zero texels, which is the zero padding.
Samples in empty cells of an occupancy grid are never looked up.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..common.checks import axis_indices
from ..multires_lookup import sample_multires_reference
from ..settings import Axes, RenderSettings
from ..types import Decoder
from .reference import Field, decode, mask_empty, occupied

Sides = tuple[tuple[int, int], ...]
"""(H, W) of each level."""


class Cells(NamedTuple):
    """The texel cell of every point in every plane of every level; (M, 3, L) each.

    A cell has the texel centres (x0, y0) and (x0 + 1, y0 + 1) as corners, x0 in [-1, W - 1].
    """

    column: Tensor  # x0 + 1, int32
    row: Tensor  # y0 + 1, int32
    fx: Tensor  # position inside the cell, in [0, 1]
    fy: Tensor


def _per_level(values: list[int]) -> Tensor:
    return torch.tensor(values, dtype=torch.int32)


def _cells(points: Tensor, sides: Sides, axes: Axes) -> Cells:
    # A point that is not a number reads the zero border alone, as does one far outside.
    known = torch.nan_to_num(points, nan=-3.0)
    pairs = axis_indices(axes)
    found = []
    for which in (0, 1):
        coordinate = known[:, [pair[which] for pair in pairs], None]  # (M, 3, 1)
        size = points.new_tensor([side[1 - which] for side in sides])  # W for u, H for v
        position = ((coordinate + 1) * (size / 2)).sub_(0.5).clamp_(min=-1).minimum(size)
        first = position.floor().minimum(size - 1)
        found.append(((first + 1).int(), position.sub_(first)))
    (column, fx), (row, fy) = found
    return Cells(column, row, fx, fy)


def _taps(cells: Cells, sides: Sides) -> Tensor:
    """Rows of each cell's four corners among the bordered texels: (M, 3, L, 4) int32."""
    widths = [w + 2 for _, w in sides]
    counts = [(h + 2) * (w + 2) for h, w in sides]
    starts = _per_level([3 * sum(counts[:i]) for i in range(len(counts))])
    starts = starts + torch.arange(3, dtype=torch.int32)[:, None] * _per_level(counts)
    corner = torch.addcmul(cells.column + starts, cells.row, _per_level(widths))
    around = torch.tensor([[0, 1, width, width + 1] for width in widths], dtype=torch.int32)
    return corner[..., None] + around


def _weights(fx: Tensor, fy: Tensor) -> Tensor:
    """Bilinear weights in the order of `_taps`: (...) twice -> (..., 4)."""
    wx, wy = torch.stack([1 - fx, fx], -1), torch.stack([1 - fy, fy], -1)
    return (wy[..., :, None] * wx[..., None, :]).flatten(-2)


class Lookup(torch.autograd.Function):
    """(T, C) bordered texels, (M, 3) points in [-1, 1] -> (M, 3C | C) features."""

    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, points: Tensor, sides: Sides, axes: Axes, reduction: str
    ) -> Tensor:
        ctx.save_for_backward(rows, points)
        ctx.layout = (sides, axes, reduction)
        cells = _cells(points, sides, axes)
        weights = _weights(cells.fx, cells.fy)
        if reduction == "mean":
            weights /= 3
        per_point = 3 if reduction == "concat" else 1
        shape = (points.shape[0] * per_point, 12 * len(sides) // per_point)
        bags = F.embedding_bag(
            _taps(cells, sides).view(shape),
            rows,
            mode="sum",
            per_sample_weights=weights.view(shape),
        )
        return bags.view(points.shape[0], per_point * rows.shape[1])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rows, points = ctx.saved_tensors
        sides, axes, reduction = ctx.layout
        if torch.is_grad_enabled():
            return (*_twice_differentiable(ctx, rows, points, grads[0]), None, None, None)
        grad = grads[0].contiguous()
        if reduction == "mean":
            grad = grad / 3
        cells = _cells(points, sides, axes)
        d_rows = d_points = None
        if ctx.needs_input_grad[0]:
            d_rows = _texel_gradient(cells, grad.view(-1, rows.shape[1]), sides, rows)
        if ctx.needs_input_grad[1]:
            d_points = _point_gradient(cells, grad, sides, axes, rows)
        return d_rows, d_points, None, None, None


def _texel_gradient(cells: Cells, grad: Tensor, sides: Sides, rows: Tensor) -> Tensor:
    """Gradient of the bordered texels (T, C) from that of the features, (3M, C) or (M, C).

    Samples are grouped by cell; the four corners of a cell are four weighted sums over its group.
    """
    n_levels, channels = len(sides), rows.shape[1]
    counts = [(h + 1) * (w + 1) for h, w in sides]
    starts = [3 * sum(counts[:i]) for i in range(n_levels)]
    first = _per_level(starts) + torch.arange(3, dtype=torch.int32)[:, None] * _per_level(counts)
    keys = torch.addcmul(
        cells.column + first, cells.row, _per_level([w + 1 for _, w in sides])
    ).flatten()
    order = keys.argsort(stable=True)
    sizes = torch.bincount(keys, minlength=3 * sum(counts))
    sample = order // (keys.shape[0] // grad.shape[0]) if keys.shape[0] > grad.shape[0] else order
    offsets = sizes.cumsum(0) - sizes
    fx = cells.fx.flatten().index_select(0, order)
    fy = cells.fy.flatten().index_select(0, order)
    d_rows = grad.new_zeros(rows.shape)
    for dy, weight_y in ((0, 1 - fy), (1, fy)):
        for dx, weight_x in ((0, 1 - fx), (1, fx)):
            corner = F.embedding_bag(
                sample, grad, offsets, mode="sum", per_sample_weights=weight_y * weight_x
            )
            row = 0
            for (height, width), start, count in zip(sides, starts, counts, strict=True):
                texels = 3 * (height + 2) * (width + 2)
                out = d_rows[row : row + texels].view(3, height + 2, width + 2, channels)
                part = corner[start : start + 3 * count].view(3, height + 1, width + 1, channels)
                out[:, dy : dy + height + 1, dx : dx + width + 1] += part
                row += texels
    return d_rows


def _point_gradient(cells: Cells, grad: Tensor, sides: Sides, axes: Axes, rows: Tensor) -> Tensor:
    """Gradient of the points (M, 3): the bags again, with the weights' derivatives."""
    n_points, channels = cells.fx.shape[0], rows.shape[1]
    fx, fy, one = cells.fx, cells.fy, torch.ones_like(cells.fx)
    slopes_x = torch.stack([fy - 1, one - fy, -fy, fy], -1)
    slopes_y = torch.stack([fx - 1, -fx, one - fx, fx], -1)
    shape = (3 * n_points, 4 * len(sides))
    taps = _taps(cells, sides).view(shape)
    source = grad.view(n_points, grad.shape[1] // channels, channels)  # one or three per point
    d_points = grad.new_zeros(n_points, 3)
    for which, slopes, first, fraction in (
        (0, slopes_x, cells.column, fx),
        (1, slopes_y, cells.row, fy),
    ):
        # Where `_cells` moved a point to the border's outer edge, moving it changes nothing.
        moved = (fraction == 1) | ((fraction == 0) & (first == 0))
        slopes = slopes.masked_fill(moved[..., None], 0)
        half = slopes.new_tensor([side[1 - which] / 2 for side in sides])[:, None]
        bags = F.embedding_bag(
            taps, rows, mode="sum", per_sample_weights=(slopes * half).view(shape)
        )
        along = (bags.view(n_points, 3, channels) * source).sum(-1)
        for plane, pair in enumerate(axis_indices(axes)):
            d_points[:, pair[which]] += along[:, plane]
    return d_points


def _twice_differentiable(
    ctx: Any, rows: Tensor, points: Tensor, grad: Tensor
) -> tuple[Tensor | None, Tensor | None]:
    """The same gradients through the reference, for a backward pass that is differentiated."""
    sides, axes, reduction = ctx.layout
    needed = [x for x, need in zip((rows, points), ctx.needs_input_grad[:2], strict=True) if need]
    levels, row = [], 0
    for height, width in sides:
        texels = 3 * (height + 2) * (width + 2)
        bordered = rows[row : row + texels].view(3, height + 2, width + 2, -1)
        levels.append(bordered[None, :, 1:-1, 1:-1].permute(0, 1, 4, 2, 3))
        row += texels
    features = sample_multires_reference(tuple(levels), points[None], axes, reduction)[0]
    found = iter(torch.autograd.grad(features, needed, grad, create_graph=True))
    d_rows, d_points = (next(found) if need else None for need in ctx.needs_input_grad[:2])
    return d_rows, d_points


def border(levels: tuple[Tensor, ...]) -> Tensor:
    """Levels (1, 3, C, H, W) of one object as (T, C) channel-last texels bordered with zeros."""
    channels = levels[0].shape[2]
    return torch.cat(
        [F.pad(x[0].permute(0, 2, 3, 1), (0, 0, 1, 1, 1, 1)).reshape(-1, channels) for x in levels]
    )


def make_cpu_field(half_products: bool) -> Any:
    """A drop-in for the reference's `make_field`; ``half_products`` runs the decoder in bf16."""

    def make_field(
        levels: tuple[Tensor, ...],
        decoder: Decoder,
        settings: RenderSettings,
        occupancy: Tensor | None,
    ) -> Field:
        sides = tuple((level.shape[3], level.shape[4]) for level in levels)
        rows = border(levels)
        network = decoder.to(torch.bfloat16) if half_products else decoder

        def decoded(unit: Tensor) -> tuple[Tensor, Tensor]:
            features = Lookup.apply(rows, unit, sides, settings.axes, settings.reduction)
            raw, rgb = decode(features.to(network.weights[0].dtype), network, settings)
            return raw.to(unit.dtype), rgb.to(unit.dtype)

        def look(points: Tensor) -> tuple[Tensor, Tensor]:
            unit = points.reshape(-1, 3) / settings.radius
            if occupancy is None:
                raw, rgb = decoded(unit)
            else:  # skip what is known to be empty
                (kept,) = occupied(occupancy, unit).nonzero(as_tuple=True)
                raw, rgb = decoded(unit[kept])
                raw = raw.new_full(unit.shape[:1], -torch.inf).index_put((kept,), raw)
                rgb = rgb.new_zeros(len(unit), rgb.shape[-1]).index_put((kept,), rgb)
            raw, rgb = mask_empty(raw, rgb, unit, settings, None)
            return raw.view(points.shape[:-1]), rgb.view(*points.shape[:-1], rgb.shape[-1])

        return look

    return make_field
