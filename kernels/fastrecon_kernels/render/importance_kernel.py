"""Importance sampling without a sort: draw the fine samples of a ray, merge them with the coarse.

The formulas are those of `rays.importance_samples`. A program serves BLOCK_R rays whole, and finds
places by counting: a fraction u lies behind as many steps of the distribution as are <= u, and a
sample has as many before it as are smaller (equal ones: those of lower index). Times are compared
as integers that order like floats, NaN included, so that places are always a permutation.
"""

# Triton types the call of a device function as an error and knows no launch options.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..common.backend import FP_FUSION
from ..common.random import FINE
from ..settings import RenderSettings
from .rays import importance_samples

MAX_SAMPLES = 64
"""Most coarse, and most fine, samples; torch sorts more (pairs of 128 spill, bench/NOTES.md)."""
TILE = 4096
"""Pairs of samples per program."""
GATHER_BLOCK = 512
_STREAM = tl.constexpr(FINE + 1)


@triton.jit
def mix(x):
    """`common.random._mix` on uint32."""
    x = x ^ (x >> 16)
    x = x * 0x7FEB352D
    x = x ^ (x >> 15)
    x = x * 0x846CA68B
    return x ^ (x >> 16)


@triton.jit
def fine_uniform(seed_ptr, rays, offs_f):
    """`common.random.uniform` of the fine stream: rays (R,), samples (F,) -> (R, F) in [0, 1)."""
    seed = tl.load(seed_ptr)
    low, high = seed.to(tl.uint32), (seed >> 32).to(tl.uint32)
    golden = tl.full((1,), 0x9E3779B9, tl.uint32)
    key = mix(low ^ mix(high ^ golden * _STREAM))
    ray_key = mix(mix(key ^ rays.to(tl.uint32)) ^ (rays >> 32).to(tl.uint32))
    bits = mix(ray_key[:, None] + (offs_f.to(tl.uint32) * golden)[None, :])
    return (bits >> 8).to(tl.float32) * (1.0 / 16777216.0)


@triton.jit
def ordered(t):
    """Integers that compare as the floats do; both zeros are one."""
    bits = (t + 0.0).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@triton.jit
def count_before(keys, others, offs, other_offs, n_others, OWN: tl.constexpr, TIES: tl.constexpr):
    """How many of ``others`` (R, N) come before each of ``keys`` (R, M).

    ``OWN``: both are one list, and equals are ordered by index; else equals come before if
    ``TIES``.
    """
    a, b = keys[:, :, None], others[:, None, :]
    before = b < a
    if OWN:
        before = before | ((b == a) & (other_offs[None, None, :] < offs[None, :, None]))
    elif TIES:
        before = b <= a
    before = before & (other_offs < n_others)[None, None, :]
    return tl.sum(before.to(tl.int32), 2)


@triton.jit(do_not_specialize=["n_rays", "first_ray"])
def importance_kernel(
    ts_ptr,  # (N, S) increasing
    weights_ptr,  # (N, S - 1)
    seed_ptr,  # int64 scalar, or None
    fine_ptr,  # (N, F) out: fine samples as they are drawn
    merged_ptr,  # (N, S + F) out: all samples in order
    order_ptr,  # (N, S + F) int32 out: index among the coarse samples followed by the fine ones
    n_rays,
    first_ray,
    S: tl.constexpr,
    F: tl.constexpr,
    STRATIFIED: tl.constexpr,
    LINE_STEP: tl.constexpr,  # 1 / (F - 1)
    BLOCK_R: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_F: tl.constexpr,
):
    rays = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    offs_s, offs_f = tl.arange(0, BLOCK_S), tl.arange(0, BLOCK_F)
    live = rays < n_rays
    mask_s, mask_f = live[:, None] & (offs_s < S)[None, :], live[:, None] & (offs_f < F)[None, :]

    # Inner S - 3 of the smoothed weights: the maximum of neighbours, the mean of neighbours.
    ptrs = weights_ptr + (rays * (S - 1))[:, None] + offs_s[None, :]
    inside = live[:, None] & (offs_s < S - 3)[None, :]
    w0 = tl.load(ptrs, mask=inside, other=0.0)
    w1 = tl.load(ptrs + 1, mask=inside, other=0.0)
    w2 = tl.load(ptrs + 2, mask=inside, other=0.0)
    smooth = (tl.maximum(w1, w2) + tl.maximum(w0, w1)) / 2 + 0.01
    smooth = tl.where(inside, smooth, 0.0)
    steps = tl.cumsum(smooth / tl.maximum(tl.sum(smooth, 1), 1e-30)[:, None], 1)

    if STRATIFIED:
        u = fine_uniform(seed_ptr, first_ray + rays, offs_f)
    else:  # torch.linspace(0, 1, F), which counts from both ends
        up, down = offs_f.to(tl.float32), (F - 1 - offs_f).to(tl.float32)
        half = tl.where(offs_f < F // 2, up * LINE_STEP, 1.0 - down * LINE_STEP)
        if F == 1:
            half = tl.zeros((BLOCK_F,), tl.float32)
        u = tl.zeros((BLOCK_R, 1), tl.float32) + half[None, :]

    behind = (steps[:, None, :] <= u[:, :, None]) & (offs_s < S - 3)[None, None, :]
    ahead = (steps[:, None, :] > u[:, :, None]) & (offs_s < S - 3)[None, None, :]
    below = tl.sum(behind.to(tl.int32), 2)
    above = tl.minimum(below + 1, S - 3)
    cdf_below = tl.max(tl.where(behind, steps[:, None, :], 0.0), 2)
    cdf_above = tl.min(tl.where(ahead, steps[:, None, :], 2.0), 2)
    cdf_above = tl.where(above > below, cdf_above, cdf_below)
    width = cdf_above - cdf_below
    share = (u - cdf_below) / tl.where(width > 0, width, 1.0)
    first = ts_ptr + (rays * S)[:, None]
    start = tl.load(first + below, mask=mask_f, other=0.0)
    start = (tl.load(first + below + 1, mask=mask_f, other=0.0) + start) / 2
    end = tl.load(first + above, mask=mask_f, other=0.0)
    end = (tl.load(first + above + 1, mask=mask_f, other=0.0) + end) / 2
    fine = start + share * (end - start)
    tl.store(fine_ptr + (rays * F)[:, None] + offs_f[None, :], fine, mask=mask_f)

    coarse = tl.load(first + offs_s[None, :], mask=mask_s, other=0.0)
    key_s, key_f = ordered(coarse), ordered(fine)
    place_s = count_before(key_s, key_s, offs_s, offs_s, S, True, False)
    place_s += count_before(key_s, key_f, offs_s, offs_f, F, False, False)
    place_f = count_before(key_f, key_f, offs_f, offs_f, F, True, False)
    place_f += count_before(key_f, key_s, offs_f, offs_s, S, False, True)
    row = (rays * (S + F))[:, None]
    tl.store(merged_ptr + row + place_s, coarse, mask=mask_s)
    tl.store(merged_ptr + row + place_f, fine, mask=mask_f)
    tl.store(order_ptr + row + place_s, offs_s[None, :] + place_s * 0, mask=mask_s)
    tl.store(order_ptr + row + place_f, offs_f[None, :] + S + place_f * 0, mask=mask_f)


@triton.jit(do_not_specialize=["n_slots"])
def merge_kernel(
    order_ptr,  # (N, S + F) int32
    raw_ptr,  # (N, S)
    fine_raw_ptr,  # (N, F)
    rgb_ptr,  # (N, S, K)
    fine_rgb_ptr,  # (N, F, K)
    merged_raw_ptr,  # (N, S + F) out
    merged_rgb_ptr,  # (N, S + F, K) out
    n_slots,
    S: tl.constexpr,
    F: tl.constexpr,
    K: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    slots = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = slots < n_slots
    source = tl.load(order_ptr + slots, mask=mask, other=0)
    rays = slots // (S + F)
    is_fine = source >= S
    coarse_at, fine_at = rays * S + source, rays * F + source - S
    raw = tl.load(raw_ptr + coarse_at, mask=mask & (source < S), other=0.0)
    fine_raw = tl.load(fine_raw_ptr + fine_at, mask=mask & is_fine, other=0.0)
    tl.store(merged_raw_ptr + slots, tl.where(is_fine, fine_raw, raw), mask=mask)
    for k in range(0, K, BLOCK_K):
        offs_k = (k + tl.arange(0, BLOCK_K))[None, :]
        used = mask[:, None] & (offs_k < K)
        from_fine = is_fine[:, None]
        rgb = tl.load(
            rgb_ptr + coarse_at[:, None] * K + offs_k, mask=used & (source < S)[:, None], other=0.0
        )
        fine_rgb = tl.load(
            fine_rgb_ptr + fine_at[:, None] * K + offs_k, mask=used & from_fine, other=0.0
        )
        out = tl.where(from_fine, fine_rgb, rgb)
        tl.store(merged_rgb_ptr + slots[:, None] * K + offs_k, out, mask=used)


def importance_options(n_coarse: int, n_fine: int, stratified: bool) -> dict[str, Any]:
    """Compile-time arguments of `importance_kernel` and its warps."""
    block_s, block_f = triton.next_power_of_2(n_coarse), triton.next_power_of_2(n_fine)
    side = max(block_s, block_f)
    return {
        "S": n_coarse,
        "F": n_fine,
        "STRATIFIED": stratified,
        "LINE_STEP": 1 / max(n_fine - 1, 1),
        "BLOCK_R": max(1, TILE // side**2),
        "BLOCK_S": block_s,
        "BLOCK_F": block_f,
        "num_warps": max(4, side // 8),
    }


def merge_options(n_coarse: int, n_fine: int, n_colours: int) -> dict[str, Any]:
    """Compile-time arguments of `merge_kernel` and its warps."""
    block_k = min(triton.next_power_of_2(n_colours), 32)
    return {
        "S": n_coarse,
        "F": n_fine,
        "K": n_colours,
        "BLOCK": max(GATHER_BLOCK // block_k, 32),
        "BLOCK_K": block_k,
        "num_warps": 4,
    }


def draw_and_order(
    ts: Tensor, weights: Tensor, settings: RenderSettings, seed: Tensor | None, first_ray: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Fine samples, and their order among the coarse ones.

    Args:
        ts: (N, S) fp32 coarse samples.
        weights: (N, S - 1) fp32 coarse interval weights.
        seed: int64 scalar, read where stratified.
        first_ray: flat index of the first ray.

    Returns:
        fine (N, F), all samples in order (N, S + F), and their indices int32 (N, S + F) among the
        coarse samples followed by the fine ones.
    """
    n_rays, n_coarse = ts.shape
    n_fine = settings.n_importance
    if max(n_coarse, n_fine) > MAX_SAMPLES:
        fine = importance_samples(ts, weights, settings, seed, first_ray)
        merged, order = torch.cat([ts, fine], 1).sort(dim=1, stable=True)
        return fine, merged, order.int()
    fine = torch.empty(n_rays, n_fine, dtype=torch.float32, device=ts.device)
    merged = torch.empty(n_rays, n_coarse + n_fine, dtype=torch.float32, device=ts.device)
    order = torch.empty(n_rays, n_coarse + n_fine, dtype=torch.int32, device=ts.device)
    if n_rays:
        options = importance_options(n_coarse, n_fine, settings.stratified)
        with torch.cuda.device_of(ts):
            importance_kernel[(triton.cdiv(n_rays, options["BLOCK_R"]),)](
                ts.contiguous(),
                weights.contiguous(),
                seed if settings.stratified else None,
                fine,
                merged,
                order,
                n_rays,
                first_ray,
                **options,
                **FP_FUSION,
            )
    return fine, merged, order


def merge_records(
    order: Tensor, raw: Tensor, rgb: Tensor, fine_raw: Tensor, fine_rgb: Tensor
) -> tuple[Tensor, Tensor]:
    """Records (N, S), (N, S, K) and (N, F), (N, F, K) in the order of `draw_and_order`."""
    n_colours = rgb.shape[-1]
    merged_raw = torch.empty(order.shape, dtype=torch.float32, device=raw.device)
    merged_rgb = torch.empty(*order.shape, n_colours, dtype=torch.float32, device=raw.device)
    if order.numel():
        options = merge_options(raw.shape[1], fine_raw.shape[1], n_colours)
        with torch.cuda.device_of(raw):
            merge_kernel[(triton.cdiv(order.numel(), options["BLOCK"]),)](
                order,
                raw.contiguous(),
                fine_raw.contiguous(),
                rgb.contiguous(),
                fine_rgb.contiguous(),
                merged_raw,
                merged_rgb,
                order.numel(),
                **options,
                **FP_FUSION,
            )
    return merged_raw, merged_rgb
