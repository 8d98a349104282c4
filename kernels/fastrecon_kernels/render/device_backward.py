"""Device functions of the field's backward pass; shapes and products as in `device.py`."""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.device import level_plane, plane_coords, sigmoid, silu_gradient
from ..common.device_backward import add_point_gradient, point_gradient, scatter_plane


@triton.jit
def plane_gradients(
    rows_ptr,
    table_ptr,
    d_rows_ptr,
    objects,
    x,
    y,
    z,
    d_x,
    d_y,
    d_z,
    grad,
    offs_c,
    mask,
    first_plane,
    C: tl.constexpr,
    N_LEVELS: tl.constexpr,
    N_PLANES: tl.constexpr,
    AXES: tl.constexpr,
    SCATTER: tl.constexpr,
    POINT_GRAD: tl.constexpr,
):
    """Backward of `plane_features`: adds to texel gradients, returns those of the positions."""
    for i in range(N_PLANES):
        plane = first_plane + i
        u, v = plane_coords(x, y, z, plane, AXES)  # pyright: ignore[reportGeneralTypeIssues]
        for level in range(N_LEVELS):
            first_row, height, width = level_plane(table_ptr, level, objects, plane)
            if SCATTER:
                scatter_plane(d_rows_ptr, first_row, height, width, u, v, grad, offs_c, C, mask)
            if POINT_GRAD:
                d_u, d_v = point_gradient(
                    rows_ptr, first_row, height, width, u, v, grad, offs_c, C, mask
                )
                d_x, d_y, d_z = add_point_gradient(d_x, d_y, d_z, d_u, d_v, plane, AXES)
    return d_x, d_y, d_z


@triton.jit
def activation_gradient(z, ACTIVATION: tl.constexpr):
    if ACTIVATION == "silu":
        return silu_gradient(z)
    elif ACTIVATION == "relu":
        return tl.where(z > 0.0, 1.0, 0.0)
    else:
        return sigmoid(z)


@triton.jit
def apply_transposed(d, w, PRECISION: tl.constexpr):
    """d w^T: the gradient of x in `apply_weight`."""
    return tl.dot(d.to(w.dtype), tl.trans(w), input_precision=PRECISION)


@triton.jit
def weight_gradient(x, d, w, PRECISION: tl.constexpr):
    """x^T d: the gradient of w in `apply_weight`, over the samples of a tile."""
    return tl.dot(tl.trans(x.to(w.dtype)), d.to(w.dtype), input_precision=PRECISION)


@triton.jit
def output_gradient(
    raw_ptr,
    rgb_ptr,
    d_raw_ptr,
    d_rgb_ptr,
    samples,
    mask,
    rgb_padding,
    N_OUT: tl.constexpr,
    OUT: tl.constexpr,
):
    """Gradient (M, OUT) of the last layer's result from those of the records; 0 where empty."""
    column = tl.arange(0, OUT)
    present = mask & (tl.load(raw_ptr + samples, mask=mask, other=0.0) != -float("inf"))
    d_raw = tl.load(d_raw_ptr + samples, mask=present, other=0.0)
    offsets = samples.to(tl.int64)[:, None] * (N_OUT - 1) + column[None, :] - 1
    coloured = present[:, None] & ((column >= 1) & (column < N_OUT))[None, :]
    span = 1.0 + 2.0 * rgb_padding
    s = (tl.load(rgb_ptr + offsets, mask=coloured, other=0.0) + rgb_padding) / span
    d_rgb = tl.load(d_rgb_ptr + offsets, mask=coloured, other=0.0)
    d_logit = tl.where(coloured, d_rgb * span * s * (1.0 - s), 0.0)
    return tl.where((column == 0)[None, :], d_raw[:, None], d_logit)
