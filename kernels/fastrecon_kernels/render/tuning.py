"""How the field kernels are compiled and launched: tiles, layer groups, compile-time arguments.

`launch.py` and the static report (`bench/static_cases.py`) both read these, so that what is
reported is what runs. These are the defaults; `tuned.py` has what was measured.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch

from ..common.backend import interpreting
from ..common.device import pack_axes
from ..settings import RenderSettings
from .pack import DecoderShape


class Tuning(NamedTuple):
    """Launch choices; the pairs are samples (texels of ``fold``) per tile and warps of a kernel."""

    field: tuple[int, int]
    group: tuple[int, int]
    taps: tuple[int, int]
    points: tuple[int, int]
    fold: tuple[int, int]
    # Tiles of the windows: rays across and down a picture, or rays in a row, and samples on each.
    patch: tuple[int, int, int]
    line: tuple[int, int, int]
    window_warps: int = 4  # 0: tap by tap, for windows spill
    kept_bytes: int = 0  # largest packed decoder that stays loaded over a program's tiles
    pair_layers: bool = True  # two layers of up to 64 x 64 per backward group, else one
    approx: bool = False  # NVIDIA's approximate special functions and packed bf16 interpolation
    widen: bool = False  # bf16 to fp32 by a product with 1, see `group_backward_kernel`
    field_registers: int = 0  # most per thread, see `field_options`; 0: any number
    training: tuple[int, int] | None = None  # `field` where cuts are written; None: as it is
    # Programs per processor. The backward kernels fill the registers with one, and every program
    # has its own sums of weight gradients (bytes: programs x parameters x 4).
    field_programs: int = 2
    group_programs: int = 1


PICTURE: dict[str, Any] = {"patch": (4, 4, 8), "line": (8, 1, 16)}
SMALL_PICTURE: dict[str, Any] = {"patch": (4, 4, 4), "line": (4, 1, 16)}
TUNING = {
    "hopper": Tuning(
        field=(128, 8),
        group=(128, 8),
        taps=(64, 8),
        points=(64, 8),
        fold=(64, 4),
        **PICTURE,
        kept_bytes=112 << 10,
        approx=True,
        widen=True,
        field_registers=128,
    ),
    "blackwell": Tuning(
        field=(128, 8),
        group=(64, 8),
        taps=(64, 8),
        points=(32, 8),
        fold=(64, 4),
        **PICTURE,
        kept_bytes=112 << 10,
        approx=True,
        widen=True,
    ),
    "nvidia": Tuning(
        field=(64, 8),
        group=(32, 8),
        taps=(32, 4),
        points=(16, 8),
        fold=(32, 8),
        **PICTURE,
        window_warps=8,
        kept_bytes=16 << 10,
        approx=True,
    ),
    "amd": Tuning(
        field=(64, 8), group=(32, 4), taps=(32, 4), points=(32, 4), fold=(64, 4), **PICTURE
    ),
    "fp32": Tuning(
        field=(32, 8),
        group=(32, 8),
        taps=(32, 4),
        points=(32, 8),
        fold=(32, 8),
        **SMALL_PICTURE,
        pair_layers=False,
    ),
    "interpreter": Tuning(
        field=(32, 1),
        group=(32, 1),
        taps=(64, 1),
        points=(64, 1),
        fold=(64, 1),
        **PICTURE,
        kept_bytes=112 << 10,
        widen=True,
    ),
}
"""bf16 products by GPU, and tf32 or fp32 products anywhere: the largest tiles that do not spill on
workloads A and B (bench.static). Hopper and Blackwell multiply by weights that lie in shared
memory, of which two programs share a processor's; elsewhere kept weights fill the registers."""
FIRST_PROGRAMS = 2
"""Programs per processor of the first layer's backward pass, a third of them for each plane."""
INTERPRETED_PROGRAMS = 2
FIRST_BF16 = 8
"""NVIDIA's generation from which there is arithmetic in bf16."""
LONG_ROWS = 1 << 31
"""Texels that 32 bits do not number any more."""


@functools.cache
def n_programs(device: torch.device, per_processor: int) -> int:
    """Programs of a launch: enough to fill the device, no more, so that weights load once each."""
    if interpreting():
        return INTERPRETED_PROGRAMS
    return per_processor * torch.cuda.get_device_properties(device).multi_processor_count


def first_programs(device: torch.device) -> int:
    """Programs per plane of the first layer's backward kernels."""
    return -(-n_programs(device, FIRST_PROGRAMS) // 3)


@functools.cache
def row_of(device: torch.device, precision: str) -> str:
    """The name of the row of `TUNING` for a call."""
    if interpreting():
        return "interpreter"
    if precision != "bf16":
        return "fp32"
    if torch.version.hip is not None:
        return "amd"
    generation = torch.cuda.get_device_capability(device)[0]
    return {9: "hopper", 10: "blackwell"}.get(generation, "nvidia")


@functools.cache
def tuning_of(device: torch.device, precision: str) -> Tuning:
    """The defaults for a call: its row of `TUNING`."""
    chosen = TUNING[row_of(device, precision)]
    if interpreting():
        return chosen
    generation = 0 if torch.version.hip else torch.cuda.get_device_capability(device)[0]
    if precision == "fp32" and generation != 9:
        chosen = chosen._replace(window_warps=0)  # three products in tf32 for one spill, or fail
    if not generation:
        return chosen
    return chosen._replace(approx=chosen.approx and generation >= FIRST_BF16)


def tile_options(tile: tuple[int, int]) -> dict[str, Any]:
    """Tile size and launch options."""
    return {"BLOCK_M": tile[0], "num_warps": tile[1], "num_stages": 1}


def keeps_weights(shape: DecoderShape, precision: str, tuning: Tuning) -> bool:
    """Whether `field_kernel` loads the weights once per program instead of once per tile."""
    itemsize = 2 if precision == "bf16" else 4
    return shape.n_weights * itemsize <= tuning.kept_bytes


def piece_of(channels: int) -> int:
    """Channels that `field_kernel` takes at a time, without padding if that can be.

    The most that can be, for 64 of them are a whole line of the cache.
    """
    return next((piece for piece in (64, 32) if channels % piece == 0), 16)


def field_options(
    shape: DecoderShape, tuning: Tuning, *, cuts: bool, listed: bool = False
) -> dict[str, Any]:
    """Tile size and launch options of `field_kernel`.

    Registers are limited for the sake of a second program on a processor. Layers and planes of up
    to 64 need no more of them, unless cuts are written, texels are not read 16 bytes at a time, or
    samples are listed and 64 channels of them looked at together.
    """
    narrow = max(shape.width, shape.block_c) <= 64 and shape.channels % 8 == 0
    roomy = not cuts and not (listed and piece_of(shape.channels) == 64)
    limited = tuning.field_registers > 0 and narrow and roomy
    return {
        **tile_options(tuning.training if cuts and tuning.training else tuning.field),
        **({"maxnreg": tuning.field_registers} if limited else {}),
    }


def cut_every(shape: DecoderShape, tuning: Tuning) -> int:
    """Layers per backward group: sums of more weights would not fit the registers."""
    return 2 if tuning.pair_layers and shape.width <= 64 else 1


def groups(shape: DecoderShape, tuning: Tuning) -> list[tuple[int, int]]:
    """Hidden layers [start, end), counted from 0, between neighbouring cuts.

    Layers are counted without the first; the last group also has the last layer, and perhaps no
    other. Empty for a decoder of one layer.
    """
    if shape.n_layers == 1:
        return []
    step = cut_every(shape, tuning)
    starts = range(0, shape.n_hidden + 1, step)
    return [(start, min(start + step, shape.n_hidden)) for start in starts]


def shared_constexprs(shape: DecoderShape, precision: str, tuning: Tuning) -> dict[str, Any]:
    """Compile-time arguments of all three kernels."""
    return {
        "APPROX": tuning.approx,
        "WIDTH": shape.width,
        "N_OUT": shape.widths[-1],
        "PRECISION": precision_of(precision),
    }


def precision_of(precision: str, *, split: bool = False) -> str:
    """Triton's name for products of fp32 operands; with ``split``, of tf32 parts for fp32."""
    if precision == "fp32":
        return "tf32x3" if split else "ieee"
    return "tf32"


def lookup_constexprs(
    shape: DecoderShape, settings: RenderSettings, n_levels: int
) -> dict[str, Any]:
    """Compile-time arguments of the kernels that read planes."""
    return {
        "C": shape.channels,
        "N_LEVELS": n_levels,
        "AXES": pack_axes(settings.axes),
        "BLOCKS": shape.blocks,
        "N_PLANES": 3 // shape.blocks,
        "BLOCK_C": shape.block_c,
        "MEAN": settings.reduction == "mean",
    }


def field_constexprs(
    shape: DecoderShape,
    settings: RenderSettings,
    activation: str,
    precision: str,
    tuning: Tuning,
    *,
    n_levels: int,
    long_rows: bool,
    grid: bool,
    along_rays: bool,
    cuts: bool,
) -> dict[str, Any]:
    """Compile-time arguments of `field_kernel` but for the tile."""
    return {
        **shared_constexprs(shape, precision, tuning),
        **lookup_constexprs(shape, settings, n_levels),
        "PIECE": piece_of(shape.channels),
        "LONG_ROWS": long_rows,
        "N_HIDDEN": shape.n_hidden,
        "ONE_LAYER": shape.n_layers == 1,
        "OUT": shape.out,
        "ACTIVATION": activation,
        "DROP_OUTSIDE": settings.outside == "empty",
        "GRID": grid,
        "ALONG_RAYS": along_rays,
        "CUT_EVERY": cut_every(shape, tuning) if cuts else 0,
        "HOIST": keeps_weights(shape, precision, tuning),
    }


def group_constexprs(
    shape: DecoderShape,
    group: tuple[int, int],
    activation: str,
    precision: str,
    tuning: Tuning,
    *,
    weight_grad: bool,
) -> dict[str, Any]:
    """Compile-time arguments of `group_backward_kernel` but for the tile."""
    start, end = group
    return {
        **shared_constexprs(shape, precision, tuning),
        "N_SQUARE": end - start,
        "LAST": end - start < cut_every(shape, tuning),
        "OUT": shape.out,
        "ACTIVATION": activation,
        "WIDEN": tuning.widen and precision != "fp32",
        "WEIGHT_GRAD": weight_grad,
    }


def first_constexprs(
    shape: DecoderShape,
    settings: RenderSettings,
    n_levels: int,
    patch: tuple[int, int, int],
    *,
    bias_grad: bool,
    exact: bool,
) -> dict[str, Any]:
    """Compile-time arguments that the windows and the single taps have in common."""
    return {
        "N_LEVELS": n_levels,
        "AXES": pack_axes(settings.axes),
        "WIDTH": shape.width,
        "ONE_LAYER": shape.n_layers == 1,
        "N_OUT": shape.widths[-1],
        "BIAS_GRAD": bias_grad,
        "EXACT": exact,
        "PATCH_W": patch[0],
        "PATCH_H": patch[1],
        "DEPTH": patch[2],
    }


def point_constexprs(
    shape: DecoderShape,
    settings: RenderSettings,
    precision: str,
    tuning: Tuning,
    *,
    n_levels: int,
    along_rays: bool,
) -> dict[str, Any]:
    """Compile-time arguments of `point_backward_kernel` but for the tile."""
    shared = {
        **shared_constexprs(shape, precision, tuning),
        **lookup_constexprs(shape, settings, n_levels),
        "ONE_LAYER": shape.n_layers == 1,
        "ALONG_RAYS": along_rays,
    }
    # No activation is computed there, and a program serves one plane.
    return {name: value for name, value in shared.items() if name not in ("APPROX", "N_PLANES")}


def fold_constexprs(
    shape: DecoderShape,
    settings: RenderSettings,
    precision: str,
    *,
    n_levels: int,
    planes: bool,
    weights: bool,
) -> dict[str, Any]:
    """Compile-time arguments of `fold_backward_kernel` but for the tile."""
    return {
        "C": shape.channels,
        "N_LEVELS": n_levels,
        "BLOCKS": shape.blocks,
        "BLOCK_C": shape.block_c,
        "MEAN": settings.reduction == "mean",
        "WIDTH": shape.width,
        "SCATTER": planes,
        "WEIGHT_GRAD": weights,
        "PRECISION": precision_of(precision),
    }
