"""Device functions shared by the kernels: texel lookup, activations, uniform numbers.

Points are in [-1, 1]; shapes in comments are per program: M samples, BLOCK_C channels. The rules
are those of the references (``triplane_sample/reference.py``, ``common/random.py``).
"""

# Triton types the call of a device function as an error, constexpr parameters as objects, and
# knows no launch options.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false

from __future__ import annotations

import triton
import triton.language as tl

from ..settings import Axes
from .checks import axis_indices

# --- planes and their axes ------------------------------------------------------------------


def pack_axes(axes: Axes) -> int:
    """The three (width, height) coordinate pairs as one number, the constexpr ``AXES``.

    Four bits per plane: two for the width axis, two for the height axis. One number instead of
    six lets the kernels loop over planes at run time.
    """
    return sum((u | v << 2) << 4 * p for p, (u, v) in enumerate(axis_indices(axes)))


@triton.jit
def plane_coords(x, y, z, plane, AXES: tl.constexpr):
    """Width and height coordinate of points x, y, z (M,) on plane 0, 1 or 2."""
    code = AXES >> (4 * plane)
    u_axis, v_axis = code & 3, (code >> 2) & 3
    u = tl.where(u_axis == 0, x, tl.where(u_axis == 1, y, z))
    v = tl.where(v_axis == 0, x, tl.where(v_axis == 1, y, z))
    return u, v


@triton.jit
def level_plane(table_ptr, level, objects, plane):
    """Look up `Texels.table`: first row (int64, shaped like ``objects``), H and W (int32)."""
    height = tl.load(table_ptr + level * 3)
    width = tl.load(table_ptr + level * 3 + 1)
    first = tl.load(table_ptr + level * 3 + 2)
    first_row = first + (objects.to(tl.int64) * 3 + plane) * height * width
    return first_row, height.to(tl.int32), width.to(tl.int32)


# --- bilinear taps, zero padding ------------------------------------------------------------


@triton.jit
def texel_weights(H, W, u, v):
    """Upper left texel (int32) of points (M,) and the weights of its right and lower neighbours."""
    # Two texels out there is nothing to read; clamping there keeps the conversion to int defined.
    # Comparisons, for tl.maximum leaves open what becomes of NaN, which must end up outside.
    x = (u + 1.0) * (W.to(tl.float32) * 0.5) - 0.5
    y = (v + 1.0) * (H.to(tl.float32) * 0.5) - 0.5
    x = tl.where(x > -2.0, tl.where(x < W + 1.0, x, W + 1.0), -2.0)
    y = tl.where(y > -2.0, tl.where(y < H + 1.0, y, H + 1.0), -2.0)
    x0, y0 = tl.floor(x), tl.floor(y)
    return x0.to(tl.int32), y0.to(tl.int32), x - x0, y - y0


# --- activations ----------------------------------------------------------------------------
#
# With APPROX in a few instructions of NVIDIA's, exact to about 2^-11, which is less than rounding
# their results to bf16 costs.


@triton.jit
def tanh_approx(x):
    """tanh, one special function (sm_75 and later)."""
    return tl.inline_asm_elementwise(
        "tanh.approx.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1
    )


@triton.jit
def sigmoid(x, APPROX: tl.constexpr = False):
    """1 / (1 + exp(-x)), fp32; tends to 0 and 1 without overflow."""
    if APPROX:
        return 0.5 + 0.5 * tanh_approx(0.5 * x)
    else:
        return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def silu(x, APPROX: tl.constexpr = False, HALF: tl.constexpr = False):
    """x sigmoid(x), or with APPROX and HALF 2x sigmoid(2x)."""
    if APPROX:
        half = x if HALF else 0.5 * x
        return half + half * tanh_approx(half)
    else:
        return x * sigmoid(x)


@triton.jit
def softplus(x, APPROX: tl.constexpr = False):
    """log(1 + exp(x)), fp32; its gradient is `sigmoid`."""
    if APPROX:  # max(x, 0) + log(2) log2(1 + 2^(-|x| log2(e)))
        return tl.inline_asm_elementwise(
            """
            {
            .reg .f32 e, positive;
            abs.f32 e, $1;
            mul.f32 e, e, 0fBFB8AA3B;
            ex2.approx.ftz.f32 e, e;
            add.f32 e, e, 0f3F800000;
            lg2.approx.ftz.f32 e, e;
            max.f32 positive, $1, 0f00000000;
            fma.rn.f32 $0, e, 0f3F317218, positive;
            }
            """,
            "=f,f",
            [x],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )
    else:
        e = tl.exp(-tl.abs(x))
        # log(1 + e) has lost e's digits where e is small; three terms of its series are exact
        # there.
        tail = tl.where(e < 0.01, e * (1.0 - e * (0.5 - e * (1.0 / 3.0))), tl.log(1.0 + e))
        return tl.maximum(x, 0.0) + tail


# --- uniform numbers ------------------------------------------------------------------------

GOLDEN = tl.constexpr(0x9E3779B9)


@triton.jit
def mix32(x):
    """Scramble uint32 (the "lowbias32" finaliser), as `common.random` does."""
    x = x ^ (x >> 16)
    x = x * tl.full((), 0x7FEB352D, tl.uint32)
    x = x ^ (x >> 15)
    x = x * tl.full((), 0x846CA68B, tl.uint32)
    return x ^ (x >> 16)


@triton.jit
def uniform(seed, rays, samples, STREAM: tl.constexpr):
    """Uniform fp32 numbers in [0, 1), the same as `common.random.uniform`.

    Args:
        seed: int64 scalar.
        rays: int64 flat ray indices.
        samples: int32 sample indices, broadcastable against ``rays``.
        STREAM: `COARSE` or `FINE` of `common.random`.
    """
    golden = tl.full((), GOLDEN, tl.uint32)
    stream = golden * tl.full((), STREAM + 1, tl.uint32)
    key = mix32(seed.to(tl.uint32) ^ mix32((seed >> 32).to(tl.uint32) ^ stream))
    ray_key = mix32(mix32(key ^ rays.to(tl.uint32)) ^ (rays >> 32).to(tl.uint32))
    bits = mix32(ray_key + samples.to(tl.uint32) * golden)
    return (bits >> 8).to(tl.float32) * (1.0 / 16777216.0)
