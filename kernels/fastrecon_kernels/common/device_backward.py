"""Device functions of the backward pass: from the gradient of a feature to texels and points.

Shapes as in `device.py`.
"""

# Triton types the call of a device function as an error and knows no launch options.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from .device import load_tap, plane_pointer, tap_offsets, texel_weights


@triton.jit
def scatter_plane(d_rows_ptr, first_row, H, W, u, v, grad, offs_c, C: tl.constexpr, row_mask):
    """Add the gradient (M, BLOCK_C) of `gather_plane`'s result to fp32 texel gradients."""
    plane_ptr = plane_pointer(d_rows_ptr, first_row, C)
    x, y, fx, fy = texel_weights(H, W, u, v)
    for corner in tl.static_range(4):
        dx = corner % 2
        dy = corner // 2
        weight = (fx if dx else 1 - fx) * (fy if dy else 1 - fy)
        offsets, mask = tap_offsets(H, W, x + dx, y + dy, offs_c, C, row_mask)
        tl.atomic_add(plane_ptr + offsets, grad * weight[:, None], mask=mask, sem="relaxed")


@triton.jit
def point_gradient(rows_ptr, first_row, H, W, u, v, grad, offs_c, C: tl.constexpr, row_mask):
    """Gradients d_u, d_v (M,) of `gather_plane`'s result times ``grad`` (M, BLOCK_C)."""
    plane_ptr = plane_pointer(rows_ptr, first_row, C)
    x, y, fx, fy = texel_weights(H, W, u, v)
    t00 = tl.sum(load_tap(plane_ptr, H, W, x, y, offs_c, C, row_mask) * grad, 1)
    t01 = tl.sum(load_tap(plane_ptr, H, W, x + 1, y, offs_c, C, row_mask) * grad, 1)
    t10 = tl.sum(load_tap(plane_ptr, H, W, x, y + 1, offs_c, C, row_mask) * grad, 1)
    t11 = tl.sum(load_tap(plane_ptr, H, W, x + 1, y + 1, offs_c, C, row_mask) * grad, 1)
    d_u = ((1 - fy) * (t01 - t00) + fy * (t11 - t10)) * (W.to(tl.float32) * 0.5)
    d_v = ((1 - fx) * (t10 - t00) + fx * (t11 - t01)) * (H.to(tl.float32) * 0.5)
    return d_u, d_v


@triton.jit
def add_point_gradient(d_x, d_y, d_z, d_u, d_v, plane, AXES: tl.constexpr):
    """Add a plane's gradients d_u, d_v (M,) to those of the point; transpose of `plane_coords`."""
    code = AXES >> (4 * plane)
    u_axis, v_axis = code & 3, (code >> 2) & 3
    d_x += tl.where(u_axis == 0, d_u, 0.0) + tl.where(v_axis == 0, d_v, 0.0)
    d_y += tl.where(u_axis == 1, d_u, 0.0) + tl.where(v_axis == 1, d_v, 0.0)
    d_z += tl.where(u_axis == 2, d_u, 0.0) + tl.where(v_axis == 2, d_v, 0.0)
    return d_x, d_y, d_z
