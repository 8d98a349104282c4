"""Device functions of the field: sample positions, plane features, decoder layers.

Shapes in comments are per program: M samples, BLOCK_C channels, WIDTH hidden units. Matrix
products take their operands in the type that the weights are packed in and accumulate in fp32.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.device import (
    gather_plane,
    level_plane,
    plane_coords,
    silu,
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
def matrix_offsets(ROWS: tl.constexpr, COLS: tl.constexpr):
    """Offsets (ROWS, COLS) of a row-major matrix."""
    return tl.arange(0, ROWS)[:, None] * COLS + tl.arange(0, COLS)[None, :]


@triton.jit
def apply_weight(x, w, PRECISION: tl.constexpr):
    """x w with fp32 accumulation; x is rounded to the type that the weights are packed in."""
    return tl.dot(x.to(w.dtype), w, input_precision=PRECISION)
