"""Bilinear taps of the lookup operators, in few instructions and yet exact.

`quads.py` reads four texels that always exist. Here those beyond the plane are masked, for no point
may see an infinite texel that is not its neighbour, and sums are fp32 whatever the texels are. One
offset and one set of masks serve all channels of a point. They are taken in pieces of PIECE, N of
them from channel c on: the fewer at a time, the fewer threads repeat the arithmetic of a position.

Constants of all functions here:

    C       channels
    WORD    channels in 16 bytes, which a thread reads at once
    SPLIT   texels are bf16 on NVIDIA's chips (see `widen`)
    ROTATE  rows are whole cache lines, so that equal pieces of neighbouring points would wait for
            each other at the cache's banks: each row begins with another piece
"""

# Triton types the call of a device function as an error, constexpr parameters as objects, and
# knows no launch options.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportAssignmentType=false

from __future__ import annotations

import triton
import triton.language as tl

from .device import level_plane, texel_weights

# --- texels ---------------------------------------------------------------------------------


@triton.jit
def texel_quad(H, W, u, v):
    """The four texels around coordinates u, v (M,) in a plane.

    Returns:
        offset (M,) int32 of the upper left one from the plane's first; which are there (left and
        right, upper and lower); the fractions that belong to the right and to the lower.
    """
    column, line, fx, fy = texel_weights(H, W, u, v)
    width, height = W.to(tl.uint32), H.to(tl.uint32)
    left, right = column.to(tl.uint32) < width, (column + 1).to(tl.uint32) < width
    upper, lower = line.to(tl.uint32) < height, (line + 1).to(tl.uint32) < height
    return line * W + column, left, right, upper, lower, fx, fy


@triton.jit
def widen(texels, SPLIT: tl.constexpr):
    """``texels`` in fp32; with SPLIT two instructions for two, where the compiler takes three."""
    if SPLIT:
        return tl.inline_asm_elementwise(
            """
            {
            .reg .b32 low, high;
            shl.b32 low, $2, 16;
            and.b32 high, $2, 0xffff0000;
            mov.b32 $0, low;
            mov.b32 $1, high;
            }
            """,
            "=f,=f,r",
            [texels],
            dtype=tl.float32,
            is_pure=True,
            pack=2,
        )
    else:
        return texels.to(tl.float32)


# --- pieces of the channels -----------------------------------------------------------------


@triton.jit
def piece_channels(
    slots,
    c,
    p: tl.constexpr,
    N: tl.constexpr,
    PIECE: tl.constexpr,
    ROTATE: tl.constexpr,
):
    """Channels (1 | M, PIECE) of piece p for points ``slots`` (M,)."""
    channels = (c + tl.arange(0, PIECE))[None, :]
    if ROTATE:
        return ((slots + p) % N * PIECE)[:, None] + channels
    else:
        return p * PIECE + channels


@triton.jit
def piece_mask(mask, c, p: tl.constexpr, C: tl.constexpr, N: tl.constexpr, PIECE: tl.constexpr):
    """``mask`` (M,) of points for piece p: (M, 1), or (M, PIECE) if it has channels beyond C."""
    if C % (N * PIECE) == 0 or (C <= N * PIECE and p * PIECE + PIECE <= C):
        return mask[:, None]
    else:
        return mask[:, None] & (c + p * PIECE + tl.arange(0, PIECE) < C)[None, :]


@triton.jit
def load_pieces(
    ptrs,
    slots,
    mask,
    c,
    C: tl.constexpr,
    N: tl.constexpr,
    PIECE: tl.constexpr,
):
    """Pieces (M, PIECE) fp32 of rows of numbers at ``ptrs`` (M,), 0 where masked."""
    pieces = ()
    for p in tl.static_range(N):
        places = ptrs[:, None] + piece_channels(slots, c, p, N, PIECE, False)
        pieces += (tl.load(places, mask=piece_mask(mask, c, p, C, N, PIECE), other=0.0),)
    return pieces


@triton.jit
def store_pieces(
    out_ptr,
    offsets,
    pieces,
    scale,
    slots,
    mask,
    c,
    C: tl.constexpr,
    N: tl.constexpr,
    PIECE: tl.constexpr,
    WORD: tl.constexpr,
    ROTATE: tl.constexpr,
):
    """Store fp32 pieces times ``scale`` at int32 ``offsets`` (M,) of rows.

    Stores of 16 bytes would want another thread for every 4 numbers, where one has WORD of them
    after reading as many texels. Halves of what each has are stored one after the other instead.
    """
    M: tl.constexpr = slots.shape[0]
    shape: tl.constexpr = (M, PIECE // WORD, WORD // 4, 4)
    words = WORD * tl.arange(0, PIECE // WORD)[:, None, None] + tl.arange(0, 4)[None, None, :]
    for p in tl.static_range(N):
        if WORD == 8:
            first = (slots + p) % N * PIECE if ROTATE else 0 * slots + p * PIECE
            channels = c + first[None, :, None] + words
            places = out_ptr + offsets[None, :, None] + channels
            keep = mask[None, :, None]
            halves = tl.permute(tl.reshape(pieces[p] * scale, shape), (1, 0, 3, 2))
            low, high = tl.split(halves)
            tl.store(places, low, mask=keep & (channels < C))
            tl.store(places + 4, high, mask=keep & (channels + 4 < C))
        else:
            places = out_ptr + offsets[:, None] + piece_channels(slots, c, p, N, PIECE, ROTATE)
            tl.store(places, pieces[p] * scale, mask=piece_mask(mask, c, p, C, N, PIECE))


# --- forward --------------------------------------------------------------------------------


@triton.jit
def add_taps(
    totals,
    rows_ptr,
    table_ptr,
    obj,
    level,
    plane,
    u,
    v,
    slots,
    c,
    C: tl.constexpr,
    N: tl.constexpr,
    PIECE: tl.constexpr,
    SPLIT: tl.constexpr,
    ROTATE: tl.constexpr,
):
    """totals + bilinear features at u, v (M,) on one plane of object ``obj``, piece by piece."""
    first_row, H, W = level_plane(table_ptr, level, obj, plane)
    offset, left, right, upper, lower, fx, fy = texel_quad(H, W, u, v)
    above = rows_ptr + first_row * C + offset.to(tl.int64) * C
    below = above + W * C
    sums = ()
    for p in tl.static_range(N):
        channels = piece_channels(slots, c, p, N, PIECE, ROTATE)
        top, bottom = above[:, None] + channels, below[:, None] + channels
        texel = tl.load(top, mask=piece_mask(upper & left, c, p, C, N, PIECE), other=0.0)
        total = totals[p] + widen(texel, SPLIT) * ((1 - fx) * (1 - fy))[:, None]
        texel = tl.load(top + C, mask=piece_mask(upper & right, c, p, C, N, PIECE), other=0.0)
        total += widen(texel, SPLIT) * (fx * (1 - fy))[:, None]
        texel = tl.load(bottom, mask=piece_mask(lower & left, c, p, C, N, PIECE), other=0.0)
        total += widen(texel, SPLIT) * ((1 - fx) * fy)[:, None]
        texel = tl.load(bottom + C, mask=piece_mask(lower & right, c, p, C, N, PIECE), other=0.0)
        total += widen(texel, SPLIT) * (fx * fy)[:, None]
        sums += (total,)
    return sums


# --- backward -------------------------------------------------------------------------------


@triton.jit
def inner(texels, grad, WORD: tl.constexpr, SPLIT: tl.constexpr):
    """Products (M, PIECE / WORD) of texels and gradient, summed over what one thread has."""
    M: tl.constexpr = grad.shape[0]
    shape: tl.constexpr = (M, grad.shape[1] // WORD, WORD)
    return tl.sum(tl.reshape(widen(texels, SPLIT) * grad, shape), 2)


@triton.jit
def differentiate_taps(
    rows_ptr,
    table_ptr,
    obj,
    level,
    plane,
    u,
    v,
    grads,
    slots,
    c,
    d_u,
    d_v,
    C: tl.constexpr,
    N: tl.constexpr,
    PIECE: tl.constexpr,
    WORD: tl.constexpr,
    SPLIT: tl.constexpr,
):
    """d_u, d_v (M, PIECE / WORD) + gradients of `add_taps`'s result, times pieces ``grads``.

    What threads have of a point; to be summed over the last axis.
    """
    first_row, H, W = level_plane(table_ptr, level, obj, plane)
    offset, left, right, upper, lower, fx, fy = texel_quad(H, W, u, v)
    above = rows_ptr + first_row * C + offset.to(tl.int64) * C
    below = above + W * C
    s00 = tl.zeros_like(d_u)
    s01, s10, s11 = s00, s00, s00
    for p in tl.static_range(N):
        channels = piece_channels(slots, c, p, N, PIECE, False)
        top, bottom = above[:, None] + channels, below[:, None] + channels
        texel = tl.load(top, mask=piece_mask(upper & left, c, p, C, N, PIECE), other=0.0)
        s00 += inner(texel, grads[p], WORD, SPLIT)
        texel = tl.load(top + C, mask=piece_mask(upper & right, c, p, C, N, PIECE), other=0.0)
        s01 += inner(texel, grads[p], WORD, SPLIT)
        texel = tl.load(bottom, mask=piece_mask(lower & left, c, p, C, N, PIECE), other=0.0)
        s10 += inner(texel, grads[p], WORD, SPLIT)
        texel = tl.load(bottom + C, mask=piece_mask(lower & right, c, p, C, N, PIECE), other=0.0)
        s11 += inner(texel, grads[p], WORD, SPLIT)
    fx, fy = fx[:, None], fy[:, None]
    d_u += ((1 - fy) * (s01 - s00) + fy * (s11 - s10)) * (W.to(tl.float32) * 0.5)
    d_v += ((1 - fx) * (s10 - s00) + fx * (s11 - s01)) * (H.to(tl.float32) * 0.5)
    return d_u, d_v


@triton.jit
def scatter_taps(
    d_rows_ptr,
    table_ptr,
    obj,
    level,
    plane,
    u,
    v,
    grads,
    scale,
    mask,
    slots,
    c,
    C: tl.constexpr,
    N: tl.constexpr,
    PIECE: tl.constexpr,
):
    """Add pieces ``grads`` of the gradient of `add_taps`'s result, times ``scale``, to its texels'.

    Points that ``mask`` (M,) leaves out add nothing.
    """
    first_row, H, W = level_plane(table_ptr, level, obj, plane)
    offset, left, right, upper, lower, fx, fy = texel_quad(H, W, u, v)
    upper, lower = upper & mask, lower & mask
    above = d_rows_ptr + first_row * C + offset.to(tl.int64) * C
    below = above + W * C
    near, far = (1 - fx) * scale, fx * scale
    for p in tl.static_range(N):
        channels = piece_channels(slots, c, p, N, PIECE, False)
        top, bottom = above[:, None] + channels, below[:, None] + channels
        there = piece_mask(upper & left, c, p, C, N, PIECE)
        tl.atomic_add(top, grads[p] * (near * (1 - fy))[:, None], mask=there, sem="relaxed")
        there = piece_mask(upper & right, c, p, C, N, PIECE)
        tl.atomic_add(top + C, grads[p] * (far * (1 - fy))[:, None], mask=there, sem="relaxed")
        there = piece_mask(lower & left, c, p, C, N, PIECE)
        tl.atomic_add(bottom, grads[p] * (near * fy)[:, None], mask=there, sem="relaxed")
        there = piece_mask(lower & right, c, p, C, N, PIECE)
        tl.atomic_add(bottom + C, grads[p] * (far * fy)[:, None], mask=there, sem="relaxed")
