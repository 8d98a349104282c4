"""Device functions of the field: sample positions, plane features, decoder layers.

Shapes in comments are per program: M samples, BLOCK_C channels, WIDTH hidden units. Matrix
products take their operands in the type that the weights are packed in and accumulate in fp32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.device import (
    add_point_gradient,
    gather_plane,
    level_plane,
    plane_coords,
    point_gradient,
    scatter_plane,
    sigmoid,
    silu,
    silu_gradient,
    softplus,
)

# --- samples and features --------------------------------------------------------------------


@triton.jit
def sample_points(
    rays_o_ptr,
    rays_d_ptr,
    ts_ptr,
    samples,
    mask,
    samples_per_ray,
    first_ray,
    rays_per_object,
    radius,
    ALONG_RAYS: tl.constexpr,
):
    """Positions (M,) with the box at [-1, 1], and the object that each sample belongs to."""
    ray = samples // samples_per_ray
    row = ray.to(tl.int64) * 3
    x = tl.load(rays_o_ptr + row, mask=mask, other=0.0)
    y = tl.load(rays_o_ptr + row + 1, mask=mask, other=0.0)
    z = tl.load(rays_o_ptr + row + 2, mask=mask, other=0.0)
    if ALONG_RAYS:
        t = tl.load(ts_ptr + samples, mask=mask, other=0.0)
        x += t * tl.load(rays_d_ptr + row, mask=mask, other=0.0)
        y += t * tl.load(rays_d_ptr + row + 1, mask=mask, other=0.0)
        z += t * tl.load(rays_d_ptr + row + 2, mask=mask, other=0.0)
    objects = (first_ray + ray) // rays_per_object
    return x / radius, y / radius, z / radius, objects


@triton.jit
def is_empty(
    occupancy_ptr,
    objects,
    x,
    y,
    z,
    resolution,
    mask,
    DROP_OUTSIDE: tl.constexpr,
    GRID: tl.constexpr,
):
    """Which samples are empty: out of the box, or in a false cell of the occupancy grid."""
    outside = (tl.abs(x) > 1.0) | (tl.abs(y) > 1.0) | (tl.abs(z) > 1.0)
    empty = tl.zeros_like(outside)
    if GRID:
        half = resolution.to(tl.float32) * 0.5
        last = resolution.to(tl.float32) - 1.0
        i = tl.minimum(tl.maximum(tl.floor((x + 1.0) * half), 0.0), last).to(tl.int64)
        j = tl.minimum(tl.maximum(tl.floor((y + 1.0) * half), 0.0), last).to(tl.int64)
        k = tl.minimum(tl.maximum(tl.floor((z + 1.0) * half), 0.0), last).to(tl.int64)
        cell = ((objects * resolution + i) * resolution + j) * resolution + k
        found = tl.load(occupancy_ptr + cell, mask=mask & ~outside, other=1)
        empty = found == 0
    if DROP_OUTSIDE:
        empty = empty | outside
    return empty


@triton.jit
def plane_features(
    rows_ptr,
    table_ptr,
    objects,
    x,
    y,
    z,
    offs_c,
    mask,
    first_plane,
    C: tl.constexpr,
    N_LEVELS: tl.constexpr,
    N_PLANES: tl.constexpr,
    AXES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Sum of bilinear features (M, BLOCK_C) over a range of planes and all levels."""
    total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
    for i in range(N_PLANES):
        plane = first_plane + i
        u, v = plane_coords(x, y, z, plane, AXES)
        for level in range(N_LEVELS):
            first_row, height, width = level_plane(table_ptr, level, objects, plane)
            total += gather_plane(rows_ptr, first_row, height, width, u, v, offs_c, C, mask)
    return total


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


# --- decoder ---------------------------------------------------------------------------------


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    if ACTIVATION == "silu":
        return silu(z)
    elif ACTIVATION == "relu":
        return tl.maximum(z, 0.0)
    else:
        return softplus(z)


@triton.jit
def activation_gradient(z, ACTIVATION: tl.constexpr):
    if ACTIVATION == "silu":
        return silu_gradient(z)
    elif ACTIVATION == "relu":
        return tl.where(z > 0.0, 1.0, 0.0)
    else:
        return sigmoid(z)


@triton.jit
def matrix_offsets(ROWS: tl.constexpr, COLS: tl.constexpr):
    """Offsets (ROWS, COLS) of a row-major matrix."""
    return tl.arange(0, ROWS)[:, None] * COLS + tl.arange(0, COLS)[None, :]


@triton.jit
def apply_weight(x, w, PRECISION: tl.constexpr):
    """x w with fp32 accumulation; x is rounded to the type that the weights are packed in."""
    return tl.dot(x.to(w.dtype), w, input_precision=PRECISION)


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
