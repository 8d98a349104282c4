"""Compositing in Triton: one program per tile of rays, chunks of samples in registers.

Records are (N, S) raw densities and (N, S, K) colours, row after row; M = S intervals for bins,
S - 1 for the midpoint rule. Formulas are those of ``reference.py``. Nothing per sample is kept for
the backward pass, which reads the records again. With ``G = dL/d rgb (hi - lo)``:

    g_i      = <G, c_i - background> + dL/dW + dL/dD (t_i - D) / (W + depth_eps) + dL/dw_i
    suffix_i = sum_{j>i} w_j g_j                                    (dL/dalpha_i, k: depth kernel)
    dL/dx_i  = k_i length_i sigma'(x_i) (T_{i+1} g_i - suffix_i)    dL/dc_i = k_i w_i G

The suffix is summed from the back, not as ``sum_j w_j g_j - prefix``: behind a dense sample both
are 1e-3 or 1e-6 of what is in front of it, and the difference would be left with no digits.
"""

from __future__ import annotations

import triton
import triton.language as tl

from ..common.compositing import (
    density_slope,
    depth_kernel_weight,
    opacity_of,
    optical_depth,
    shift_left,
    shift_right,
)
from .reference import LEAST_NORM

OPAQUE = tl.constexpr(128.0)  # exp(-128) is 0 in fp32
LEAST = tl.constexpr(LEAST_NORM)

# --- device helpers: reading one chunk, shape (BLOCK_R, BLOCK_S) -------------------------------


@triton.jit
def load_intervals(
    raw_ptr, ts_ptr, deltas_ptr, rows, row_mask, i, n_samples, MIDPOINT: tl.constexpr
):
    """Raw density, t and delta of intervals ``i`` (BLOCK_S,); padding has raw = t = delta = 0."""
    offsets = rows[:, None] * n_samples + i[None, :]
    if MIDPOINT:
        mask = row_mask[:, None] & (i < n_samples - 1)[None, :]
        t0 = tl.load(ts_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        t1 = tl.load(ts_ptr + offsets + 1, mask=mask, other=0.0).to(tl.float32)
        raw0 = tl.load(raw_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        raw1 = tl.load(raw_ptr + offsets + 1, mask=mask, other=0.0).to(tl.float32)
        empty = tl.minimum(raw0, raw1) == float("-inf")
        raw = tl.where(empty, float("-inf"), (raw0 + tl.where(empty, 0.0, raw1)) * 0.5)
        return raw, (t0 + t1) * 0.5, t1 - t0
    else:
        mask = row_mask[:, None] & (i < n_samples)[None, :]
        raw = tl.load(raw_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        t = tl.load(ts_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        if deltas_ptr is None:  # half-way to the neighbours; the end bins mirror their inner half
            has_left, has_right = mask & (i > 0)[None, :], mask & (i < n_samples - 1)[None, :]
            left = t - tl.load(ts_ptr + offsets - 1, mask=has_left, other=0.0).to(tl.float32)
            right = tl.load(ts_ptr + offsets + 1, mask=has_right, other=0.0).to(tl.float32) - t
            delta = (tl.where(has_left, left, right) + tl.where(has_right, right, left)) * 0.5
            delta = tl.where(mask, delta, 0.0)
        else:
            delta = tl.load(deltas_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        return raw, t, delta


@triton.jit
def load_colours(
    rgbs_ptr, rows, row_mask, i, k, n_samples, K: tl.constexpr, MIDPOINT: tl.constexpr
):
    """Colours (BLOCK_R, BLOCK_S, BLOCK_K) of intervals ``i``; 0 in the padding."""
    offsets = (rows[:, None] * n_samples + i[None, :])[:, :, None] * K + k[None, None, :]
    mask = row_mask[:, None, None] & (k < K)[None, None, :]
    if MIDPOINT:
        mask = mask & (i < n_samples - 1)[None, :, None]
        c0 = tl.load(rgbs_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        c1 = tl.load(rgbs_ptr + offsets + K, mask=mask, other=0.0).to(tl.float32)
        return (c0 + c1) * 0.5
    else:
        mask = mask & (i < n_samples)[None, :, None]
        return tl.load(rgbs_ptr + offsets, mask=mask, other=0.0).to(tl.float32)


@triton.jit
def interval_length(delta, chord_ptr, rows, row_mask):
    """delta, or its share of the ray's chord."""
    if chord_ptr is None:
        return delta
    else:
        chord = tl.load(chord_ptr + rows, mask=row_mask, other=0.0).to(tl.float32)[:, None]
        return tl.where(chord > 0.0, delta / tl.where(chord > 0.0, chord, 1.0), 0.0)


# --- forward ----------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["n_rays"])
def composite_forward_kernel(
    raw_ptr,  # (N, S)
    rgbs_ptr,  # (N, S, K)
    ts_ptr,  # (N, S)
    deltas_ptr,  # (N, S) or None
    chord_ptr,  # (N,) or None
    background_ptr,  # (K,) fp32
    rgb_ptr,  # (N, K) fp32, as all results
    opacity_ptr,  # (N,)
    depth_ptr,  # (N,)
    weights_ptr,  # (N, M) or None, as the next two
    out_ts_ptr,
    out_deltas_ptr,
    n_rays,
    n_samples,
    shift,
    scale,
    low,
    high,
    depth_eps,
    early_stop,
    K: tl.constexpr,
    ACTIVATION: tl.constexpr,
    MIDPOINT: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_K: tl.constexpr,
    N_CHUNKS: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    row_mask = rows < n_rays
    k = tl.arange(0, BLOCK_K)
    n_intervals = n_samples - 1 if MIDPOINT else n_samples

    before = tl.zeros((BLOCK_R,), tl.float32)  # optical depth in front of the chunk
    opacity = tl.zeros((BLOCK_R,), tl.float32)
    moment = tl.zeros((BLOCK_R,), tl.float32)
    colour = tl.zeros((BLOCK_R, BLOCK_K), tl.float32)
    for chunk in range(N_CHUNKS):
        i = chunk * BLOCK_S + tl.arange(0, BLOCK_S)
        raw, t, delta = load_intervals(
            raw_ptr, ts_ptr, deltas_ptr, rows, row_mask, i, n_samples, MIDPOINT
        )
        length = interval_length(delta, chord_ptr, rows, row_mask)
        tau = optical_depth(raw + shift, length, scale, ACTIVATION)
        through = before[:, None] + tl.cumsum(tau, 1)
        transmittance = tl.exp(-shift_right(through, before))
        weights = tl.where(transmittance < early_stop, 0.0, opacity_of(tau) * transmittance)

        c = load_colours(rgbs_ptr, rows, row_mask, i, k, n_samples, K, MIDPOINT)
        colour += tl.sum(weights[:, :, None] * c, 1)
        opacity += tl.sum(weights, 1)
        moment += tl.sum(weights * t, 1)
        before += tl.sum(tau, 1)
        if weights_ptr is not None:
            offsets = rows[:, None] * n_intervals + i[None, :]
            mask = row_mask[:, None] & (i < n_intervals)[None, :]
            tl.store(weights_ptr + offsets, weights, mask=mask)
            tl.store(out_ts_ptr + offsets, t, mask=mask)
            tl.store(out_deltas_ptr + offsets, delta, mask=mask)

    background = tl.load(background_ptr + k, mask=k < K, other=0.0)
    rgb = low + (high - low) * (colour + (1.0 - opacity)[:, None] * background[None, :])
    rgb_mask = row_mask[:, None] & (k < K)[None, :]
    tl.store(rgb_ptr + rows[:, None] * K + k[None, :], rgb, mask=rgb_mask)
    depth = moment / tl.maximum(opacity + depth_eps, LEAST)
    tl.store(opacity_ptr + rows, opacity, mask=row_mask)
    tl.store(depth_ptr + rows, tl.where(opacity > 0.0, depth, 0.0), mask=row_mask)


# --- backward ---------------------------------------------------------------------------------


@triton.jit
def chunk_depth(tau):
    """A chunk's optical depth, fp64, cut where the transmittance behind it is 0 anyway.

    The walk from the back takes off chunk by chunk what the first walk added up: in fp64 and
    with the cut, an opaque chunk leaves nothing of itself (an fp32 sum, or infinity, would).
    """
    return tl.minimum(tl.sum(tau, 1), OPAQUE).to(tl.float64)


@triton.jit(do_not_specialize=["n_rays"])
def composite_backward_kernel(
    raw_ptr,  # (N, S), as in the forward kernel down to the background
    rgbs_ptr,
    ts_ptr,
    deltas_ptr,
    chord_ptr,
    background_ptr,
    prior_ptr,  # (N,) or None
    opacity_ptr,  # (N,) fp32, results of the forward pass
    depth_ptr,
    d_rgb_ptr,  # (N, K), fp32 or any float, as all incoming gradients
    d_opacity_ptr,  # (N,)
    d_depth_ptr,  # (N,)
    d_weights_ptr,  # (N, M) or None
    d_raw_ptr,  # (N, S)
    d_rgbs_ptr,  # (N, S, K)
    n_rays,
    n_samples,
    shift,
    scale,
    low,
    high,
    depth_eps,
    early_stop,
    s1,
    s2,
    c_min,
    c_max,
    K: tl.constexpr,
    ACTIVATION: tl.constexpr,
    MIDPOINT: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_K: tl.constexpr,
    N_CHUNKS: tl.constexpr,
):
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    row_mask = rows < n_rays
    k = tl.arange(0, BLOCK_K)
    n_intervals = n_samples - 1 if MIDPOINT else n_samples

    rgb_mask = row_mask[:, None] & (k < K)[None, :]
    d_rgb = tl.load(d_rgb_ptr + rows[:, None] * K + k[None, :], mask=rgb_mask, other=0.0)
    d_rgb = d_rgb.to(tl.float32) * (high - low)
    background = tl.load(background_ptr + k, mask=k < K, other=0.0)
    opacity = tl.load(opacity_ptr + rows, mask=row_mask, other=0.0)
    depth = tl.load(depth_ptr + rows, mask=row_mask, other=0.0)
    d_opacity = tl.load(d_opacity_ptr + rows, mask=row_mask, other=0.0).to(tl.float32)
    d_depth = tl.load(d_depth_ptr + rows, mask=row_mask, other=0.0).to(tl.float32)
    norm = opacity + depth_eps
    d_moment = tl.where(opacity > 0.0, d_depth / tl.maximum(norm, LEAST), 0.0)
    centre = tl.where(norm < LEAST, 0.0, depth)

    front = tl.zeros((BLOCK_R,), tl.float64)  # optical depth in front of the chunk
    for chunk in range(N_CHUNKS - 1):
        i = chunk * BLOCK_S + tl.arange(0, BLOCK_S)
        raw, t, delta = load_intervals(
            raw_ptr, ts_ptr, deltas_ptr, rows, row_mask, i, n_samples, MIDPOINT
        )
        length = interval_length(delta, chord_ptr, rows, row_mask)
        front += chunk_depth(optical_depth(raw + shift, length, scale, ACTIVATION))

    behind = tl.zeros((BLOCK_R,), tl.float32)  # sum of w g behind the chunk
    next_d_x = tl.zeros((BLOCK_R,), tl.float32)  # of the interval behind the chunk
    next_share = tl.zeros((BLOCK_R,), tl.float32)
    for back in range(N_CHUNKS):
        i = (N_CHUNKS - 1 - back) * BLOCK_S + tl.arange(0, BLOCK_S)
        raw, t, delta = load_intervals(
            raw_ptr, ts_ptr, deltas_ptr, rows, row_mask, i, n_samples, MIDPOINT
        )
        length = interval_length(delta, chord_ptr, rows, row_mask)
        x = raw + shift
        tau = optical_depth(x, length, scale, ACTIVATION)
        if back > 0:
            front -= chunk_depth(tau)
        before = front.to(tl.float32)
        through = before[:, None] + tl.cumsum(tau, 1)
        transmittance = tl.exp(-shift_right(through, before))
        kept = transmittance >= early_stop
        weights = tl.where(kept, opacity_of(tau) * transmittance, 0.0)

        c = load_colours(rgbs_ptr, rows, row_mask, i, k, n_samples, K, MIDPOINT)
        g = tl.sum(d_rgb[:, None, :] * (c - background[None, None, :]), 2)
        g += d_opacity[:, None] + d_moment[:, None] * (t - centre[:, None])
        if d_weights_ptr is not None:
            offsets = rows[:, None] * n_intervals + i[None, :]
            mask = row_mask[:, None] & (i < n_intervals)[None, :]
            g += tl.load(d_weights_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
        wg = weights * g
        suffix = shift_left(behind[:, None] + tl.cumsum(wg, 1, reverse=True), behind)
        d_tau = tl.where(kept, tl.exp(-through) * g, 0.0) - suffix
        behind += tl.sum(wg, 1)

        share = weights  # of dL/dc_i in G
        if prior_ptr is not None:
            prior = tl.load(prior_ptr + rows, mask=row_mask, other=0.0).to(tl.float32)
            factor = depth_kernel_weight(t, prior[:, None], s1, s2, c_min, c_max)
            d_tau *= factor
            share *= factor
        # In this order a zero stays zero: length * scale * slope alone may overflow.
        d_x = d_tau * length * scale * density_slope(x, ACTIVATION)

        column = i
        if MIDPOINT:  # sample i + 1 ends interval i and begins interval i + 1, with half of each
            column = i + 1
            first = (tl.arange(0, BLOCK_S) == 0)[None, :]
            first_d_x = tl.sum(tl.where(first, d_x, 0.0), 1)
            first_share = tl.sum(tl.where(first, share, 0.0), 1)
            d_x = (d_x + shift_left(d_x, next_d_x)) * 0.5
            share = (share + shift_left(share, next_share)) * 0.5
            next_d_x, next_share = first_d_x, first_share
        offsets = rows[:, None] * n_samples + column[None, :]
        mask = row_mask[:, None] & (column < n_samples)[None, :]
        tl.store(d_raw_ptr + offsets, d_x, mask=mask)
        tl.store(
            d_rgbs_ptr + offsets[:, :, None] * K + k[None, None, :],
            share[:, :, None] * d_rgb[:, None, :],
            mask=mask[:, :, None] & (k < K)[None, None, :],
        )

    if MIDPOINT:
        tl.store(d_raw_ptr + rows * n_samples, next_d_x * 0.5, mask=row_mask)
        d_first = next_share[:, None] * 0.5 * d_rgb
        tl.store(d_rgbs_ptr + (rows * n_samples * K)[:, None] + k[None, :], d_first, mask=rgb_mask)
