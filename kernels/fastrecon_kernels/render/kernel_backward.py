"""Backward of `field_kernel`, in groups of layers from the last to the first.

`group_backward_kernel` computes the layers between two cuts again and gives back the gradient at
the first cut; `first_backward_kernel` goes from z_0 to the planes and the positions. Gradients of
weights are kept in registers over a program's tiles and added to the program's own sums, which the
caller adds up: no atomics, so they come out the same every time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .device import activate, apply_weight, matrix_offsets, plane_features, sample_points
from .device_backward import (
    activation_gradient,
    apply_transposed,
    output_gradient,
    plane_gradients,
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
        top = z  # of the group's last layer: what its activation is computed from
        if N_SQUARE + LAST == 2:
            top = apply_weight(activate(z, ACTIVATION), w_a, PRECISION) + b_a[None, :]

        if LAST:
            d = output_gradient(
                raw_ptr, rgb_ptr, d_raw_ptr, d_rgb_ptr, samples, mask, rgb_padding, N_OUT, OUT
            )
            if WEIGHT_GRAD:
                sum_last += weight_gradient(activate(top, ACTIVATION), d, w_last, PRECISION)
                bias_last += tl.sum(d, 0)
            d = apply_transposed(d, w_last, PRECISION) * activation_gradient(top, ACTIVATION)
        else:
            d = tl.load(grad_ptr + offsets, mask=mask[:, None], other=0.0).to(tl.float32)
        if N_SQUARE == 2:
            if WEIGHT_GRAD:
                sum_b += weight_gradient(activate(top, ACTIVATION), d, w_b, PRECISION)
                bias_b += tl.sum(d, 0)
            d = apply_transposed(d, w_b, PRECISION) * activation_gradient(top, ACTIVATION)
        if N_SQUARE >= 1:
            if WEIGHT_GRAD:
                sum_a += weight_gradient(activate(z, ACTIVATION), d, w_a, PRECISION)
                bias_a += tl.sum(d, 0)
            d = apply_transposed(d, w_a, PRECISION) * activation_gradient(z, ACTIVATION)
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


@triton.jit(do_not_specialize=["n_samples", "samples_per_ray", "first_ray", "rays_per_object"])
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
    d_points_ptr,  # (BLOCKS, M, 3) fp32, out, in scene units; their sum is the gradient
    d_weights_ptr,  # (programs, ...) fp32, added to
    d_biases_ptr,
    weights_stride,
    biases_stride,
    n_samples,
    samples_per_ray,
    first_ray,
    rays_per_object,
    radius,
    rgb_padding,
    C: tl.constexpr,
    N_LEVELS: tl.constexpr,
    AXES: tl.constexpr,
    BLOCKS: tl.constexpr,
    N_PLANES: tl.constexpr,
    BLOCK_C: tl.constexpr,
    MEAN: tl.constexpr,
    WIDTH: tl.constexpr,
    ONE_LAYER: tl.constexpr,
    N_OUT: tl.constexpr,
    ALONG_RAYS: tl.constexpr,
    WEIGHT_GRAD: tl.constexpr,
    SCATTER: tl.constexpr,
    KEEP_FEATURES: tl.constexpr,
    POINT_GRAD: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Backward of the first layer and of the lookup; the grid is (programs, BLOCKS).

    A block of the feature needs nothing of the others, only the gradient of z_0; each block writes
    its own share of d_points.
    """
    offs_c = tl.arange(0, BLOCK_C)
    offs_w = tl.arange(0, WIDTH)
    block = tl.program_id(1)
    matrix = block * (BLOCK_C * WIDTH) + matrix_offsets(BLOCK_C, WIDTH)
    first_plane = block if BLOCKS == 3 else 0
    scale = 1.0 / 3.0 if MEAN else 1.0
    program = tl.program_id(0).to(tl.int64)
    d_weights_ptr += program * weights_stride
    d_biases_ptr += program * biases_stride
    if POINT_GRAD:
        d_points_ptr += block * tl.cast(n_samples, tl.int64) * 3
    w = tl.load(weights_ptr + matrix)
    if WEIGHT_GRAD:
        sum_w = tl.load(d_weights_ptr + matrix)
        sum_b = tl.load(d_biases_ptr + offs_w)

    tile = tl.program_id(0)
    while tile * BLOCK_M < n_samples:
        samples = tile * BLOCK_M + tl.arange(0, BLOCK_M)
        mask = samples < n_samples
        long = samples.to(tl.int64)
        x, y, z, objects = sample_points(
            rays_o_ptr,
            rays_d_ptr,
            ts_ptr,
            samples,
            mask,
            samples_per_ray,
            first_ray,
            rays_per_object,
            radius,
            ALONG_RAYS,
        )
        if ONE_LAYER:
            d = output_gradient(
                raw_ptr, rgb_ptr, d_raw_ptr, d_rgb_ptr, samples, mask, rgb_padding, N_OUT, WIDTH
            )
        else:
            offsets = long[:, None] * WIDTH + offs_w[None, :]
            d = tl.load(grad_ptr + offsets, mask=mask[:, None], other=0.0).to(tl.float32)
        if WEIGHT_GRAD:
            f = plane_features(
                rows_ptr, table_ptr, objects, x, y, z, offs_c, mask,
                first_plane, C, N_LEVELS, N_PLANES, AXES, BLOCK_M, BLOCK_C,
            )  # fmt: skip
            sum_w += weight_gradient(f * scale, d, w, PRECISION)
            sum_b += tl.sum(d, 0)
        if SCATTER or KEEP_FEATURES or POINT_GRAD:
            grad = apply_transposed(d, w, PRECISION) * scale
            if KEEP_FEATURES:
                offsets = (long * BLOCKS + block)[:, None] * C + offs_c[None, :]
                kept = mask[:, None] & (offs_c < C)[None, :]
                tl.store(d_features_ptr + offsets, grad, mask=kept)
            if SCATTER or POINT_GRAD:
                zero = tl.zeros((BLOCK_M,), tl.float32)
                d_x, d_y, d_z = plane_gradients(
                    rows_ptr, table_ptr, d_rows_ptr, objects, x, y, z, zero, zero, zero,
                    grad, offs_c, mask, first_plane, C, N_LEVELS, N_PLANES, AXES, SCATTER,
                    POINT_GRAD,
                )  # fmt: skip
                if POINT_GRAD:
                    tl.store(d_points_ptr + long * 3, d_x / radius, mask=mask)
                    tl.store(d_points_ptr + long * 3 + 1, d_y / radius, mask=mask)
                    tl.store(d_points_ptr + long * 3 + 2, d_z / radius, mask=mask)
        tile += tl.num_programs(0)

    if WEIGHT_GRAD:
        tl.store(d_weights_ptr + matrix, sum_w)
        if block == 0:
            tl.store(d_biases_ptr + offs_w, sum_b)
