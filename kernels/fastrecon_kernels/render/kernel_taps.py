"""From the gradient of z_0 to the folded texels and to the positions, tap by tap.

`tap_backward_kernel` does what `window_backward_kernel` does, without an order that it relies on:
for points, and for what the windows left. `point_backward_kernel` gives the gradients of positions,
which not every call asks for.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.device import level_plane, plane_coords, texel_weights
from ..common.device_backward import add_point_gradient, point_gradient
from .device import matrix_offsets
from .device_backward import (
    add_to_texels,
    apply_transposed,
    patch_samples,
    ray_points,
    z_gradient,
)


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
def tap_backward_kernel(
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
    rest_ptr,  # from `window_backward_kernel`, for LISTED
    list_ptr,
    listed_ptr,
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
    ALONG_RAYS: tl.constexpr,
    LISTED: tl.constexpr,
    BIAS_GRAD: tl.constexpr,
    EXACT: tl.constexpr,
    PATCH_W: tl.constexpr,
    PATCH_H: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """The grid is (programs, 3): a program serves one plane, and all samples or those left."""
    offs_w = tl.arange(0, WIDTH)
    plane = tl.program_id(1)
    unit = tl.load(unit_ptr) if EXACT else 1.0
    n_samples = tl.cast(n_rays, tl.int64) * samples_per_ray
    row = tl.cast(plane * tl.num_programs(0) + tl.program_id(0), tl.int64)
    bias = tl.zeros((WIDTH,), tl.float32)
    tile, step = tl.program_id(0), tl.num_programs(0)
    n_tiles = tl.cdiv(n_rays * samples_per_ray, BLOCK_M)
    if LISTED:
        PARTS: tl.constexpr = PATCH_W * PATCH_H * DEPTH // BLOCK_M
        tile, step = 0, 1
        n_tiles = tl.load(listed_ptr + row) * PARTS
        list_ptr += row * max_listed
        across = tl.cdiv(columns, PATCH_W)
        deep = tl.cdiv(samples_per_ray, DEPTH)
        patches = deep * across * tl.cdiv(lead + n_rays, columns * PATCH_H)
        rest_ptr += plane * tl.cast(patches, tl.int64) * (PARTS * BLOCK_M)

    while tile < n_tiles:
        if LISTED:
            patch = tl.load(list_ptr + tile // PARTS)
            slots = tile % PARTS * BLOCK_M + tl.arange(0, BLOCK_M)
            rays, samples, mask = patch_samples(
                patch, slots, n_rays, samples_per_ray, columns, lead, across, deep,
                PATCH_W, PATCH_H, DEPTH,
            )  # fmt: skip
            samples = samples.to(tl.int64)
            rest = tl.load(rest_ptr + patch.to(tl.int64) * (PARTS * BLOCK_M) + slots)
            mask = mask & (rest != 0)
        else:
            samples = (tile * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
            mask = samples < n_samples
            rays = tile * BLOCK_M + tl.arange(0, BLOCK_M)
            if ALONG_RAYS:
                rays //= samples_per_ray
        x, y, z = ray_points(rays_o_ptr, rays_d_ptr, ts_ptr, rays, samples, mask, ALONG_RAYS)
        x, y, z = x / radius, y / radius, z / radius
        objects = (first_ray + rays) // rays_per_object
        d = z_gradient(
            grad_ptr, raw_ptr, rgb_ptr, d_raw_ptr, d_rgb_ptr, samples, mask, rgb_padding,
            ONE_LAYER, N_OUT, WIDTH,
        ).to(tl.float32)  # fmt: skip
        if BIAS_GRAD:  # noqa: SIM102 (one is compiled away, the other is not)
            if tile % 3 == plane:  # the planes' programs share this work
                bias += tl.sum(d, 0)
        u, v = plane_coords(x, y, z, plane, AXES)
        for level in range(N_LEVELS):
            first_row, H, W = level_plane(table_ptr, level, objects, plane)
            todo = mask
            if LISTED:
                todo = mask & (((rest >> level) & 1) != 0)
            column, line, fx, fy = texel_weights(H, W, u, v)
            # One offset per sample; the other texels lie at the same distance from it for all.
            first = (first_row + (line * W + column)) * WIDTH
            for corner in tl.static_range(4):
                dx = corner % 2
                dy = corner // 2
                there = todo & (column >= -dx) & (column < W - dx)
                there = there & (line >= -dy) & (line < H - dy)
                weight = (fx if dx else 1.0 - fx) * (fy if dy else 1.0 - fy)
                offsets = first[:, None] + ((dy * W + dx) * WIDTH + offs_w)[None, :]
                add_to_texels(
                    d_folded_ptr + offsets, d * weight[:, None], unit, there[:, None], EXACT
                )
        tile += step

    if BIAS_GRAD:
        sums = d_bias_ptr + row * WIDTH + offs_w
        tl.store(sums, tl.load(sums) + bias)


@triton.jit(do_not_specialize=["n_rays", "samples_per_ray", "first_ray", "rays_per_object"])
def point_backward_kernel(
    rays_o_ptr,
    rays_d_ptr,
    ts_ptr,
    rows_ptr,
    table_ptr,
    weights_ptr,
    grad_ptr,
    raw_ptr,
    rgb_ptr,
    d_raw_ptr,
    d_rgb_ptr,
    d_points_ptr,  # (3, M, 3) fp32, out, in scene units; their sum is the gradient
    n_rays,
    samples_per_ray,
    first_ray,
    rays_per_object,
    radius,
    rgb_padding,
    C: tl.constexpr,
    N_LEVELS: tl.constexpr,
    AXES: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    MEAN: tl.constexpr,
    WIDTH: tl.constexpr,
    ONE_LAYER: tl.constexpr,
    N_OUT: tl.constexpr,
    ALONG_RAYS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """The part of a position's gradient that comes through one plane; the grid is (programs, 3)."""
    offs_c = tl.arange(0, BLOCK_C)
    plane = tl.program_id(1)
    scale = 1.0 / 3.0 if MEAN else 1.0
    n_samples = tl.cast(n_rays, tl.int64) * samples_per_ray
    if BLOCKS == 3:
        weights_ptr += plane * (BLOCK_C * WIDTH)
    d_points_ptr += plane * n_samples * 3
    w = tl.load(weights_ptr + matrix_offsets(BLOCK_C, WIDTH))
    tile = tl.program_id(0)
    while tile < tl.cdiv(n_rays * samples_per_ray, BLOCK_M):
        samples = (tile * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
        mask = samples < n_samples
        rays = tile * BLOCK_M + tl.arange(0, BLOCK_M)
        if ALONG_RAYS:
            rays //= samples_per_ray
        x, y, z = ray_points(rays_o_ptr, rays_d_ptr, ts_ptr, rays, samples, mask, ALONG_RAYS)
        x, y, z = x / radius, y / radius, z / radius
        objects = (first_ray + rays) // rays_per_object
        d = z_gradient(
            grad_ptr, raw_ptr, rgb_ptr, d_raw_ptr, d_rgb_ptr, samples, mask, rgb_padding,
            ONE_LAYER, N_OUT, WIDTH,
        )  # fmt: skip
        grad = apply_transposed(d, w, PRECISION) * scale
        u, v = plane_coords(x, y, z, plane, AXES)
        d_u = tl.zeros((BLOCK_M,), tl.float32)
        d_v = tl.zeros((BLOCK_M,), tl.float32)
        for level in range(N_LEVELS):
            first_row, H, W = level_plane(table_ptr, level, objects, plane)
            more_u, more_v = point_gradient(rows_ptr, first_row, H, W, u, v, grad, offs_c, C, mask)
            d_u += more_u
            d_v += more_v
        zero = tl.zeros((BLOCK_M,), tl.float32)
        d_x, d_y, d_z = add_point_gradient(zero, zero, zero, d_u, d_v, plane, AXES)
        tl.store(d_points_ptr + samples * 3, d_x / radius, mask=mask)
        tl.store(d_points_ptr + samples * 3 + 1, d_y / radius, mask=mask)
        tl.store(d_points_ptr + samples * 3 + 2, d_z / radius, mask=mask)
        tile += tl.num_programs(0)
