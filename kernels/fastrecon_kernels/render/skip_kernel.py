"""Which samples are worth the decoder: those in the box, in a full cell, and not behind a surface.

A program looks at BLOCK_R rays and SEGMENT of their samples. What it finds goes to a list that all
programs share, each taking room in it with one atomic addition: the order of the list varies from
run to run, what is computed of it does not. Nobody waits for its length but the kernel that reads
it, so the host never stops.
"""

# Triton types the call of a device function as an error and knows no launch options.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false

from __future__ import annotations

import triton
import triton.language as tl

from ..common.compositing import optical_depth
from ..composite.kernel import interval_length, load_intervals
from .device import is_empty


@triton.jit(
    do_not_specialize=[
        "n_rays",
        "n_samples",
        "start",
        "first_ray",
        "rays_per_object",
        "resolution",
    ]
)
def select_kernel(
    rays_o_ptr,  # (N, 3) fp32
    rays_d_ptr,  # (N, 3) fp32
    ts_ptr,  # (N, S) fp32
    deltas_ptr,  # (N, S) or None
    chord_ptr,  # (N,) or None
    occupancy_ptr,  # (B, R, R, R) uint8
    raw_ptr,  # (N, S) fp32; this segment becomes -inf, the one before is read with STOP
    optical_ptr,  # (N,) fp32: optical depth in front of the segment before, added to
    list_ptr,  # (N * samples of the launch,) int32: flat indices of samples, out
    count_ptr,  # () int32: how many there are, added to
    n_rays,
    n_samples,
    start,  # first sample of the launch; programs (., k) have the k-th segment from there
    first_ray,
    rays_per_object,
    resolution,
    radius,
    shift,
    scale,
    stop,  # optical depth at which a ray ends
    STOP: tl.constexpr,
    ACTIVATION: tl.constexpr,
    MIDPOINT: tl.constexpr,
    DROP_OUTSIDE: tl.constexpr,
    GRID: tl.constexpr,
    BLOCK_R: tl.constexpr,
    SEGMENT: tl.constexpr,
):
    """List the samples of a segment that can be seen."""
    rows = tl.program_id(0).to(tl.int64) * BLOCK_R + tl.arange(0, BLOCK_R)
    row_mask = rows < n_rays
    first = start + tl.program_id(1) * SEGMENT
    i = first + tl.arange(0, SEGMENT)
    mask = row_mask[:, None] & (i < n_samples)[None, :]

    if STOP:
        optical = tl.load(optical_ptr + rows, mask=row_mask, other=0.0)
        if first > 0:
            j = i - SEGMENT
            raw, _, delta = load_intervals(
                raw_ptr, ts_ptr, deltas_ptr, rows, row_mask, j, n_samples, MIDPOINT
            )
            length = interval_length(delta, chord_ptr, rows, row_mask)
            tau = optical_depth(raw + shift, length, scale, ACTIVATION)
            if MIDPOINT:  # the interval that ends at a sample which nobody has looked up yet
                tau = tl.where((j < first - 1)[None, :], tau, 0.0)
            optical += tl.sum(tau, 1)
            tl.store(optical_ptr + rows, optical, mask=row_mask)
        # A comparison that NaN passes: a ray that knows no depth goes on.
        mask &= ((optical >= stop) == 0)[:, None]  # fmt: skip

    flat = rows[:, None] * n_samples + i[None, :]
    t = tl.load(ts_ptr + flat, mask=mask, other=0.0)
    x = tl.load(rays_o_ptr + rows * 3, mask=row_mask, other=0.0)[:, None]
    y = tl.load(rays_o_ptr + rows * 3 + 1, mask=row_mask, other=0.0)[:, None]
    z = tl.load(rays_o_ptr + rows * 3 + 2, mask=row_mask, other=0.0)[:, None]
    x = x + t * tl.load(rays_d_ptr + rows * 3, mask=row_mask, other=0.0)[:, None]
    y = y + t * tl.load(rays_d_ptr + rows * 3 + 1, mask=row_mask, other=0.0)[:, None]
    z = z + t * tl.load(rays_d_ptr + rows * 3 + 2, mask=row_mask, other=0.0)[:, None]
    objects = ((first_ray + rows) // rays_per_object)[:, None]
    scale_xyz = 1.0 / radius  # as `sample_points` has it: both must find the same samples empty
    empty = is_empty(
        occupancy_ptr,
        objects,
        x * scale_xyz,
        y * scale_xyz,
        z * scale_xyz,
        resolution,
        mask,
        DROP_OUTSIDE,
        GRID,
    )
    seen = mask & (empty == 0)

    here = seen.to(tl.int32)
    of_rows = tl.sum(here, 1)
    place = tl.atomic_add(count_ptr, tl.sum(of_rows, 0), sem="relaxed")
    before = tl.cumsum(of_rows, 0) - of_rows
    rank = place + before[:, None] + tl.cumsum(here, 1) - here
    tl.store(list_ptr + rank, flat.to(tl.int32), mask=seen)
    written = row_mask[:, None] & (i < n_samples)[None, :]
    tl.store(raw_ptr + flat, -float("inf"), mask=written)
