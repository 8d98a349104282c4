"""Triplane sampling in plain PyTorch: the definition.

    f_p(x) = bilinear(plane_p, x[width axis of p], x[height axis of p])        p = 0, 1, 2
    f(x)   = concat_p f_p  |  sum_p f_p  |  mean_p f_p

Texel i of a side of W texels is centred at (2 i + 1) / W - 1 (``align_corners=False``) and texels
outside the plane count as zero. Written as gathers, so that it can be differentiated twice.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.checks import axis_indices, compute_dtype
from ..settings import Axes

FAR = 1e9
"""A texel coordinate out of every plane."""


def bilinear(rows: Tensor, base: Tensor, size: tuple[int, int], u: Tensor, v: Tensor) -> Tensor:
    """Interpolate texels stored as rows.

    Args:
        rows: (T, C) texels of any number of planes, row-major within a plane.
        base: index of each point's plane's first texel, broadcastable to (M,).
        size: (H, W) of the plane.
        u, v: (M,) width and height coordinate in [-1, 1].

    Returns:
        (M, C).
    """
    height, width = size
    # Points that are not finite lie outside, and have no gradient.
    x = torch.nan_to_num((u + 1) * (width / 2) - 0.5, nan=-FAR, posinf=FAR, neginf=-FAR)
    y = torch.nan_to_num((v + 1) * (height / 2) - 0.5, nan=-FAR, posinf=FAR, neginf=-FAR)
    x0, y0 = x.detach().floor(), y.detach().floor()
    fx, fy = x - x0, y - y0
    total = None
    for dy, weight_y in ((0, 1 - fy), (1, fy)):
        for dx, weight_x in ((0, 1 - fx), (1, fx)):
            column, row = x0 + dx, y0 + dy
            inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
            texel = (row * width + column).masked_fill(~inside, 0).long() + base
            tap = torch.where(inside, weight_x * weight_y, 0)[:, None] * rows[texel]
            total = tap if total is None else total + tap
    assert total is not None
    return total


def reduce_planes(features: list[Tensor], reduction: str) -> Tensor:
    """Three (M, C) plane features to (M, 3C) or (M, C)."""
    if reduction == "concat":
        return torch.cat(features, -1)
    total = features[0] + features[1] + features[2]
    return total / 3 if reduction == "mean" else total


def sample_triplane_reference(planes: Tensor, points: Tensor, axes: Axes, reduction: str) -> Tensor:
    """planes (B, 3, C, H, W), points (B, ..., 3) in [-1, 1] -> (B, ..., 3C | C)."""
    batch, _, channels, height, width = planes.shape
    dtype = compute_dtype(planes, points)
    rows = planes.permute(0, 1, 3, 4, 2).reshape(-1, channels).to(dtype)
    flat = points.reshape(-1, 3).to(dtype)
    per_object = flat.shape[0] // max(batch, 1)
    objects = torch.arange(batch, device=planes.device).repeat_interleave(per_object)
    features = [
        bilinear(
            rows, (objects * 3 + p) * (height * width), (height, width), flat[:, u], flat[:, v]
        )
        for p, (u, v) in enumerate(axis_indices(axes))
    ]
    result = reduce_planes(features, reduction)
    return result.reshape(*points.shape[:-1], result.shape[-1])
