"""Backward of `field_kernel`, in groups of layers from the last to the first.

`group_backward_kernel` computes the layers between two cuts again and gives back the gradient at
the first cut; `first_backward_kernel` goes from z_0 to the planes and the positions. Gradients of
weights are kept in registers over a program's tiles and added to the program's own sums, which the
caller adds up: no atomics, so they come out the same every time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.device import level_plane, plane_coords
from ..common.device_backward import add_point_gradient, differentiate_taps
from .device import apply_weight, matrix_offsets
from .device_backward import (
    activate_and_derive,
    apply_transposed,
    output_gradient,
    patch_samples,
    ray_points,
    weight_gradient,
)


@triton.jit(do_not_specialize=["n_samples"])
def group_backward_kernel(
    cut_ptr,  # (M, WIDTH): z before the group
    grad_ptr,  # (M, WIDTH): gradient of the z after the group; that of z before it, out
    raw_ptr,  # records and their gradients, for the last layer
    rgb_ptr,
    d_raw_ptr,
    d_rgb_ptr,
    weights_ptr,  # the group's part of the packed decoder
    biases_ptr,
    d_weights_ptr,  # the same parts of the per-program sums (programs, ...)
    d_biases_ptr,
    weights_stride,
    biases_stride,
    n_samples,
    rgb_padding,
    N_SQUARE: tl.constexpr,
    LAST: tl.constexpr,
    WIDTH: tl.constexpr,
    N_OUT: tl.constexpr,
    OUT: tl.constexpr,
    ACTIVATION: tl.constexpr,
    WEIGHT_GRAD: tl.constexpr,
    APPROX: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Backward of one or two layers: N_SQUARE hidden ones, then the last one with LAST."""
    SQUARE: tl.constexpr = WIDTH * WIDTH
    square = matrix_offsets(WIDTH, WIDTH)
    narrow = N_SQUARE * SQUARE + matrix_offsets(WIDTH, OUT)
    offs_w = tl.arange(0, WIDTH)
    offs_last = N_SQUARE * WIDTH + tl.arange(0, OUT)
    program = tl.program_id(0).to(tl.int64)
    d_weights_ptr += program * weights_stride
    d_biases_ptr += program * biases_stride
    if N_SQUARE >= 1:
        w_a = tl.load(weights_ptr + square)
        b_a = tl.load(biases_ptr + offs_w)
    if N_SQUARE == 2:
        w_b = tl.load(weights_ptr + SQUARE + square)
    if LAST:
        w_last = tl.load(weights_ptr + narrow)
    if WEIGHT_GRAD:
        if N_SQUARE >= 1:
            sum_a = tl.load(d_weights_ptr + square)
            bias_a = tl.load(d_biases_ptr + offs_w)
        if N_SQUARE == 2:
            sum_b = tl.load(d_weights_ptr + SQUARE + square)
            bias_b = tl.load(d_biases_ptr + WIDTH + offs_w)
        if LAST:
            sum_last = tl.load(d_weights_ptr + narrow)
            bias_last = tl.load(d_biases_ptr + offs_last)

    tile = tl.program_id(0)
    while tile * BLOCK_M < n_samples:
        samples = tile * BLOCK_M + tl.arange(0, BLOCK_M)
        mask = samples < n_samples
        offsets = samples.to(tl.int64)[:, None] * WIDTH + offs_w[None, :]
        z = tl.load(cut_ptr + offsets, mask=mask[:, None], other=0.0).to(tl.float32)
        x_a, slope_a = activate_and_derive(z, ACTIVATION, APPROX)
        x, slope = x_a, slope_a  # of the group's last layer
        if N_SQUARE + LAST == 2:
            top = apply_weight(x_a, w_a, PRECISION) + b_a[None, :]
            x, slope = activate_and_derive(top, ACTIVATION, APPROX)

        if LAST:
            d = output_gradient(
                raw_ptr, rgb_ptr, d_raw_ptr, d_rgb_ptr, samples, mask, rgb_padding, N_OUT, OUT
            )
            if WEIGHT_GRAD:
                sum_last += weight_gradient(x, d, w_last, PRECISION)
                bias_last += tl.sum(d, 0)
            d = apply_transposed(d, w_last, PRECISION) * slope
        else:
            d = tl.load(grad_ptr + offsets, mask=mask[:, None], other=0.0).to(tl.float32)
        if N_SQUARE == 2:
            if WEIGHT_GRAD:
                sum_b += weight_gradient(x, d, w_b, PRECISION)
                bias_b += tl.sum(d, 0)
            d = apply_transposed(d, w_b, PRECISION) * slope
        if N_SQUARE >= 1:
            if WEIGHT_GRAD:
                sum_a += weight_gradient(x_a, d, w_a, PRECISION)
                bias_a += tl.sum(d, 0)
            d = apply_transposed(d, w_a, PRECISION) * slope_a
        tl.store(grad_ptr + offsets, d, mask=mask[:, None])
        tile += tl.num_programs(0)

    if WEIGHT_GRAD:
        if N_SQUARE >= 1:
            tl.store(d_weights_ptr + square, sum_a)
            tl.store(d_biases_ptr + offs_w, bias_a)
        if N_SQUARE == 2:
            tl.store(d_weights_ptr + SQUARE + square, sum_b)
            tl.store(d_biases_ptr + WIDTH + offs_w, bias_b)
        if LAST:
            tl.store(d_weights_ptr + narrow, sum_last)
            tl.store(d_biases_ptr + offs_last, bias_last)


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
def first_backward_kernel(
    rays_o_ptr,
    rays_d_ptr,
    ts_ptr,
    rows_ptr,
    table_ptr,
    weights_ptr,
    grad_ptr,  # (M, WIDTH): gradient of z_0
    raw_ptr,  # records and their gradients, for a decoder of one layer
    rgb_ptr,
    d_raw_ptr,
    d_rgb_ptr,
    d_rows_ptr,  # (T, C) fp32, added to
    d_features_ptr,  # (M, BLOCKS * C) fp32, out, instead of d_rows
    d_points_ptr,  # (3, M, 3) fp32, out, in scene units; their sum is the gradient
    sums_ptr,  # (3, programs, (BLOCK_C + 1) * WIDTH) fp32: gradients of W_0 and bias, added to
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
    LISTED: tl.constexpr,
    WEIGHT_GRAD: tl.constexpr,
    SCATTER: tl.constexpr,
    KEEP_FEATURES: tl.constexpr,
    POINT_GRAD: tl.constexpr,
    PRECISION: tl.constexpr,
    PATCH_W: tl.constexpr,
    PATCH_H: tl.constexpr,
    DEPTH: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Backward of the first layer and of the lookup, tap by tap.

    The grid is (programs, 3): a program serves one plane, whose block of the feature needs nothing
    of the others, only the gradient of z_0. It takes all samples, or those that
    `window_backward_kernel` left.
    """
    offs_c = tl.arange(0, BLOCK_C)
    offs_w = tl.arange(0, WIDTH)
    matrix = matrix_offsets(BLOCK_C, WIDTH)
    plane = tl.program_id(1)
    scale = 1.0 / 3.0 if MEAN else 1.0
    n_samples = tl.cast(n_rays, tl.int64) * samples_per_ray
    row = tl.cast(plane * tl.num_programs(0) + tl.program_id(0), tl.int64)
    if BLOCKS == 3:
        weights_ptr += plane * (BLOCK_C * WIDTH)
    if POINT_GRAD:
        d_points_ptr += plane * n_samples * 3
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
        if n_tiles == 0:
            return
    w = tl.load(weights_ptr + matrix)
    if WEIGHT_GRAD:
        sums_ptr += row * ((BLOCK_C + 1) * WIDTH)
        sum_w = tl.load(sums_ptr + matrix)
        sum_b = tl.load(sums_ptr + BLOCK_C * WIDTH + offs_w)

    while tile < n_tiles:
        if LISTED:
            patch = tl.load(list_ptr + tile // PARTS)
            slots = tile % PARTS * BLOCK_M + tl.arange(0, BLOCK_M)
            rays, samples, mask = patch_samples(
                patch, slots, n_rays, samples_per_ray, columns, lead, across, deep,
                PATCH_W, PATCH_H, DEPTH,
            )  # fmt: skip
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
        if ONE_LAYER:
            d = output_gradient(
                raw_ptr, rgb_ptr, d_raw_ptr, d_rgb_ptr, samples, mask, rgb_padding, N_OUT, WIDTH
            )
        else:
            offsets = samples[:, None] * WIDTH + offs_w[None, :]
            d = tl.load(grad_ptr + offsets, mask=mask[:, None], other=0.0).to(tl.float32)
        grad = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
        if SCATTER or KEEP_FEATURES or POINT_GRAD:
            grad = apply_transposed(d, w, PRECISION) * scale
        if KEEP_FEATURES:
            offsets = (samples * BLOCKS + plane)[:, None] * C + offs_c[None, :]
            kept = mask[:, None] & ((offs_c < C) & (plane < BLOCKS))[None, :]
            tl.store(d_features_ptr + offsets, grad, mask=kept)
        feature = tl.zeros((BLOCK_M, BLOCK_C), tl.float32)
        d_u = tl.zeros((BLOCK_M,), tl.float32)
        d_v = tl.zeros((BLOCK_M,), tl.float32)
        if WEIGHT_GRAD or SCATTER or POINT_GRAD:
            u, v = plane_coords(x, y, z, plane, AXES)
            for level in range(N_LEVELS):
                first_row, height, width = level_plane(table_ptr, level, objects, plane)
                todo = mask
                if LISTED:
                    todo = mask & (((rest >> level) & 1) != 0)
                feature, d_u, d_v = differentiate_taps(
                    rows_ptr, d_rows_ptr, first_row, height, width, u, v, grad, offs_c, todo,
                    feature, d_u, d_v, C, WEIGHT_GRAD, SCATTER, POINT_GRAD,
                )  # fmt: skip
        if WEIGHT_GRAD:
            sum_w += weight_gradient(feature * scale, d, w, PRECISION)
            if not LISTED:  # noqa: SIM102 (one is compiled away, the other is not)
                if plane == 0:
                    sum_b += tl.sum(d, 0)
        if POINT_GRAD:
            zero = tl.zeros((BLOCK_M,), tl.float32)
            d_x, d_y, d_z = add_point_gradient(zero, zero, zero, d_u, d_v, plane, AXES)
            tl.store(d_points_ptr + samples * 3, d_x / radius, mask=mask)
            tl.store(d_points_ptr + samples * 3 + 1, d_y / radius, mask=mask)
            tl.store(d_points_ptr + samples * 3 + 2, d_z / radius, mask=mask)
        tile += step

    if WEIGHT_GRAD:
        tl.store(sums_ptr + matrix, sum_w)
        tl.store(sums_ptr + BLOCK_C * WIDTH + offs_w, sum_b)
