"""Device functions of the field: sample positions, plane features, decoder layers.

Shapes in comments are per program: M samples, BLOCK_C channels, WIDTH hidden units. Matrix
products take their operands in the type that the weights are packed in and accumulate in fp32.
"""

# Triton types constexpr parameters as objects.
# pyright: reportArgumentType=false

from __future__ import annotations

import triton
import triton.language as tl

from ..common.device import (
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
    """Positions (M,) with the box at [-1, 1], and the object that each sample belongs to.

    Samples beyond ``mask`` stand for sample 0, which exists, so that nothing here needs a mask.
    """
    samples = tl.where(mask, samples, 0)
    ray = samples // samples_per_ray
    row = ray.to(tl.int64) * 3
    x = tl.load(rays_o_ptr + row)
    y = tl.load(rays_o_ptr + row + 1)
    z = tl.load(rays_o_ptr + row + 2)
    if ALONG_RAYS:
        t = tl.load(ts_ptr + samples)
        x += t * tl.load(rays_d_ptr + row)
        y += t * tl.load(rays_d_ptr + row + 1)
        z += t * tl.load(rays_d_ptr + row + 2)
    objects = (first_ray + ray) // rays_per_object
    scale = 1.0 / radius
    return x * scale, y * scale, z * scale, objects


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


# --- decoder ---------------------------------------------------------------------------------


@triton.jit
def activate(z, ACTIVATION: tl.constexpr, APPROX: tl.constexpr = False, HALF: tl.constexpr = False):
    """Activation of z, or with HALF (SiLU and APPROX alone) of twice z."""
    if ACTIVATION == "silu":
        return silu(z, APPROX, HALF)
    elif ACTIVATION == "relu":
        return tl.maximum(z, 0.0)
    else:
        return softplus(z, APPROX)


@triton.jit
def matrix_offsets(ROWS: tl.constexpr, COLS: tl.constexpr):
    """Offsets (ROWS, COLS) of a row-major matrix."""
    return tl.arange(0, ROWS)[:, None] * COLS + tl.arange(0, COLS)[None, :]


@triton.jit
def apply_weight(x, w, PRECISION: tl.constexpr, total=None):
    """x w, added to ``total``, in fp32; x is rounded to the type that the weights are packed in."""
    return tl.dot(x.to(w.dtype), w, total, input_precision=PRECISION)
