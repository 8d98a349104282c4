"""Launching the lookup kernels: compile-time arguments, tiles, which gradient takes which way.

The static report (`bench/static_cases.py`) reads the choices here, so that what is reported is what
runs.
"""

# Triton knows no launch options, and types the arithmetic of its functions as constexpr.
# pyright: reportCallIssue=false, reportArgumentType=false, reportReturnType=false

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from ..settings import Axes
from .backend import FP_FUSION, interpreting
from .device import pack_axes
from .lookup_kernel import lookup_forward, lookup_points, lookup_scatter, lookup_windows
from .texels import Texels

MAX_BLOCK_C = 64
"""Channels that a program has at a time."""
PIECE = 16
"""Channels of a piece (see `taps.py`): two threads share a point of half-precision planes, four
one of fp32 planes. More of them repeat more arithmetic, fewer read less than a sector."""
MAX_LEVELS = 31
"""Bits of the number in which the windows say what they leave of a point."""
NEAR = 1 << 31
"""Numbers whose places in a tile have 32 bits."""
WINDOW_PROGRAMS = 4
"""Programs of the windows per processor."""


class Tuning(NamedTuple):
    """Launch choices; ``one`` and ``three`` are rays and points on each in a tile of windows, with
    as many products (see `window_tile`), None where these spill."""

    one: tuple[int, int] | None
    three: tuple[int, int] | None
    backward: tuple[int, int] = (128, 8)  # points of a program and its warps, tap by tap
    assembly: bool = True  # kernels may hold NVIDIA's instructions
    rotate: bool = True  # whole cache lines are read by threads in turn (see `taps.py`)


TUNING = {
    "hopper": Tuning((8, 16), (8, 16)),
    "blackwell": Tuning((8, 16), None),
    "nvidia": Tuning((8, 8), None),
    "amd": Tuning((8, 16), (8, 16), (64, 4), assembly=False, rotate=False),
    "interpreter": Tuning((8, 8), (8, 8), (64, 1), assembly=False),
}
"""The largest tiles that do not spill on workloads A and B (bench.static)."""
FORWARD_TILE = (64, 4)
"""Points of a program and its warps."""
WINDOW_WARPS = 4


@functools.cache
def tuning_of(device: torch.device) -> Tuning:
    """The row of `TUNING` for a device."""
    if interpreting():
        return TUNING["interpreter"]
    if torch.version.hip is not None:
        return TUNING["amd"]
    generation = torch.cuda.get_device_capability(device)[0]
    return TUNING[{9: "hopper", 10: "blackwell"}.get(generation, "nvidia")]


@functools.cache
def n_programs(device: torch.device) -> int:
    """Programs of the windows that fill the device."""
    if interpreting():
        return 2
    return WINDOW_PROGRAMS * torch.cuda.get_device_properties(device).multi_processor_count


# --- compile-time arguments -----------------------------------------------------------------


def shared_constexprs(channels: int, n_levels: int, axes: Axes, reduction: str) -> dict[str, Any]:
    """Those of all kernels; nothing in them counts points."""
    return {
        "C": channels,
        "N_LEVELS": n_levels,
        "AXES": pack_axes(axes),
        "CONCAT": reduction == "concat",
        "MEAN": reduction == "mean",
    }


def block_c(channels: int) -> int:
    """Channels of a slice of `lookup_windows`."""
    return min(max(triton.next_power_of_2(channels), 16), MAX_BLOCK_C)


def piece_constexprs(channels: int, dtype: torch.dtype, tuning: Tuning) -> dict[str, Any]:
    """Those of `lookup_points` besides, for planes of ``dtype``."""
    return {
        "N": min(triton.cdiv(channels, PIECE), MAX_BLOCK_C // PIECE),
        "PIECE": PIECE,
        "WORD": 16 // dtype.itemsize,
        "SPLIT": tuning.assembly and dtype == torch.bfloat16,
    }


def forward_constexprs(channels: int, dtype: torch.dtype, tuning: Tuning) -> dict[str, Any]:
    """Those of `lookup_forward` besides; `lookup_points` spills if it rotates."""
    pieces = piece_constexprs(channels, dtype, tuning)
    whole = channels % (pieces["N"] * PIECE) == 0 and channels * dtype.itemsize % 128 == 0
    return {**pieces, "ROTATE": tuning.rotate and whole and pieces["N"] > 1}


def scatter_constexprs(channels: int) -> dict[str, Any]:
    """Those of `lookup_scatter` besides."""
    n_pieces = min(triton.cdiv(channels, PIECE), MAX_BLOCK_C // PIECE)
    return {"N": n_pieces, "PIECE": PIECE, "BLOCK_C": block_c(channels)}


def window_constexprs(channels: int, tile: tuple[int, int], dtype: torch.dtype) -> dict[str, Any]:
    """Those of `lookup_windows` besides, for gradients of planes of ``dtype``."""
    return {
        "BLOCK_C": block_c(channels),
        "RAYS": tile[0],
        "DEPTH": tile[1],
        "PRODUCTS": 1 if dtype == torch.bfloat16 else 3,
    }


def window_tile(tuning: Tuning, dtype: torch.dtype) -> tuple[int, int] | None:
    """The tile for gradients of planes of ``dtype``, or None: tap by tap.

    bf16 rounds such a gradient to 2^-9 in the end, to which a product in fp16 (2^-12) adds little;
    fp16 and fp32 planes take three.
    """
    return tuning.one if dtype == torch.bfloat16 else tuning.three


# --- launches -------------------------------------------------------------------------------


def count_points(points: Tensor) -> int:
    """Points (B, ..., 3) of each object."""
    return points.shape[1:-1].numel()


def launch_grid(points: Tensor, tile: tuple[int, int]) -> tuple[int, int]:
    """Programs for points (B, ..., 3): tiles of points, objects."""
    return triton.cdiv(count_points(points), tile[0]), points.shape[0]


def tile_options(tile: tuple[int, int]) -> dict[str, int]:
    """Tile size and launch options."""
    return {"BLOCK_M": tile[0], "num_warps": tile[1]}


def look_up(texels: Texels, points: Tensor, axes: Axes, reduction: str) -> Tensor:
    """Features (B, ..., 3C | C) fp32 of points (B, ..., 3) in objects 0 .. B - 1 of the table."""
    channels, n_levels = texels.rows.shape[1], texels.table.shape[0]
    width = 3 * channels if reduction == "concat" else channels
    out = torch.empty((*points.shape[:-1], width), dtype=torch.float32, device=points.device)
    if out.numel():
        # Triton launches on the current device, which need not be the tensors'.
        with torch.cuda.device_of(points):
            lookup_forward[launch_grid(points, FORWARD_TILE)](
                texels.rows,
                texels.table,
                points.contiguous(),
                out,
                count_points(points),
                **shared_constexprs(channels, n_levels, axes, reduction),
                **forward_constexprs(channels, texels.rows.dtype, tuning_of(points.device)),
                **tile_options(FORWARD_TILE),
                **FP_FUSION,
            )
    return out


def look_up_backward(
    texels: Texels,
    points: Tensor,
    grad: Tensor,
    axes: Axes,
    reduction: str,
    d_rows: Tensor | None,
    need_points: bool,
) -> Tensor | None:
    """Backward of `look_up`, from the gradient (B, ..., 3C | C) of its result.

    Consecutive points (B, ..., S, 3) are taken for samples of a ray, and rays in a row for
    neighbours: where that is so, few additions reach memory.

    Args:
        d_rows: (T, C) fp32, which the gradients of the texels are added to; None: not needed.
        need_points: whether the points' gradient is needed.

    Returns:
        d_points (B, ..., 3) fp32, or None.
    """
    channels, n_levels = texels.rows.shape[1], texels.table.shape[0]
    shared = shared_constexprs(channels, n_levels, axes, reduction)
    tuning, n_points = tuning_of(points.device), count_points(points)
    d_points = None
    if need_points:
        d_points = torch.empty(points.shape, dtype=torch.float32, device=points.device)
    if not grad.numel():
        return d_points
    points, grad = points.contiguous(), grad.float().contiguous()
    grid, options = launch_grid(points, tuning.backward), tile_options(tuning.backward)
    with torch.cuda.device_of(points):
        if d_rows is not None:
            rest = merge(texels, points, grad, d_rows, tuning, shared)
            lookup_scatter[grid](
                texels.table,
                points,
                grad,
                d_rows,
                rest,
                n_points,
                **shared,
                **scatter_constexprs(channels),
                **options,
                **FP_FUSION,
            )
        if d_points is not None:
            lookup_points[grid](
                texels.rows,
                texels.table,
                points,
                grad,
                d_points,
                n_points,
                **shared,
                **piece_constexprs(channels, texels.rows.dtype, tuning),
                **options,
                **FP_FUSION,
            )
    return d_points


def merge(
    texels: Texels,
    points: Tensor,
    grad: Tensor,
    d_rows: Tensor,
    tuning: Tuning,
    shared: dict[str, Any],
) -> Tensor | None:
    """Add gradients of texels that neighbouring points share.

    Returns:
        What is left: (slices, B, N) int32, a bit per level; None: everything, nothing was added.
    """
    channels, n_levels = texels.rows.shape[1], texels.table.shape[0]
    batch, n_points, depth = points.shape[0], count_points(points), points.shape[-2]
    tile = window_tile(tuning, texels.rows.dtype)
    if tile is None or n_levels > MAX_LEVELS or n_points < tile[0] * tile[1]:
        return None
    n_rays = n_points // depth
    if n_rays < tile[0] or depth < tile[1] or tile[0] * depth * grad.shape[-1] >= NEAR:
        # Too few rays or points on each, or too many: all in a row.
        n_rays, depth, tile = 1, n_points, (1, tile[0] * tile[1])
    constexprs = window_constexprs(channels, tile, texels.rows.dtype)
    n_slices = 3 * triton.cdiv(channels, constexprs["BLOCK_C"])
    rest = torch.empty((n_slices, batch, n_points), dtype=torch.int32, device=points.device)
    n_tiles = triton.cdiv(n_rays, tile[0]) * triton.cdiv(depth, tile[1])
    programs = triton.cdiv(n_programs(points.device), n_slices * batch)
    lookup_windows[(min(n_tiles, programs), batch, n_slices)](
        texels.table,
        points,
        grad,
        d_rows,
        rest,
        n_rays,
        depth,
        **shared,
        **constexprs,
        num_warps=WINDOW_WARPS,
        num_stages=1,
        **FP_FUSION,
    )
    return rest
