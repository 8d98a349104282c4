"""Backward of `field_kernel`, in groups of layers from the last to the first.

`group_backward_kernel` computes the layers between two cuts again and gives back the gradient at
the first cut; from z_0 on see `kernel_windows.py`. Gradients of weights are kept in registers over
a program's tiles and added to the program's own sums, which the caller adds up: no atomics, so they
come out the same every time.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .device import apply_weight, matrix_offsets
from .device_backward import (
    activate_and_derive,
    apply_transposed,
    output_gradient,
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
    biases_ptr,  # from that of the z before the group on
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
    WIDEN: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Backward of one or two layers: N_SQUARE hidden ones, then the last one with LAST.

    The gradient of a bias is that of a z, summed, so the group serves the biases of the z before it
    and of those within, and the last one with LAST.
    """
    SQUARE: tl.constexpr = WIDTH * WIDTH
    square = matrix_offsets(WIDTH, WIDTH)
    narrow = N_SQUARE * SQUARE + matrix_offsets(WIDTH, OUT)
    offs_w = tl.arange(0, WIDTH)
    offs_last = (N_SQUARE + 1) * WIDTH + tl.arange(0, OUT)
    program = tl.program_id(0).to(tl.int64)
    d_weights_ptr += program * weights_stride
    d_biases_ptr += program * biases_stride
    if N_SQUARE >= 1:
        w_a = tl.load(weights_ptr + square)
    if N_SQUARE == 2:
        w_b = tl.load(weights_ptr + SQUARE + square)
    if LAST:
        w_last = tl.load(weights_ptr + narrow)
    if WEIGHT_GRAD:
        bias_0 = tl.zeros((BLOCK_M // 16, 8, WIDTH), tl.float32)
        if N_SQUARE + LAST == 2:
            bias_a = tl.zeros((BLOCK_M // 16, 8, WIDTH), tl.float32)
        if N_SQUARE >= 1:
            sum_a = tl.load(d_weights_ptr + square)
        if N_SQUARE == 2:
            sum_b = tl.load(d_weights_ptr + SQUARE + square)
        if LAST:
            sum_last = tl.load(d_weights_ptr + narrow)
            bias_last = tl.load(d_biases_ptr + offs_last)
    if WIDEN:
        identity = tl.where(offs_w[:, None] == offs_w[None, :], 1.0, 0.0)
        identity = identity.to(cut_ptr.dtype.element_ty)

    tile = tl.program_id(0)
    while tile * BLOCK_M < n_samples:
        samples = tile * BLOCK_M + tl.arange(0, BLOCK_M)
        mask = samples < n_samples
        offsets = samples.to(tl.int64)[:, None] * WIDTH + offs_w[None, :]
        z = tl.load(cut_ptr + offsets, mask=mask[:, None], other=0.0)
        # A product leaves z in the layout of the other products; no other way to fp32 does.
        z = tl.dot(z, identity) if WIDEN else z.to(tl.float32)
        x_a, slope_a = activate_and_derive(z, ACTIVATION, APPROX)
        x, slope = x_a, slope_a  # of the group's last layer
        if N_SQUARE + LAST == 2:
            # Loaded each time: there is no room to keep it.
            b_a = tl.load(biases_ptr + WIDTH + offs_w)
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
            d = tl.load(grad_ptr + offsets, mask=mask[:, None], other=0.0)
        if N_SQUARE == 2:
            if WEIGHT_GRAD:
                sum_b += weight_gradient(x, d, w_b, PRECISION)
            d = apply_transposed(d, w_b, PRECISION) * slope
        if N_SQUARE >= 1:
            if WEIGHT_GRAD:
                sum_a += weight_gradient(x_a, d, w_a, PRECISION)
                if N_SQUARE + LAST == 2:
                    bias_a += sum_row_pairs(d)
            d = apply_transposed(d, w_a, PRECISION) * slope_a
        if WEIGHT_GRAD:
            bias_0 += sum_row_pairs(d)
        tl.store(grad_ptr + offsets, d, mask=mask[:, None])
        tile += tl.num_programs(0)

    if WEIGHT_GRAD:
        add_bias(d_biases_ptr + offs_w, bias_0)
        if N_SQUARE + LAST == 2:
            add_bias(d_biases_ptr + WIDTH + offs_w, bias_a)
        if N_SQUARE >= 1:
            tl.store(d_weights_ptr + square, sum_a)
        if N_SQUARE == 2:
            tl.store(d_weights_ptr + SQUARE + square, sum_b)
        if LAST:
            tl.store(d_weights_ptr + narrow, sum_last)
            tl.store(d_biases_ptr + offs_last, bias_last)


@triton.jit
def sum_row_pairs(d):
    """(M // 16, 8, WIDTH) sums of rows 8 apart of d (M, WIDTH).

    On tensor cores a thread has both, so that nothing is exchanged between threads.
    """
    return tl.sum(tl.reshape(d, (d.shape[0] // 16, 2, 8, d.shape[1])), 1)


@triton.jit
def add_bias(ptr, sums):
    """Add all of what `sum_row_pairs` gave to (WIDTH,) in memory."""
    tl.store(ptr, tl.load(ptr) + tl.sum(tl.sum(sums, 0), 0))
