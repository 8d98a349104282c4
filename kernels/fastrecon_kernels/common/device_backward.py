"""Device functions of the backward pass: from the gradient of a feature to texels and points.

Shapes as in `device.py`.
"""

# Triton types the call of a device function as an error and knows no launch options.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from .device import texel_weights


@triton.jit
def point_gradient(rows_ptr, first_row, H, W, u, v, grad, offs_c, C: tl.constexpr, row_mask):
    """Gradients d_u, d_v (M,) of a plane's bilinear features times ``grad`` (M, BLOCK_C).

    Texel by texel, so that few of them are held at a time.

    Args:
        rows_ptr: `Texels.rows`.
        first_row: (M,) int64 row of the plane's first texel.
        H, W: int32 size of the plane (see `level_plane`).
        u, v: (M,) fp32 width and height coordinates.
        offs_c: (BLOCK_C,) channels; those from C on add nothing.
        row_mask: (M,) samples that exist; the others give 0 and touch no memory.
    """
    x, y, fx, fy = texel_weights(H, W, u, v)
    # One offset per sample; the other texels lie at the same distance from it for all.
    first = (first_row + (y * W + x)) * C
    d_u = tl.zeros_like(u)
    d_v = tl.zeros_like(v)
    for corner in tl.static_range(4):
        dx = corner % 2
        dy = corner // 2
        there = row_mask & (x >= -dx) & (x < W - dx) & (y >= -dy) & (y < H - dy)
        mask = there[:, None] & (offs_c < C)[None, :]
        offsets = first[:, None] + ((dy * W + dx) * C + offs_c)[None, :]
        along_x = fx if dx else 1.0 - fx
        along_y = fy if dy else 1.0 - fy
        texel = tl.load(rows_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        product = tl.sum(texel * grad, 1)
        d_u += (along_y if dx else -along_y) * product
        d_v += (along_x if dy else -along_x) * product
    return d_u * (W.to(tl.float32) * 0.5), d_v * (H.to(tl.float32) * 0.5)


@triton.jit
def add_point_gradient(d_x, d_y, d_z, d_u, d_v, plane, AXES: tl.constexpr):
    """Add a plane's gradients d_u, d_v (M,) to those of the point; transpose of `plane_coords`."""
    code = AXES >> (4 * plane)
    u_axis, v_axis = code & 3, (code >> 2) & 3
    d_x += tl.where(u_axis == 0, d_u, 0.0) + tl.where(v_axis == 0, d_v, 0.0)
    d_y += tl.where(u_axis == 1, d_u, 0.0) + tl.where(v_axis == 1, d_v, 0.0)
    d_z += tl.where(u_axis == 2, d_u, 0.0) + tl.where(v_axis == 2, d_v, 0.0)
    return d_x, d_y, d_z


# --- windows: many samples on few texels ----------------------------------------------------

SIDE = tl.constexpr(8)
"""Texels per side of a window: its 64 are the rows of one tensor core product."""
NO_KEY = tl.constexpr(0x7FFFFFFF)


@triton.jit
def window_order(x, objects, first_object, W):
    """int32 keys (M,) by object, then by column; windows of one object reach no other's keys."""
    return (objects - first_object).to(tl.int32) * (W + 4 + SIDE) + x + 2


@triton.jit
def next_window(keys, y, left):
    """The window of the first samples ``left``: its key and first row, and whom it covers.

    The key is `NO_KEY` when none are left.
    """
    key = tl.min(tl.where(left, keys, NO_KEY), 0)
    covered = left & (keys <= key + SIDE - 2)
    top = tl.min(tl.where(covered, y, NO_KEY), 0)
    return key, top, covered & (y <= top + SIDE - 2)


@triton.jit
def window_texels(first_row, H, W, column, row):
    """Rows (SIDE * SIDE,) of a window's texels from its first one, that one's, and who is there."""
    texel = tl.arange(0, SIDE * SIDE)
    i, j = texel % SIDE, texel // SIDE
    there = (column + i >= 0) & (column + i < W) & (row + j >= 0) & (row + j < H)
    return j * W + i, first_row + row * W + column, there


@triton.jit
def hat_weights(start, fraction):
    """Linear weights (SIDE, M) of texels 0, 1, ... along a window's side.

    ``start`` is the texel that a sample lies behind, ``fraction`` how far.
    """
    side = tl.arange(0, SIDE)[:, None]
    before = tl.where(side == start[None, :], (1.0 - fraction)[None, :], 0.0)
    return tl.where(side == (start + 1)[None, :], fraction[None, :], before)


@triton.jit
def bilinear_matrix(weight_x, weight_y):
    """Weights (SIDE * SIDE, M) of a window's texels, row by row."""
    product = weight_y[:, None, :] * weight_x[None, :, :]
    return tl.reshape(product, (SIDE * SIDE, weight_x.shape[1]))
