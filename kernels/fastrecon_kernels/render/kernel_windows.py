"""From the gradient of z_0 to the folded texels, tile by tile through small windows of texels.

Bilinear sampling commutes with a linear map, so z_0 is a sum of taps of folded texels G = F W_0,
and the gradients of planes and W_0 follow from that of G alone (`kernel_fold.py`). Neighbouring
samples share texels: a tile takes PATCH_W x PATCH_H neighbouring rays and DEPTH consecutive
samples on each, and on a plane they fall into few windows of 8 x 8 texels. With the bilinear
weights A (64, M) of a window's texels and the gradient D (M, WIDTH) of z_0,

    dG = A D

is a product on tensor cores, and a texel gets one addition per tile instead of one per tap. What
no window gathers (points that lie alone) and windows with a gradient that is not finite, which a
product would spread over all their texels, are left to `tap_backward_kernel`.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.device import plane_coords, texel_weights
from ..common.device_backward import (
    NO_KEY,
    SIDE,
    bilinear_matrix,
    hat_weights,
    next_window,
    window_order,
    window_texels,
)
from .device_backward import add_to_texels, patch_samples, ray_points, z_gradient

MISSES = tl.constexpr(4)
"""Windows with too few samples after which a tile is left alone."""


@triton.jit(
    do_not_specialize=[
        "n_rays",
        "samples_per_ray",
        "first_ray",
        "rays_per_object",
        "columns",
        "lead",
        "max_listed",
    ]
)
def window_backward_kernel(
    rays_o_ptr,
    rays_d_ptr,
    ts_ptr,
    table_ptr,
    grad_ptr,  # (M, WIDTH): gradient of z_0
    raw_ptr,  # records and their gradients, for a decoder of one layer
    rgb_ptr,
    d_raw_ptr,
    d_rgb_ptr,
    d_folded_ptr,  # (T, WIDTH) fp32, or int64 in units of 1 / unit with EXACT; added to
    unit_ptr,  # () fp32
    d_bias_ptr,  # (3, programs, WIDTH) fp32: gradient of z_0's bias, added to
    rest_ptr,  # (3, tiles, BLOCK_M) int32, out for listed tiles: a bit per level
    list_ptr,  # (3, programs, max_listed) int32, out: tiles with a rest
    listed_ptr,  # (3, programs) int32, out: how many
    n_rays,
    samples_per_ray,
    first_ray,
    rays_per_object,
    columns,
    lead,
    max_listed,
    radius,
    rgb_padding,
    N_LEVELS: tl.constexpr,
    AXES: tl.constexpr,
    WIDTH: tl.constexpr,
    ONE_LAYER: tl.constexpr,
    N_OUT: tl.constexpr,
    BIAS_GRAD: tl.constexpr,
    EXACT: tl.constexpr,
    PRECISION: tl.constexpr,
    PATCH_W: tl.constexpr,
    PATCH_H: tl.constexpr,
    DEPTH: tl.constexpr,
):
    """A program serves one plane; the grid is (programs, 3)."""
    BLOCK_M: tl.constexpr = PATCH_W * PATCH_H * DEPTH
    slots = tl.arange(0, BLOCK_M)
    offs_w = tl.arange(0, WIDTH)
    plane = tl.program_id(1)
    inverse = 1.0 / radius
    unit = tl.load(unit_ptr) if EXACT else 1.0
    row = tl.cast(plane * tl.num_programs(0) + tl.program_id(0), tl.int64)
    list_ptr += row * max_listed
    bias = tl.zeros((SIDE * SIDE, WIDTH), tl.float32)  # in every row of a product
    across = tl.cdiv(columns, PATCH_W)
    deep = tl.cdiv(samples_per_ray, DEPTH)
    n_tiles = deep * across * tl.cdiv(lead + n_rays, columns * PATCH_H)
    rest_ptr += plane * tl.cast(n_tiles, tl.int64) * BLOCK_M

    listed = 0
    tile = tl.program_id(0)
    while tile < n_tiles:
        rays, samples, mask = patch_samples(
            tile, slots, n_rays, samples_per_ray, columns, lead, across, deep,
            PATCH_W, PATCH_H, DEPTH,
        )  # fmt: skip
        x, y, z = ray_points(rays_o_ptr, rays_d_ptr, ts_ptr, rays, samples, mask, True)
        x, y, z = x * inverse, y * inverse, z * inverse
        objects = (first_ray + rays) // rays_per_object
        first_object = tl.min(tl.where(mask, objects, NO_KEY), 0)
        d = z_gradient(
            grad_ptr, raw_ptr, rgb_ptr, d_raw_ptr, d_rgb_ptr, samples, mask, rgb_padding,
            ONE_LAYER, N_OUT, WIDTH, False,
        )  # fmt: skip
        if BIAS_GRAD:  # noqa: SIM102 (one is compiled away, the other is not)
            if tile % 3 == plane:  # the planes' programs share this work
                ones = tl.where(mask, 1.0, 0.0)[None, :] + tl.zeros((SIDE * SIDE, 1), tl.float32)
                bias = tl.dot(ones.to(d.dtype), d, bias, input_precision=PRECISION)
        rest = tl.zeros((BLOCK_M,), tl.int32)
        u, v = plane_coords(x, y, z, plane, AXES)
        for level in range(N_LEVELS):
            H = tl.load(table_ptr + level * 3).to(tl.int32)
            W = tl.load(table_ptr + level * 3 + 1).to(tl.int32)
            start = tl.load(table_ptr + level * 3 + 2)
            column, line, fx, fy = texel_weights(H, W, u, v)
            left = mask & (column >= -1) & (column < W) & (line >= -1) & (line < H)
            keys = window_order(column, objects, first_object, W)
            key, top, covered = next_window(keys, line, left)
            misses = 0
            while (key < NO_KEY) & (misses < MISSES):
                finite = tl.sum(covered.to(tl.int32), 0) * 16 >= BLOCK_M
                misses += tl.where(finite, 0, 1)
                if finite:
                    pitch = W + 4 + SIDE
                    first = key % pitch - 2
                    obj = (first_object + key // pitch).to(tl.int64)
                    texels, base, there = window_texels(
                        start + (obj * 3 + plane) * H * W, H, W, first, top
                    )
                    weight_x = hat_weights(tl.where(covered, column - first, -2), fx)
                    weight_y = hat_weights(line - top, fy)
                    a = bilinear_matrix(weight_x, weight_y).to(d.dtype)
                    e = tl.dot(a, d, input_precision=PRECISION)
                    size = tl.sum(tl.abs(e), 1)
                    small = (size < float("inf")).to(tl.int32)  # false for NaN
                    # Over all axes, that is in any order: reduced along axis 0, in the layout of a
                    # product's rows, it does not compile for sm_100 (triton 3.6).
                    finite = tl.min(small) == 1
                    if finite:
                        near = (texels * WIDTH)[:, None] + offs_w[None, :]
                        touched = (there & (size > 0.0))[:, None]
                        add_to_texels(d_folded_ptr + base * WIDTH + near, e, unit, touched, EXACT)
                if finite == 0:
                    rest |= tl.where(covered, 1 << level, 0)
                left = left & (covered == 0)
                key, top, covered = next_window(keys, line, left)
            rest |= tl.where(left, 1 << level, 0)
        if tl.max(rest, 0) != 0:
            tl.store(rest_ptr + tl.cast(tile, tl.int64) * BLOCK_M + slots, rest)
            tl.store(list_ptr + listed, tile)
            listed += 1
        tile += tl.num_programs(0)

    tl.store(listed_ptr + row, listed)
    if BIAS_GRAD:
        sums = d_bias_ptr + row * WIDTH + offs_w
        tl.store(sums, tl.load(sums) + tl.sum(bias, 0) / (SIDE * SIDE))
