"""Triton path of `sample_triplane` and `sample_multires`: a triplane is a pyramid of one level.

    f_p(x) = sum over levels l of bilinear(plane_{l,p}, x)
    f(x)   = concat_p f_p  |  SCALE * sum_p f_p

    dL/dplane_{l,p}[texel] += w_texel(x) g_p(x)        g_p = slice p of dL/df  |  SCALE * dL/df
    dL/dx                  += sum_{l,p} (d bilinear(plane_{l,p}, x) / dx) . g_p(x)

A program serves BLOCK_M points of one object; planes and levels are loops at run time, channels
are taken BLOCK_C at a time. Plane gradients are fp32 atomics, so their last bits vary between
runs. The backward pass looks the texels up again: the forward pass keeps nothing but its inputs.
"""

# Triton types the call of a device function as an error and knows no launch options.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..settings import Axes
from .backend import FP_FUSION
from .device import gather_plane, level_plane, pack_axes, plane_coords
from .device_backward import add_point_gradient, point_gradient, scatter_plane
from .texels import Texels

MAX_BLOCK_C = 64
TILE = 2048
"""Numbers in a program's tile: 16 per thread, which spills on no workload (bench.static)."""
NUM_WARPS = 4


@triton.jit
def load_points(points_ptr, first, offs_m, row_mask):
    """fp32 coordinates x, y, z (M,) of points ``first + offs_m``."""
    ptrs = points_ptr + (first + offs_m) * 3
    x = tl.load(ptrs, mask=row_mask, other=0.0).to(tl.float32)
    y = tl.load(ptrs + 1, mask=row_mask, other=0.0).to(tl.float32)
    z = tl.load(ptrs + 2, mask=row_mask, other=0.0).to(tl.float32)
    return x, y, z


@triton.jit(do_not_specialize=["n_points"])
def lookup_forward(
    rows_ptr,  # (T, C)
    table_ptr,  # (L, 3) int64
    points_ptr,  # (B, n_points, 3)
    out_ptr,  # (B, n_points, 3C | C) fp32
    n_points,
    scale,  # 1, or 1/3 for the mean
    C: tl.constexpr,
    N_LEVELS: tl.constexpr,
    AXES: tl.constexpr,
    CONCAT: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    obj = tl.program_id(1)
    offs_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    row_mask = offs_m < n_points
    first = obj.to(tl.int64) * n_points
    x, y, z = load_points(points_ptr, first, offs_m, row_mask)
    width = 3 * C if CONCAT else C
    for c in range(0, C, BLOCK_C):
        offs_c = c + tl.arange(0, BLOCK_C)
        out_ptrs = out_ptr + ((first + offs_m) * width)[:, None] + offs_c[None, :]
        out_mask = row_mask[:, None] & (offs_c < C)[None, :]
        total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
        for plane in range(3):
            u, v = plane_coords(x, y, z, plane, AXES)
            for level in range(N_LEVELS):
                first_row, H, W = level_plane(table_ptr, level, obj, plane)
                total += gather_plane(rows_ptr, first_row, H, W, u, v, offs_c, C, row_mask)
            if CONCAT:
                tl.store(out_ptrs + plane * C, total, mask=out_mask)
                total = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
        if not CONCAT:
            tl.store(out_ptrs, total * scale, mask=out_mask)


@triton.jit(do_not_specialize=["n_points"])
def lookup_backward(
    rows_ptr,  # (T, C); not read unless NEED_POINTS
    table_ptr,  # (L, 3) int64
    points_ptr,  # (B, n_points, 3)
    grad_ptr,  # (B, n_points, 3C | C) fp32
    d_rows_ptr,  # (T, C) fp32, zeroed; not touched unless NEED_PLANES
    d_points_ptr,  # (B, n_points, 3) fp32; not touched unless NEED_POINTS
    n_points,
    scale,
    C: tl.constexpr,
    N_LEVELS: tl.constexpr,
    AXES: tl.constexpr,
    CONCAT: tl.constexpr,
    NEED_PLANES: tl.constexpr,
    NEED_POINTS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    obj = tl.program_id(1)
    offs_m = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    row_mask = offs_m < n_points
    first = obj.to(tl.int64) * n_points
    x, y, z = load_points(points_ptr, first, offs_m, row_mask)
    d_x = tl.zeros((BLOCK_M,), tl.float32)
    d_y = tl.zeros((BLOCK_M,), tl.float32)
    d_z = tl.zeros((BLOCK_M,), tl.float32)
    width = 3 * C if CONCAT else C
    for c in range(0, C, BLOCK_C):
        offs_c = c + tl.arange(0, BLOCK_C)
        grad_ptrs = grad_ptr + ((first + offs_m) * width)[:, None] + offs_c[None, :]
        grad_mask = row_mask[:, None] & (offs_c < C)[None, :]
        for plane in range(3):
            slice_ptrs = grad_ptrs + plane * C if CONCAT else grad_ptrs
            grad = tl.load(slice_ptrs, mask=grad_mask, other=0.0) * scale
            u, v = plane_coords(x, y, z, plane, AXES)
            for level in range(N_LEVELS):
                first_row, H, W = level_plane(table_ptr, level, obj, plane)
                if NEED_PLANES:
                    scatter_plane(d_rows_ptr, first_row, H, W, u, v, grad, offs_c, C, row_mask)
                if NEED_POINTS:
                    d_u, d_v = point_gradient(
                        rows_ptr, first_row, H, W, u, v, grad, offs_c, C, row_mask
                    )
                    d_x, d_y, d_z = add_point_gradient(d_x, d_y, d_z, d_u, d_v, plane, AXES)
    if NEED_POINTS:
        ptrs = d_points_ptr + (first + offs_m) * 3
        tl.store(ptrs, d_x, mask=row_mask)
        tl.store(ptrs + 1, d_y, mask=row_mask)
        tl.store(ptrs + 2, d_z, mask=row_mask)


def lookup_constexprs(channels: int, n_levels: int, axes: Axes, reduction: str) -> dict[str, Any]:
    """The compile-time arguments that both kernels share; nothing in them counts points."""
    block_c = min(triton.next_power_of_2(channels), MAX_BLOCK_C)
    return {
        "C": channels,
        "N_LEVELS": n_levels,
        "AXES": pack_axes(axes),
        "CONCAT": reduction == "concat",
        "BLOCK_M": min(TILE // block_c, 128),
        "BLOCK_C": block_c,
    }


def launch_grid(points: Tensor, block_m: int) -> tuple[int, int]:
    """Programs for points (B, N, 3): blocks of points, objects."""
    return (points.shape[1] + block_m - 1) // block_m, points.shape[0]


def look_up(texels: Texels, points: Tensor, axes: Axes, reduction: str) -> Tensor:
    """Features (B, N, 3C | C) fp32 of points (B, N, 3) in the objects 0 .. B - 1 of the table."""
    channels = texels.rows.shape[1]
    constexprs = lookup_constexprs(channels, texels.table.shape[0], axes, reduction)
    width = 3 * channels if reduction == "concat" else channels
    out = torch.empty((*points.shape[:2], width), dtype=torch.float32, device=points.device)
    if out.numel():
        # Triton launches on the current device, which need not be the tensors'.
        with torch.cuda.device_of(points):
            lookup_forward[launch_grid(points, constexprs["BLOCK_M"])](
                texels.rows,
                texels.table,
                points.contiguous(),
                out,
                points.shape[1],
                1 / 3 if reduction == "mean" else 1.0,
                **constexprs,
                num_warps=NUM_WARPS,
                **FP_FUSION,
            )
    return out


def look_up_backward(
    texels: Texels,
    points: Tensor,
    grad: Tensor,
    axes: Axes,
    reduction: str,
    d_rows: Tensor | None,
    need_points: bool,
) -> Tensor | None:
    """Backward of `look_up`, from the gradient (B, N, 3C | C) of its result.

    Args:
        d_rows: (T, C) fp32, which the gradients of the texels are added to; None: not needed.
        need_points: whether the points' gradient is needed.

    Returns:
        d_points (B, N, 3) fp32, or None.
    """
    constexprs = lookup_constexprs(texels.rows.shape[1], texels.table.shape[0], axes, reduction)
    unused = torch.empty(0, dtype=torch.float32, device=points.device)
    d_points = unused
    if need_points:
        d_points = torch.empty(points.shape, dtype=torch.float32, device=points.device)
    if grad.numel():
        with torch.cuda.device_of(points):
            lookup_backward[launch_grid(points, constexprs["BLOCK_M"])](
                texels.rows,
                texels.table,
                points.contiguous(),
                grad.float().contiguous(),
                unused if d_rows is None else d_rows,
                d_points,
                points.shape[1],
                1 / 3 if reduction == "mean" else 1.0,
                **constexprs,
                NEED_PLANES=d_rows is not None,
                NEED_POINTS=need_points,
                num_warps=NUM_WARPS,
                **FP_FUSION,
            )
    return d_points if need_points else None
