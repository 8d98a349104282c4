"""From the gradient of the folded texels to those of the planes and of the first layer's weight.

With texels F (T, C), the first layer's weight W_0 (C, WIDTH) and the gradient dG (T, WIDTH) of
G = F W_0, which z_0 is sampled from,

    dF = dG W_0^T    dW_0 = F^T dG

once per call, where they would have to be done for every sample otherwise.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .device import matrix_offsets


@triton.jit(do_not_specialize=["n_objects"])
def fold_backward_kernel(
    d_folded_ptr,  # (T, WIDTH) fp32
    rows_ptr,  # (T, C)
    table_ptr,
    weights_ptr,
    d_rows_ptr,  # (T, C) fp32, out; may be d_folded_ptr
    sums_ptr,  # (3, programs, BLOCK_C * WIDTH) fp32, out: gradient of W_0
    n_objects,
    C: tl.constexpr,
    N_LEVELS: tl.constexpr,
    BLOCKS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    MEAN: tl.constexpr,
    WIDTH: tl.constexpr,
    SCATTER: tl.constexpr,
    WEIGHT_GRAD: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """A program serves texels of one plane; the grid is (programs, 3)."""
    offs_c = tl.arange(0, BLOCK_C)
    offs_w = tl.arange(0, WIDTH)
    matrix = matrix_offsets(BLOCK_C, WIDTH)
    plane = tl.program_id(1)
    scale = 1.0 / 3.0 if MEAN else 1.0
    if BLOCKS == 3:
        weights_ptr += plane * (BLOCK_C * WIDTH)
    w = tl.load(weights_ptr + matrix)
    total = tl.zeros((BLOCK_C, WIDTH), tl.float32)
    for level in range(N_LEVELS):
        size = tl.load(table_ptr + level * 3) * tl.load(table_ptr + level * 3 + 1)
        start = tl.load(table_ptr + level * 3 + 2)
        tile = tl.program_id(0).to(tl.int64)
        while tile * BLOCK_M < n_objects * size:
            texel = tile * BLOCK_M + tl.arange(0, BLOCK_M)
            mask = (texel < n_objects * size)[:, None]
            row = start + (texel // size * 3 + plane) * size + texel % size
            offsets = row[:, None] * WIDTH + offs_w[None, :]
            d = tl.load(d_folded_ptr + offsets, mask=mask, other=0.0) * scale
            used = tl.sum((d != 0.0).to(tl.int32), 1) > 0  # true for NaN
            d = d.to(w.dtype)
            offsets = row[:, None] * C + offs_c[None, :]
            inside = mask & (offs_c < C)[None, :]
            if WEIGHT_GRAD:
                # Texels that no sample touches may hold anything.
                f = tl.load(rows_ptr + offsets, mask=inside & used[:, None], other=0.0)
                total += tl.dot(tl.trans(f.to(w.dtype)), d, input_precision=PRECISION)
            if SCATTER:
                d_f = tl.dot(d, tl.trans(w), input_precision=PRECISION)
                tl.store(d_rows_ptr + offsets, d_f, mask=inside)
            tile += tl.num_programs(0)
    if WEIGHT_GRAD:
        program = tl.cast(plane * tl.num_programs(0) + tl.program_id(0), tl.int64)
        tl.store(sums_ptr + program * (BLOCK_C * WIDTH) + matrix, total)
