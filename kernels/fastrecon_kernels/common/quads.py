"""Bilinear taps for the fused renderer: four texels that always exist, with few instructions.

No tap is masked. All four lie within the plane, wherever the sample is,
and those that are no neighbours of it get the weight 0 (so an infinite texel at the border is not
only seen by its neighbours). Channels are taken in pieces of PIECE: the
fewer channels, the fewer threads share a sample and repeat the arithmetic of its positions.

``APPROX`` allows packed bf16 arithmetic (see `render.tuning.Tuning.approx`).
"""

# Triton types the call of a device function as an error, compile-time values as objects, and knows
# no launch options.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportAssignmentType=false

from __future__ import annotations

import triton
import triton.language as tl

from .device import plane_coords

# --- positions ------------------------------------------------------------------------------

FLOAT_2_23 = tl.constexpr(0x4B000000)
"""Bits of 2^23 in fp32: from there to 2^24 floats are whole numbers, and their bits count them."""


@triton.jit
def tent(distance, APPROX: tl.constexpr):
    """Weight max(0, 1 - |distance|) of a texel; 0 for NaN."""
    if APPROX:
        return tl.inline_asm_elementwise(
            "{.reg .f32 a; abs.f32 a, $1; sub.sat.f32 $0, 0f3F800000, a;}",
            "=f,f",
            [distance],
            dtype=tl.float32,
            is_pure=True,
            pack=1,
        )
    else:
        weight = 1.0 - tl.abs(distance)
        return tl.where(weight > 0.0, weight, 0.0)


@triton.jit
def floor_taps(x, last):
    """floor(x) cut to [0, last], 0 for NaN: as fp32, and as int32 above `FLOAT_2_23`."""
    # An addition that rounds down: floor and conversion would be special functions.
    return tl.inline_asm_elementwise(
        """
        {
        .reg .f32 a;
        max.f32 a, $2, 0f00000000;
        min.f32 a, a, $3;
        add.rm.f32 a, a, 0f4B000000;
        mov.b32 $1, a;
        sub.f32 $0, a, 0f4B000000;
        }
        """,
        "=&f,=&r,f,f",
        [x, last],
        dtype=(tl.float32, tl.int32),
        is_pure=True,
        pack=1,
    )


@triton.jit
def axis_taps(N, u, APPROX: tl.constexpr):
    """The two texels of an axis that serve coordinates u (M,): int32 first one, both weights.

    With APPROX the first one is counted from `FLOAT_2_23`, for its caller to subtract with more.
    Both lie within the axis. One that is no neighbour has the weight 0; coordinates beyond the
    last texels' reach, infinite or NaN have no neighbour. An axis of one texel has no second one:
    its weight is 0, and its place must be safe to read (see `pack_texels`).
    """
    size = N.to(tl.float32)
    x = u * (size * 0.5) + (size * 0.5 - 0.5)
    last = tl.maximum(size - 2.0, 0.0)
    if APPROX:
        first, index = floor_taps(x, last)
    else:
        first = tl.floor(x)
        first = tl.where(first > 0.0, tl.where(first < last, first, last), 0.0)
        index = first.to(tl.int32)
    distance = x - first
    gap = tl.where(N > 1, 1.0, float("inf"))
    return index, tent(distance, APPROX), tent(distance - gap, APPROX)


# --- texels ---------------------------------------------------------------------------------


@triton.jit
def pair_weights(left, right, upper, lower):
    """Products of the weights (M,) of both axes, two bf16 in an int32, left in the low one.

    Returns those of the upper and of the lower texels.
    """
    return tl.inline_asm_elementwise(
        """
        {
        .reg .b16 u, l;
        .reg .b32 pair, lines, both, zero;
        mov.b32 zero, 0x80008000;
        cvt.rn.bf16x2.f32 pair, $3, $2;
        cvt.rn.bf16x2.f32 lines, $5, $4;
        mov.b32 {u, l}, lines;
        mov.b32 both, {u, u};
        fma.rn.bf16x2 $0, pair, both, zero;
        mov.b32 both, {l, l};
        fma.rn.bf16x2 $1, pair, both, zero;
        }
        """,
        "=&r,=r,f,f,f,f",
        [left, right, upper, lower],
        dtype=(tl.int32, tl.int32),
        is_pure=True,
        pack=1,
    )


@triton.jit
def add_packed(total, a, b, c, d, top, bottom):
    """total + texels a b over c d times `pair_weights` (M, 1), all bf16 (M, PIECE), in pairs."""
    # Elements come in twos, with a word of weights each: $6 and $7, $8 and $9. Where both are of
    # one row (all but odd channel counts) the words are one, and its halves cost no instruction.
    return tl.inline_asm_elementwise(
        """
        {
        .reg .b16 l, r, m, s;
        .reg .b32 left, right, sum;
        mov.b32 {l, r}, $6;
        mov.b32 {m, s}, $7;
        mov.b32 left, {l, m};
        mov.b32 right, {r, s};
        fma.rn.bf16x2 sum, $2, left, $1;
        fma.rn.bf16x2 sum, $3, right, sum;
        mov.b32 {l, r}, $8;
        mov.b32 {m, s}, $9;
        mov.b32 left, {l, m};
        mov.b32 right, {r, s};
        fma.rn.bf16x2 sum, $4, left, sum;
        fma.rn.bf16x2 $0, $5, right, sum;
        }
        """,
        "=r,r,r,r,r,r,r,r,r,r",
        [total, a, b, c, d, top, bottom],
        dtype=tl.bfloat16,
        is_pure=True,
        pack=2,
    )


@triton.jit
def widen_add(total, fresh, APPROX: tl.constexpr):
    """total fp32 + fresh, bf16 with APPROX, else fp32."""
    if APPROX:
        return tl.inline_asm_elementwise(
            """
            {
            .reg .b32 low, high;
            shl.b32 low, $4, 16;
            and.b32 high, $4, 0xFFFF0000;
            add.f32 $0, $2, low;
            add.f32 $1, $3, high;
            }
            """,
            "=&f,=f,f,f,r",
            [total, fresh],
            dtype=tl.float32,
            is_pure=True,
            pack=2,
        )
    else:
        return total + fresh


@triton.jit
def add_quad(total, a, b, c, d, left, right, upper, lower, APPROX: tl.constexpr):
    """total + texels a b over c d times the weights (M,) of both axes, in the type of total."""
    if APPROX:
        top, bottom = pair_weights(left, right, upper, lower)
        return add_packed(total, a, b, c, d, top[:, None], bottom[:, None])
    else:
        total += a.to(tl.float32) * (left * upper)[:, None]
        total += b.to(tl.float32) * (right * upper)[:, None]
        total += c.to(tl.float32) * (left * lower)[:, None]
        return total + d.to(tl.float32) * (right * lower)[:, None]


@triton.jit
def add_piece(
    total,
    rows_ptr,
    row,
    width,
    left,
    right,
    upper,
    lower,
    piece: tl.constexpr,
    C: tl.constexpr,
    PIECE: tl.constexpr,
    APPROX: tl.constexpr,
):
    """total (M, PIECE) + features of a piece of the channels, which are 0 from C on."""
    offs = piece * PIECE + tl.arange(0, PIECE)
    above = (rows_ptr + offs)[None, :] + (row.to(tl.int64) * C)[:, None]
    below = above + width.to(tl.int64) * C
    if piece * PIECE + PIECE <= C:
        a, b = tl.load(above), tl.load(above + C)
        c, d = tl.load(below), tl.load(below + C)
    else:
        mask = (offs < C)[None, :]
        a, b = tl.load(above, mask=mask, other=0.0), tl.load(above + C, mask=mask, other=0.0)
        c, d = tl.load(below, mask=mask, other=0.0), tl.load(below + C, mask=mask, other=0.0)
    return add_quad(total, a, b, c, d, left, right, upper, lower, APPROX)


@triton.jit
def zero_pieces(N: tl.constexpr, BLOCK_M: tl.constexpr, PIECE: tl.constexpr, HALF: tl.constexpr):
    """N zeros (BLOCK_M, PIECE), bf16 with HALF, else fp32."""
    pieces = ()
    for _ in tl.static_range(N):
        pieces += (tl.zeros((BLOCK_M, PIECE), tl.bfloat16 if HALF else tl.float32),)
    return pieces


@triton.jit
def add_plane(
    totals,
    rows_ptr,
    table_ptr,
    objects,
    x,
    y,
    z,
    level,
    plane,
    C: tl.constexpr,
    AXES: tl.constexpr,
    PIECE: tl.constexpr,
    LONG_ROWS: tl.constexpr,
    APPROX: tl.constexpr,
):
    """totals + bilinear features of a plane of each sample's object, piece by piece."""
    height = tl.load(table_ptr + level * 3).to(tl.int32)
    width = tl.load(table_ptr + level * 3 + 1).to(tl.int32)
    start = tl.load(table_ptr + level * 3 + 2)
    size = height * width
    EXTRA: tl.constexpr = FLOAT_2_23 if APPROX else 0
    u, v = plane_coords(x, y, z, plane, AXES)
    column, left, right = axis_taps(width, u, APPROX)
    line, upper, lower = axis_taps(height, v, APPROX)
    if LONG_ROWS:
        base = start + (objects.to(tl.int64) * 3 + plane) * size
        row = base + ((line - EXTRA) * width + (column - EXTRA))
    else:  # sums may pass 32 bits on the way
        base = objects * (3 * size) + (start.to(tl.int32) + plane * size - EXTRA * (width + 1))
        row = base + line * width + column
    sums = ()
    for p in tl.static_range((C + PIECE - 1) // PIECE):
        total = add_piece(
            totals[p], rows_ptr, row, width, left, right, upper, lower, p, C, PIECE, APPROX
        )
        sums += (total,)
    return sums


@triton.jit
def block_pieces(
    rows_ptr,
    table_ptr,
    objects,
    x,
    y,
    z,
    first_plane,
    C: tl.constexpr,
    N_LEVELS: tl.constexpr,
    N_PLANES: tl.constexpr,
    AXES: tl.constexpr,
    PIECE: tl.constexpr,
    LONG_ROWS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    APPROX: tl.constexpr,
):
    """Sum of bilinear features over planes and levels: a tuple of pieces (M, PIECE).

    With APPROX the planes of a level are summed in bf16, levels in fp32.

    Args:
        rows_ptr, table_ptr: `Texels`.
        objects: (M,) int32.
        x, y, z: (M,) positions with the box at [-1, 1].
        first_plane: of N_PLANES.
        LONG_ROWS: whether there are more texels than int32 numbers.
    """
    N_PIECES: tl.constexpr = (C + PIECE - 1) // PIECE
    if N_PLANES * N_LEVELS == 1:
        zero = zero_pieces(N_PIECES, BLOCK_M, PIECE, APPROX)
        return add_plane(
            zero, rows_ptr, table_ptr, objects, x, y, z, 0, first_plane,
            C, AXES, PIECE, LONG_ROWS, APPROX,
        )  # fmt: skip
    else:
        totals = zero_pieces(N_PIECES, BLOCK_M, PIECE, False)
        for level in range(N_LEVELS):
            fresh = zero_pieces(N_PIECES, BLOCK_M, PIECE, APPROX)
            for i in tl.static_range(N_PLANES):
                fresh = add_plane(
                    fresh, rows_ptr, table_ptr, objects, x, y, z, level, first_plane + i,
                    C, AXES, PIECE, LONG_ROWS, APPROX,
                )  # fmt: skip
            sums = ()
            for p in tl.static_range(N_PIECES):
                sums += (widen_add(totals[p], fresh[p], APPROX),)
            totals = sums
        return totals
