"""Masked bilinear taps, plainly: what the faster ones of the kernels are tested against."""

# Triton types the call of a device function as an error.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl
from fastrecon_kernels.common.device import texel_weights


@triton.jit
def tap_offsets(H, W, x, y, offs_c, C: tl.constexpr, row_mask):
    """Offset (M, BLOCK_C) of texel (x, y) from its plane's first, and whether it is there."""
    inside = row_mask & (x >= 0) & (x < W) & (y >= 0) & (y < H)
    offsets = ((y * W + x).to(tl.int64) * C)[:, None] + offs_c[None, :]
    return offsets, inside[:, None] & (offs_c < C)[None, :]


@triton.jit
def load_tap(plane_ptr, H, W, x, y, offs_c, C: tl.constexpr, row_mask):
    """Texels (x, y) as fp32 (M, BLOCK_C); zero outside the plane."""
    offsets, mask = tap_offsets(H, W, x, y, offs_c, C, row_mask)
    return tl.load(plane_ptr + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def plane_pointer(rows_ptr, first_row, C: tl.constexpr):
    """Pointer to a plane's first texel: a scalar, or (M, 1) for a first row per sample."""
    if len(first_row.shape) == 0:
        return rows_ptr + first_row * C
    else:
        return (rows_ptr + first_row * C)[:, None]


@triton.jit
def gather_plane(rows_ptr, first_row, H, W, u, v, offs_c, C: tl.constexpr, row_mask):
    """Bilinear features fp32 (M, BLOCK_C) of points (M,) on one plane each.

    Args:
        rows_ptr: `Texels.rows`.
        first_row: int64 row of the plane's first texel, a scalar or (M,).
        H, W: int32 size of the plane (see `level_plane`).
        u, v: fp32 (M,) width and height coordinates.
        offs_c: (BLOCK_C,) channels; those from C on give 0.
        row_mask: (M,) samples that exist; the others give 0 and touch no memory.
    """
    plane_ptr = plane_pointer(rows_ptr, first_row, C)
    x, y, fx, fy = texel_weights(H, W, u, v)
    t00 = load_tap(plane_ptr, H, W, x, y, offs_c, C, row_mask)
    t01 = load_tap(plane_ptr, H, W, x + 1, y, offs_c, C, row_mask)
    t10 = load_tap(plane_ptr, H, W, x, y + 1, offs_c, C, row_mask)
    t11 = load_tap(plane_ptr, H, W, x + 1, y + 1, offs_c, C, row_mask)
    upper = t00 * ((1 - fx) * (1 - fy))[:, None] + t01 * (fx * (1 - fy))[:, None]
    return upper + t10 * ((1 - fx) * fy)[:, None] + t11 * (fx * fy)[:, None]
