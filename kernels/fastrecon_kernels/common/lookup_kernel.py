"""Kernels of `sample_triplane` and `sample_multires`: a triplane is a pyramid of one level.

    f_p(x) = sum over levels l of bilinear(plane_{l,p}, x)
    f(x)   = concat_p f_p  |  sum_p f_p  |  mean_p f_p

    dL/dplane_{l,p}[texel] += w_texel(x) g_p(x)        g_p = gradient of f_p from that of f
    dL/dx                  += sum_{l,p} (d bilinear(plane_{l,p}, x) / dx) . g_p(x)

A program serves BLOCK_M points of one object; levels are a loop at run time, channels are taken
N * PIECE at a time (see `taps.py`). Plane gradients are fp32 atomics, so their last bits vary
between runs. The backward pass looks the texels up again: the forward pass keeps nothing but its
inputs.
"""

# Triton types the call of a device function as an error, constexpr parameters as objects, and
# knows no launch options.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false

from __future__ import annotations

import triton
import triton.language as tl

from .device import level_plane, plane_coords, texel_weights
from .device_backward import (
    NO_KEY,
    add_point_gradient,
    bilinear_matrix,
    hat_weights,
    next_window,
    window_texels,
)
from .quads import zero_pieces
from .taps import add_taps, differentiate_taps, load_pieces, scatter_taps, store_pieces

MISSES = tl.constexpr(4)
"""Windows with too few points after which a tile is left alone."""
TAME, TINY, TOP = tl.constexpr(1e37), tl.constexpr(1e-36), tl.constexpr(32768.0)
"""Bounds of the sum of squares of a tile's gradients, and the root of that sum in fp16's range."""


@triton.jit
def load_points(points_ptr, slots, mask):
    """fp32 coordinates x, y, z (M,) of points ``slots`` from ``points_ptr``, 0 where masked."""
    x = tl.load(points_ptr + slots * 3, mask=mask, other=0.0).to(tl.float32)
    y = tl.load(points_ptr + slots * 3 + 1, mask=mask, other=0.0).to(tl.float32)
    z = tl.load(points_ptr + slots * 3 + 2, mask=mask, other=0.0).to(tl.float32)
    return x, y, z


# --- forward --------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["n_points"])
def lookup_forward(
    rows_ptr,  # (T, C)
    table_ptr,  # (L, 3) int64
    points_ptr,  # (B, n_points, 3)
    out_ptr,  # (B, n_points, 3C | C) fp32
    n_points,
    C: tl.constexpr,
    N_LEVELS: tl.constexpr,
    AXES: tl.constexpr,
    CONCAT: tl.constexpr,
    MEAN: tl.constexpr,
    N: tl.constexpr,
    PIECE: tl.constexpr,
    WORD: tl.constexpr,
    SPLIT: tl.constexpr,
    ROTATE: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    obj = tl.program_id(1)
    block = tl.program_id(0).to(tl.int64) * BLOCK_M
    slots = tl.arange(0, BLOCK_M)
    mask = slots < n_points - block
    # Within a block 32 bits suffice.
    first = obj.to(tl.int64) * n_points + block
    WIDTH: tl.constexpr = 3 * C if CONCAT else C
    out_ptr += first * WIDTH
    x, y, z = load_points(points_ptr + first * 3, slots, mask)
    for c in range(0, C, N * PIECE):
        if CONCAT:
            for plane in tl.static_range(3):
                u, v = plane_coords(x, y, z, plane, AXES)
                totals = zero_pieces(N, BLOCK_M, PIECE, False)
                for level in range(N_LEVELS):
                    totals = add_taps(
                        totals, rows_ptr, table_ptr, obj, level, plane, u, v,
                        slots, c, C, N, PIECE, SPLIT, ROTATE,
                    )  # fmt: skip
                store_pieces(
                    out_ptr + plane * C, slots * WIDTH, totals, 1.0, slots, mask, c,
                    C, N, PIECE, WORD, ROTATE,
                )  # fmt: skip
        else:
            totals = zero_pieces(N, BLOCK_M, PIECE, False)
            for level in range(N_LEVELS):
                for plane in tl.static_range(3):
                    u, v = plane_coords(x, y, z, plane, AXES)
                    totals = add_taps(
                        totals, rows_ptr, table_ptr, obj, level, plane, u, v,
                        slots, c, C, N, PIECE, SPLIT, ROTATE,
                    )  # fmt: skip
            scale = 1.0 / 3.0 if MEAN else 1.0
            store_pieces(
                out_ptr, slots * WIDTH, totals, scale, slots, mask, c,
                C, N, PIECE, WORD, ROTATE,
            )  # fmt: skip


# --- backward to points ---------------------------------------------------------------------


@triton.jit(do_not_specialize=["n_points"])
def lookup_points(
    rows_ptr,  # (T, C)
    table_ptr,  # (L, 3) int64
    points_ptr,  # (B, n_points, 3)
    grad_ptr,  # (B, n_points, 3C | C) fp32
    d_points_ptr,  # (B, n_points, 3) fp32, out
    n_points,
    C: tl.constexpr,
    N_LEVELS: tl.constexpr,
    AXES: tl.constexpr,
    CONCAT: tl.constexpr,
    MEAN: tl.constexpr,
    N: tl.constexpr,
    PIECE: tl.constexpr,
    WORD: tl.constexpr,
    SPLIT: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Threads add up what they have of a point; only the last sums go from thread to thread."""
    obj = tl.program_id(1)
    block = tl.program_id(0).to(tl.int64) * BLOCK_M
    slots = tl.arange(0, BLOCK_M)
    mask = slots < n_points - block
    first = obj.to(tl.int64) * n_points + block
    WIDTH: tl.constexpr = 3 * C if CONCAT else C
    scale = 1.0 / 3.0 if MEAN else 1.0
    grad_ptrs = grad_ptr + first * WIDTH + slots * WIDTH
    x, y, z = load_points(points_ptr + first * 3, slots, mask)
    d_x = tl.zeros((BLOCK_M, PIECE // WORD), tl.float32)
    d_y, d_z = d_x, d_x
    for c in range(0, C, N * PIECE):
        if not CONCAT:
            grads = load_pieces(grad_ptrs, slots, mask, c, C, N, PIECE)
        for plane in tl.static_range(3):
            if CONCAT:
                grads = load_pieces(grad_ptrs + plane * C, slots, mask, c, C, N, PIECE)
            u, v = plane_coords(x, y, z, plane, AXES)
            d_u = tl.zeros((BLOCK_M, PIECE // WORD), tl.float32)
            d_v = d_u
            for level in range(N_LEVELS):
                d_u, d_v = differentiate_taps(
                    rows_ptr, table_ptr, obj, level, plane, u, v, grads, slots, c, d_u, d_v,
                    C, N, PIECE, WORD, SPLIT,
                )  # fmt: skip
            d_x, d_y, d_z = add_point_gradient(d_x, d_y, d_z, d_u, d_v, plane, AXES)
    ptrs = d_points_ptr + first * 3 + slots * 3
    tl.store(ptrs, tl.sum(d_x, 1) * scale, mask=mask)
    tl.store(ptrs + 1, tl.sum(d_y, 1) * scale, mask=mask)
    tl.store(ptrs + 2, tl.sum(d_z, 1) * scale, mask=mask)


# --- backward to planes, tap by tap ---------------------------------------------------------


@triton.jit(do_not_specialize=["n_points"])
def lookup_scatter(
    table_ptr,  # (L, 3) int64
    points_ptr,  # (B, n_points, 3)
    grad_ptr,  # (B, n_points, 3C | C) fp32
    d_rows_ptr,  # (T, C) fp32, added to
    rest_ptr,  # (slices, B, n_points) int32, from `lookup_windows`; None: all points
    n_points,
    C: tl.constexpr,
    N_LEVELS: tl.constexpr,
    AXES: tl.constexpr,
    CONCAT: tl.constexpr,
    MEAN: tl.constexpr,
    N: tl.constexpr,
    PIECE: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """All points, or those that the windows left; BLOCK_C is theirs, and N * PIECE divides it or
    reaches all channels."""
    obj = tl.program_id(1)
    block = tl.program_id(0).to(tl.int64) * BLOCK_M
    slots = tl.arange(0, BLOCK_M)
    mask = slots < n_points - block
    first = obj.to(tl.int64) * n_points + block
    WIDTH: tl.constexpr = 3 * C if CONCAT else C
    N_BLOCKS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    scale = 1.0 / 3.0 if MEAN else 1.0
    grad_ptrs = grad_ptr + first * WIDTH + slots * WIDTH
    x, y, z = load_points(points_ptr + first * 3, slots, mask)
    for c in range(0, C, N * PIECE):
        if rest_ptr is None and not CONCAT:
            grads = load_pieces(grad_ptrs, slots, mask, c, C, N, PIECE)
        for plane in tl.static_range(3):
            u, v = plane_coords(x, y, z, plane, AXES)
            if rest_ptr is not None:
                part = (plane * N_BLOCKS + c // BLOCK_C) * tl.num_programs(1).to(tl.int64)
                rest = tl.load(rest_ptr + part * n_points + first + slots, mask=mask, other=0)
                if tl.max(rest, 0) != 0:
                    places = grad_ptrs + plane * C if CONCAT else grad_ptrs
                    grads = load_pieces(places, slots, mask, c, C, N, PIECE)
                    for level in range(N_LEVELS):
                        scatter_taps(
                            d_rows_ptr, table_ptr, obj, level, plane, u, v, grads, scale,
                            ((rest >> level) & 1) != 0, slots, c, C, N, PIECE,
                        )  # fmt: skip
            else:
                if CONCAT:
                    places = grad_ptrs + plane * C
                    grads = load_pieces(places, slots, mask, c, C, N, PIECE)
                for level in range(N_LEVELS):
                    scatter_taps(
                        d_rows_ptr, table_ptr, obj, level, plane, u, v, grads, scale,
                        mask, slots, c, C, N, PIECE,
                    )  # fmt: skip


# --- backward to planes, through windows ----------------------------------------------------


@triton.jit(do_not_specialize=["n_rays", "samples_per_ray"])
def lookup_windows(
    table_ptr,  # (L, 3) int64
    points_ptr,  # (B, n_rays, samples_per_ray, 3)
    grad_ptr,  # (B, n_rays, samples_per_ray, 3C | C) fp32
    d_rows_ptr,  # (T, C) fp32, added to
    rest_ptr,  # (slices, B, n_rays, samples_per_ray) int32, out: a bit per level that is left
    n_rays,
    samples_per_ray,
    C: tl.constexpr,
    N_LEVELS: tl.constexpr,
    AXES: tl.constexpr,
    CONCAT: tl.constexpr,
    MEAN: tl.constexpr,
    BLOCK_C: tl.constexpr,
    RAYS: tl.constexpr,
    DEPTH: tl.constexpr,
    PRODUCTS: tl.constexpr,
):
    """Gradients of the planes where neighbouring points share texels.

    A tile takes RAYS neighbouring rays and DEPTH consecutive points on each; on a plane they fall
    into few windows of 8 x 8 texels. With the bilinear weights A (64, M) of a window's texels and
    the gradient G (M, BLOCK_C), A G is what its texels get: a product on tensor cores, and one
    addition per texel instead of one per tap. Points that no window gathers, and tiles with a
    gradient that is not finite, which a product would spread over all texels, are the rest, left
    to `lookup_scatter`.

    The grid is (programs, B, slices); a slice is BLOCK_C channels of one plane.
    """
    BLOCK_M: tl.constexpr = RAYS * DEPTH
    N_BLOCKS: tl.constexpr = (C + BLOCK_C - 1) // BLOCK_C
    slots = tl.arange(0, BLOCK_M)
    obj = tl.program_id(1)
    part = tl.program_id(2)
    plane = part // N_BLOCKS
    offs_c = part % N_BLOCKS * BLOCK_C + tl.arange(0, BLOCK_C)
    width = 3 * C if CONCAT else C
    scale = 1.0 / 3.0 if MEAN else 1.0
    n_points = tl.cast(n_rays, tl.int64) * samples_per_ray
    points_ptr += obj * n_points * 3
    grad_ptr += obj * n_points * width
    if CONCAT:
        grad_ptr += plane * C
    rest_ptr += (part * tl.num_programs(1) + obj) * n_points
    places = slots // DEPTH * samples_per_ray + slots % DEPTH
    deep = tl.cdiv(samples_per_ray, DEPTH)
    n_tiles = deep * tl.cdiv(n_rays, RAYS)

    tile = tl.program_id(0)
    while tile < n_tiles:
        ray, depth = tile // deep * RAYS, tile % deep * DEPTH
        mask = (slots // DEPTH < n_rays - ray) & (slots % DEPTH < samples_per_ray - depth)
        # Within a tile 32 bits suffice.
        first = ray.to(tl.int64) * samples_per_ray + depth
        x, y, z = load_points(points_ptr + first * 3, places, mask)
        u, v = plane_coords(x, y, z, plane, AXES)
        offsets = (places * width)[:, None] + offs_c[None, :]
        inside = mask[:, None] & (offs_c < C)[None, :]
        g = tl.load(grad_ptr + first * width + offsets, mask=inside, other=0.0)
        squares = tl.sum(g * g)
        patience = tl.where(squares < TAME, MISSES, 0)  # false for NaN
        squares = tl.maximum(squares, TINY)
        shrink = tl.rsqrt(squares) * TOP
        restore = tl.rsqrt(squares) * squares * (scale / TOP)
        g *= shrink
        g_high = g.to(tl.float16)
        if PRODUCTS == 3:
            g_low = (g - g_high.to(tl.float32)).to(tl.float16)
        rest = tl.zeros((BLOCK_M,), tl.int32)
        for level in range(N_LEVELS):
            first_row, H, W = level_plane(table_ptr, level, obj, plane)
            column, line, fx, fy = texel_weights(H, W, u, v)
            left = mask & (column >= -1) & (column < W) & (line >= -1) & (line < H)
            key, top, covered = next_window(column, line, left)
            misses = 0
            while (key < NO_KEY) & (misses < patience):
                if tl.sum(covered.to(tl.int32), 0) * 16 >= BLOCK_M:
                    texels, base, there = window_texels(first_row, H, W, key, top)
                    weight_x = hat_weights(tl.where(covered, column - key, -2), fx)
                    weight_y = hat_weights(line - top, fy)
                    if PRODUCTS == 3:
                        a = bilinear_matrix(weight_x, weight_y)
                        a_high = a.to(tl.float16)
                        a_low = (a - a_high.to(tl.float32)).to(tl.float16)
                        e = tl.dot(a_high, g_high, tl.dot(a_high, g_low, tl.dot(a_low, g_high)))
                    else:
                        a = bilinear_matrix(weight_x.to(tl.float16), weight_y.to(tl.float16))
                        e = tl.dot(a, g_high)
                    touched = there & (tl.sum(tl.abs(e), 1) > 0.0)
                    near = (texels * C)[:, None] + offs_c[None, :]
                    wanted = touched[:, None] & (offs_c < C)[None, :]
                    tl.atomic_add(
                        d_rows_ptr + base * C + near, e * restore, mask=wanted, sem="relaxed"
                    )
                else:
                    misses += 1
                    rest |= tl.where(covered, 1 << level, 0)
                left = left & (covered == 0)
                key, top, covered = next_window(column, line, left)
            rest |= tl.where(left, 1 << level, 0)
        tl.store(rest_ptr + first + places, rest, mask=mask)
        tile += tl.num_programs(0)
