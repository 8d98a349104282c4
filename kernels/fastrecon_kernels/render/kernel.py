"""The field at samples along rays: triplane feature, then the whole decoder, in one kernel.

    x_0 = feature(o + t d)     z_i = x_i W_i + b_i     x_{i+1} = act(z_i)
    raw = z_last[0]            rgb = sigmoid(z_last[1:]) (1 + 2 p) - p

Programs own tiles of BLOCK_M samples and loop over tiles, so that weights are loaded once per
program. The decoder lies packed in memory (see `pack.py`): W_0 as BLOCKS matrices (BLOCK_C, WIDTH),
one per plane for "concat", then square hidden ones, then W_last (WIDTH, OUT).

Backward computes again instead of storing: the forward kernel writes z_0 and every CUT_EVERY-th
z after it ("cuts"), then `group_backward_kernel` takes the layers between two cuts, the last ones
first, and `first_backward_kernel` the first layer and the planes.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.device import sigmoid
from .device import (
    activate,
    apply_weight,
    is_empty,
    matrix_offsets,
    plane_features,
    sample_points,
)


@triton.jit(do_not_specialize=["n_samples", "samples_per_ray", "first_ray", "rays_per_object"])
def field_kernel(
    rays_o_ptr,  # (N, 3) fp32
    rays_d_ptr,  # (N, 3) fp32
    ts_ptr,  # (N, S) fp32
    rows_ptr,  # (T, C) texels
    table_ptr,  # (L, 3) int64
    occupancy_ptr,  # (B, R, R, R) uint8
    weights_ptr,  # packed decoder
    biases_ptr,  # packed, fp32
    raw_ptr,  # (N, S) fp32, out
    rgb_ptr,  # (N, S, K) fp32, out
    cuts_ptr,  # (n_cuts, N * S, WIDTH), out
    n_samples,
    samples_per_ray,
    first_ray,
    rays_per_object,
    resolution,
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
    N_HIDDEN: tl.constexpr,
    ONE_LAYER: tl.constexpr,
    N_OUT: tl.constexpr,
    OUT: tl.constexpr,
    ACTIVATION: tl.constexpr,
    DROP_OUTSIDE: tl.constexpr,
    GRID: tl.constexpr,
    ALONG_RAYS: tl.constexpr,
    CUT_EVERY: tl.constexpr,
    HOIST: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Raw density and colour of every sample; CUT_EVERY > 0 also writes the cuts."""
    offs_c = tl.arange(0, BLOCK_C)
    offs_w = tl.arange(0, WIDTH)
    column = tl.arange(0, OUT)
    FIRST: tl.constexpr = BLOCK_C * WIDTH
    SQUARE: tl.constexpr = WIDTH * WIDTH
    first = matrix_offsets(BLOCK_C, WIDTH)
    square = matrix_offsets(WIDTH, WIDTH)
    narrow = matrix_offsets(WIDTH, OUT)
    hidden_ptr = weights_ptr + BLOCKS * FIRST
    last_ptr = hidden_ptr + N_HIDDEN * SQUARE
    first_weights, hidden_weights = (), ()
    if HOIST:
        for i in tl.static_range(BLOCKS):
            first_weights += (tl.load(weights_ptr + i * FIRST + first),)
        for i in tl.static_range(N_HIDDEN):
            hidden_weights += (tl.load(hidden_ptr + i * SQUARE + square),)
        if not ONE_LAYER:
            last_weight = tl.load(last_ptr + narrow)

    tile = tl.program_id(0)
    while tile * BLOCK_M < n_samples:
        samples = tile * BLOCK_M + tl.arange(0, BLOCK_M)
        mask = samples < n_samples
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
        h = tl.zeros((BLOCK_M, WIDTH), tl.float32) + tl.load(biases_ptr + offs_w)[None, :]
        for i in tl.static_range(BLOCKS):
            f = plane_features(
                rows_ptr, table_ptr, objects, x, y, z, offs_c, mask,
                i, C, N_LEVELS, N_PLANES, AXES, BLOCK_M, BLOCK_C,
            )  # fmt: skip
            if MEAN:
                f *= 1.0 / 3.0
            w_first = first_weights[i] if HOIST else tl.load(weights_ptr + i * FIRST + first)
            h += apply_weight(f, w_first, PRECISION)

        long = samples.to(tl.int64)
        cut_offsets = long[:, None] * WIDTH + offs_w[None, :]
        if CUT_EVERY > 0 and not ONE_LAYER:
            tl.store(cuts_ptr + cut_offsets, h, mask=mask[:, None])
        if HOIST:
            for i in tl.static_range(N_HIDDEN):
                h = apply_weight(activate(h, ACTIVATION), hidden_weights[i], PRECISION)
                h += tl.load(biases_ptr + (i + 1) * WIDTH + offs_w)[None, :]
                if CUT_EVERY > 0 and (i + 1) % CUT_EVERY == 0:
                    cut = tl.cast(n_samples, tl.int64) * ((i + 1) // CUT_EVERY * WIDTH)
                    tl.store(cuts_ptr + cut + cut_offsets, h, mask=mask[:, None])
        else:
            for i in range(N_HIDDEN):
                w_hidden = tl.load(hidden_ptr + i * SQUARE + square)
                h = apply_weight(activate(h, ACTIVATION), w_hidden, PRECISION)
                h += tl.load(biases_ptr + (i + 1) * WIDTH + offs_w)[None, :]
                if CUT_EVERY > 0:
                    kept = (i + 1) % CUT_EVERY == 0
                    cut = tl.cast(n_samples, tl.int64) * ((i + 1) // CUT_EVERY * WIDTH)
                    tl.store(cuts_ptr + cut + cut_offsets, h, mask=mask[:, None] & kept)
        if not ONE_LAYER:
            w_last = last_weight if HOIST else tl.load(last_ptr + narrow)
            h = apply_weight(activate(h, ACTIVATION), w_last, PRECISION)
            h += tl.load(biases_ptr + (N_HIDDEN + 1) * WIDTH + column)[None, :]

        colour = sigmoid(h) * (1.0 + 2.0 * rgb_padding) - rgb_padding
        if DROP_OUTSIDE or GRID:
            empty = is_empty(occupancy_ptr, objects, x, y, z, resolution, mask, DROP_OUTSIDE, GRID)[
                :, None
            ]
            h = tl.where(empty, -float("inf"), h)
            colour = tl.where(empty, 0.0, colour)
        density_column = mask[:, None] & (column == 0)[None, :]
        tl.store(raw_ptr + long[:, None] + 0 * column[None, :], h, mask=density_column)
        colour_offsets = long[:, None] * (N_OUT - 1) + column[None, :] - 1
        coloured = mask[:, None] & ((column >= 1) & (column < N_OUT))[None, :]
        tl.store(rgb_ptr + colour_offsets, colour, mask=coloured)
        tile += tl.num_programs(0)
