"""The operators behind `sample_triplane` and `sample_multires` on the kernels of `lookup_kernel`.

    lookup(points (B, ..., 3), levels of (B, 3, C, H_l, W_l)) -> features (B, ..., 3C | C) fp32

The backward operator returns the gradient of all levels as one table of texels, whose parts then
become the levels' gradients without a copy.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..settings import Axes
from .checks import feature_width
from .lookup_launch import look_up, look_up_backward
from .operators import below_autograd, register
from .texels import pack_texels, unpack_gradient


def _axes(axes: str) -> Axes:
    first, second, third = axes.split(",")
    return first, second, third


def _forward(points: Tensor, levels: list[Tensor], axes: str, reduction: str) -> Tensor:
    return look_up(pack_texels(levels, levels[0].dtype), points, _axes(axes), reduction)


def _forward_fake(points: Tensor, levels: list[Tensor], axes: str, reduction: str) -> Tensor:
    width = feature_width(levels[0].shape[2], reduction)
    return points.new_empty((*points.shape[:-1], width), dtype=torch.float32)


def _backward(
    grad: Tensor,
    points: Tensor,
    levels: list[Tensor],
    axes: str,
    reduction: str,
    need_points: bool,
    need_levels: bool,
) -> list[Tensor]:
    texels = pack_texels(levels, levels[0].dtype)
    d_rows = torch.zeros_like(texels.rows, dtype=torch.float32) if need_levels else None
    d_points = look_up_backward(texels, points, grad, _axes(axes), reduction, d_rows, need_points)
    return [
        *([] if d_points is None else [d_points.to(points.dtype)]),
        *([] if d_rows is None else [d_rows]),
    ]


def _backward_fake(
    grad: Tensor,
    points: Tensor,
    levels: list[Tensor],
    axes: str,
    reduction: str,
    need_points: bool,
    need_levels: bool,
) -> list[Tensor]:
    results = [points.new_empty(points.shape)] if need_points else []
    if need_levels:
        channels = levels[0].shape[2]
        texels = sum(level.numel() // channels for level in levels)
        results.append(points.new_empty((texels, channels), dtype=torch.float32))
    return results


class Lookup(torch.autograd.Function):
    """`lookup` with its levels spread out, as autograd wants them."""

    @staticmethod
    def forward(ctx: Any, points: Tensor, axes: str, reduction: str, *levels: Tensor) -> Tensor:
        ctx.save_for_backward(points, *levels)
        ctx.axes, ctx.reduction = axes, reduction
        with below_autograd():
            return lookup(points, levels, axes, reduction)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        points, *levels = ctx.saved_tensors
        need_points, need_levels = ctx.needs_input_grad[0], any(ctx.needs_input_grad[3:])
        gradients = lookup_backward(
            grad, points, levels, ctx.axes, ctx.reduction, need_points, need_levels
        )
        d_levels: tuple[Tensor | None, ...] = (None,) * len(levels)
        if need_levels:
            d_levels = unpack_gradient(gradients[-1], levels)
        return gradients[0] if need_points else None, None, None, *d_levels


def _differentiate(points: Tensor, levels: list[Tensor], axes: str, reduction: str) -> Any:
    return Lookup.apply(points, axes, reduction, *levels)


lookup = register(
    "lookup(Tensor points, Tensor[] levels, str axes, str reduction) -> Tensor",
    _forward,
    _forward_fake,
    _differentiate,
)
lookup_backward = register(
    "lookup_backward(Tensor grad, Tensor points, Tensor[] levels, str axes, str reduction, "
    "bool need_points, bool need_levels) -> Tensor[]",
    _backward,
    _backward_fake,
)


def sample_levels_triton(
    levels: tuple[Tensor, ...], points: Tensor, axes: Axes, reduction: str
) -> Tensor:
    """levels of (B, 3, C, H_l, W_l), points (B, ..., 3) in [-1, 1] -> (B, ..., 3C | C) fp32."""
    return lookup(points, levels, ",".join(axes), reduction)
