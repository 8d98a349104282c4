"""Device functions of the field: sample positions, plane features, decoder layers.

Shapes in comments are per program: M samples, BLOCK_C channels, WIDTH hidden units. Matrix
products take their operands in the type that the weights are packed in and accumulate in fp32.
"""

# Triton types constexpr parameters as objects.
# pyright: reportArgumentType=false

from __future__ import annotations

from typing import NamedTuple

import triton
import triton.language as tl

from ..common.device import (
    silu,
    softplus,
)

# --- loops -----------------------------------------------------------------------------------


class Condition(tl.condition):
    """Triton's condition of a `while`, which its interpreter can decide as well."""

    def __bool__(self) -> bool:
        return bool(self.condition)


is_left = tl.constexpr(Condition)
"""``while is_left(condition, disable_licm=True)``; kernels may name constants alone."""

# --- samples and features --------------------------------------------------------------------


class Divisor(NamedTuple):
    """A number to divide by, as a product and a shift (see `divide`); both int32."""

    multiplier: int  # 2^32 less than the unsigned one
    shift: int

    @classmethod
    def of(cls, divisor: int) -> Divisor:
        """The ``divisor`` of at least 1 and less than 2^31.

        With 2^31 <= m < 2^32 and m d - 2^(31 + s) < d <= 2^s, n m / 2^(31 + s) is less than 1 / d
        above n / d for n < 2^31, so that the whole numbers in them are one (Granlund and
        Montgomery, "Division by invariant integers using multiplication", 1994).
        """
        shift = (divisor - 1).bit_length()
        return cls(-(-(1 << 31 + shift) // divisor) - (1 << 32), shift)


@triton.jit
def divide(n, multiplier, shift):
    """n // divisor for int32 n >= 0 and a `Divisor`, in three instructions."""
    twice = 2 * n.to(tl.uint32)
    product = tl.umulhi(twice, tl.cast(multiplier, tl.uint32))
    return (product >> tl.cast(shift, tl.uint32)).to(tl.int32)


@triton.jit
def sample_points(
    rays_o_ptr,
    rays_d_ptr,
    ts_ptr,
    samples,
    mask,
    per_ray,
    per_ray_shift,
    per_object,
    per_object_shift,
    first_object,
    lead,
    radius,
    ALONG_RAYS: tl.constexpr,
):
    """Positions (M,) with the box at [-1, 1], and the object that each sample belongs to.

    ``per_ray`` and ``per_object`` with their shifts are the `Divisor` of a ray's samples and of an
    object's rays; ``lead`` rays of ``first_object`` come before the first one.
    Samples beyond ``mask`` stand for sample 0, which exists, so that nothing here needs a mask.
    """
    samples = tl.where(mask, samples, 0)
    ray = divide(samples, per_ray, per_ray_shift)
    row = ray.to(tl.int64) * 3
    x = tl.load(rays_o_ptr + row)
    y = tl.load(rays_o_ptr + row + 1)
    z = tl.load(rays_o_ptr + row + 2)
    if ALONG_RAYS:
        t = tl.load(ts_ptr + samples)
        x += t * tl.load(rays_d_ptr + row)
        y += t * tl.load(rays_d_ptr + row + 1)
        z += t * tl.load(rays_d_ptr + row + 2)
    objects = first_object + divide(lead + ray, per_object, per_object_shift)
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
