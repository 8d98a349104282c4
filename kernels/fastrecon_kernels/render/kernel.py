"""The field at samples along rays: triplane feature, then the whole decoder, in one kernel.

    x_0 = feature(o + t d)     z_i = x_i W_i + b_i     x_{i+1} = act(z_i)
    raw = z_last[0]            rgb = sigmoid(z_last[1:]) (1 + 2 p) - p

Programs own tiles of BLOCK_M samples and loop over tiles, so that weights are loaded once per
program. The decoder lies packed in memory (see `pack.py`): W_0 as BLOCKS matrices (BLOCK_C, WIDTH),
one per plane for "concat", then square hidden ones, then W_last (WIDTH, OUT).

Backward computes again instead of storing: the forward kernel writes z_0 and every CUT_EVERY-th
z after it ("cuts"), then `group_backward_kernel` takes the layers between two cuts, the last ones
first, and `window_backward_kernel` the planes and the first layer.
"""

# Triton types compile-time values as objects.
# pyright: reportAssignmentType=false

from __future__ import annotations

import triton
import triton.language as tl

from ..common.device import sigmoid
from ..common.quads import block_pieces
from .device import activate, apply_weight, is_empty, is_left, matrix_offsets, sample_points


@triton.jit(
    do_not_specialize=[
        "n_samples",
        "per_ray",
        "per_ray_shift",
        "per_object",
        "per_object_shift",
        "first_object",
        "lead",
        "resolution",
    ]
)
def field_kernel(
    rays_o_ptr,  # (N, 3) fp32
    rays_d_ptr,  # (N, 3) fp32
    ts_ptr,  # (N, S) fp32
    rows_ptr,  # (T, C) texels
    table_ptr,  # (L, 3) int64
    occupancy_ptr,  # (B, R, R, R) uint8
    weights_ptr,  # packed decoder
    biases_ptr,  # (2, ...) packed, fp32: they and their halves
    raw_ptr,  # (N, S) fp32, out
    rgb_ptr,  # (N, S, K) fp32, out
    cuts_ptr,  # (n_cuts, N * S, WIDTH), out
    listed_ptr,  # int32 indices of the samples to look at, or None: all of them
    n_listed_ptr,  # () int32: how many
    n_samples,
    per_ray,  # as in `sample_points`
    per_ray_shift,
    per_object,
    per_object_shift,
    first_object,
    lead,
    resolution,
    radius,
    rgb_padding,
    C: tl.constexpr,
    N_LEVELS: tl.constexpr,
    AXES: tl.constexpr,
    BLOCKS: tl.constexpr,
    N_PLANES: tl.constexpr,
    BLOCK_C: tl.constexpr,
    PIECE: tl.constexpr,
    LONG_ROWS: tl.constexpr,
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
    APPROX: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """Raw density and colour of every sample; CUT_EVERY > 0 also writes the cuts."""
    offs_w = tl.arange(0, WIDTH)
    # The last product is wider than what it is for; few channels are written from half of it.
    COLUMNS: tl.constexpr = OUT // 2 if N_OUT <= OUT // 2 else OUT
    column = tl.arange(0, COLUMNS)
    FIRST: tl.constexpr = BLOCK_C * WIDTH
    SQUARE: tl.constexpr = WIDTH * WIDTH
    N_PIECES: tl.constexpr = (C + PIECE - 1) // PIECE
    # SiLU by tanh takes half of z, so that kept weights and the biases' halves give that and not z.
    HALF: tl.constexpr = HOIST and APPROX and ACTIVATION == "silu" and not ONE_LAYER
    SCALE: tl.constexpr = 0.5 if HALF else 1.0
    first = matrix_offsets(PIECE, WIDTH)
    square = matrix_offsets(WIDTH, WIDTH)
    narrow = matrix_offsets(WIDTH, OUT)
    early_ptr = biases_ptr + ((N_HIDDEN + 1) * WIDTH + OUT if HALF else 0)
    hidden_ptr = weights_ptr + BLOCKS * FIRST
    last_ptr = hidden_ptr + N_HIDDEN * SQUARE
    first_weights, hidden_weights = (), ()
    if HOIST:
        for i in tl.static_range(BLOCKS * N_PIECES):
            matrix = weights_ptr + i // N_PIECES * FIRST + i % N_PIECES * (PIECE * WIDTH)
            loaded = tl.load(matrix + first)
            first_weights += ((loaded * SCALE).to(loaded.dtype),)
        for i in tl.static_range(N_HIDDEN):
            loaded = tl.load(hidden_ptr + i * SQUARE + square)
            hidden_weights += ((loaded * SCALE).to(loaded.dtype),)
        if not ONE_LAYER:
            last_weight = tl.load(last_ptr + narrow)

    n_wanted = n_samples if listed_ptr is None else tl.load(n_listed_ptr)
    tile = tl.program_id(0)
    # Addresses of many layers' weights, found before the loop, would fill the registers.
    while is_left(tile * BLOCK_M < n_wanted, disable_licm=HOIST and N_HIDDEN > 1):
        samples = tile * BLOCK_M + tl.arange(0, BLOCK_M)
        mask = samples < n_wanted
        if listed_ptr is not None:
            samples = tl.load(listed_ptr + tl.minimum(samples, n_wanted - 1))
        x, y, z, objects = sample_points(
            rays_o_ptr,
            rays_d_ptr,
            ts_ptr,
            samples,
            mask,
            per_ray,
            per_ray_shift,
            per_object,
            per_object_shift,
            first_object,
            lead,
            radius,
            ALONG_RAYS,
        )
        bias = tl.load(early_ptr + offs_w)[None, :]
        if MEAN:
            h = tl.zeros((BLOCK_M, WIDTH), tl.float32)
        else:
            h = tl.broadcast_to(bias, (BLOCK_M, WIDTH))
        for i in tl.static_range(BLOCKS):
            pieces = block_pieces(
                rows_ptr, table_ptr, objects, x, y, z,
                i, C, N_LEVELS, N_PLANES, AXES, PIECE, LONG_ROWS, BLOCK_M, APPROX,
            )  # fmt: skip
            for p in tl.static_range(N_PIECES):
                if HOIST:
                    w_first = first_weights[i * N_PIECES + p]
                else:
                    w_first = tl.load(weights_ptr + (i * FIRST + p * PIECE * WIDTH) + first)
                h = apply_weight(pieces[p], w_first, PRECISION, h)
        if MEAN:
            h = h * (1.0 / 3.0) + bias

        long = samples.to(tl.int64)
        cut_offsets = long[:, None] * WIDTH + offs_w[None, :]
        if CUT_EVERY > 0 and not ONE_LAYER:
            tl.store(cuts_ptr + cut_offsets, h * (1.0 / SCALE), mask=mask[:, None])
        if HOIST:
            for i in tl.static_range(N_HIDDEN):
                h = activate(h, ACTIVATION, APPROX, HALF)
                bias = tl.load(early_ptr + (i + 1) * WIDTH + offs_w)[None, :]
                bias = tl.broadcast_to(bias, (BLOCK_M, WIDTH))
                h = apply_weight(h, hidden_weights[i], PRECISION, bias)
                if CUT_EVERY > 0 and (i + 1) % CUT_EVERY == 0:
                    cut = tl.cast(n_samples, tl.int64) * ((i + 1) // CUT_EVERY * WIDTH)
                    tl.store(cuts_ptr + cut + cut_offsets, h * (1.0 / SCALE), mask=mask[:, None])
        else:
            for i in range(N_HIDDEN):
                w_hidden = tl.load(hidden_ptr + i * SQUARE + square)
                h = apply_weight(activate(h, ACTIVATION, APPROX), w_hidden, PRECISION)
                h += tl.load(biases_ptr + (i + 1) * WIDTH + offs_w)[None, :]
                if CUT_EVERY > 0:
                    kept = (i + 1) % CUT_EVERY == 0
                    cut = tl.cast(n_samples, tl.int64) * ((i + 1) // CUT_EVERY * WIDTH)
                    tl.store(cuts_ptr + cut + cut_offsets, h, mask=mask[:, None] & kept)
        if not ONE_LAYER:
            w_last = last_weight if HOIST else tl.load(last_ptr + narrow)
            h = apply_weight(activate(h, ACTIVATION, APPROX, HALF), w_last, PRECISION)
            h += tl.load(biases_ptr + (N_HIDDEN + 1) * WIDTH + tl.arange(0, OUT))[None, :]

        if COLUMNS < OUT:
            h, _ = tl.split(tl.trans(tl.reshape(h, (BLOCK_M, 2, COLUMNS)), (0, 2, 1)))
        colour = sigmoid(h, APPROX) * (1.0 + 2.0 * rgb_padding) - rgb_padding
        output = tl.where((column == 0)[None, :], h, colour)
        if DROP_OUTSIDE or GRID:
            empty = is_empty(occupancy_ptr, objects, x, y, z, resolution, mask, DROP_OUTSIDE, GRID)
            nothing = tl.where(column == 0, -float("inf"), 0.0)
            output = tl.where(empty[:, None], nothing[None, :], output)
        colours_ptr = rgb_ptr + long[:, None] * (N_OUT - 1) + (column[None, :] - 1)
        output_ptr = tl.where((column == 0)[None, :], (raw_ptr + long)[:, None], colours_ptr)
        tl.store(output_ptr, output, mask=mask[:, None] & (column < N_OUT)[None, :])
        tile += tl.num_programs(0)
