"""Launching the backward pass of the first layer and the lookup: windows, then single taps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..common.backend import FP_FUSION
from ..settings import RenderSettings
from .exact_sums import ExactSums
from .kernel_fold import fold_backward_kernel
from .kernel_taps import point_backward_kernel, tap_backward_kernel
from .kernel_windows import window_backward_kernel
from .tuning import (
    first_constexprs,
    first_programs,
    fold_constexprs,
    point_constexprs,
    precision_of,
    tile_options,
)

if TYPE_CHECKING:
    from .launch import FieldInputs, Records, Samples, Sums

MAX_LEVELS = 31
"""Bits of the number in which the windows say what they leave of a sample."""


def scatter_first(
    samples: Samples,
    records: Records,
    grad: Tensor | None,
    d_raw: Tensor,
    d_rgb: Tensor,
    inputs: FieldInputs,
    settings: RenderSettings,
    precision: str,
    sums: Sums,
    *,
    exact: bool,
) -> None:
    """Add the gradient (M, WIDTH) of z_0 (None: of a single layer) to the folded texels'.

    Windows serve samples along rays; what they leave, and points, go tap by tap. With ``exact`` all
    of it is added in whole numbers, which have the same sum in any order.
    """
    assert sums.folded is not None
    shape, device, tuning = inputs.decoder.shape, d_raw.device, inputs.tuning
    n_levels = inputs.texels.table.shape[0]
    windows = samples.ts is not None and n_levels <= MAX_LEVELS and tuning.window_warps > 0
    n_rays = samples.rays_o.shape[0]
    columns, lead, patch = n_rays, 0, tuning.line
    if samples.picture_width:
        columns, patch = samples.picture_width, tuning.patch
        lead = samples.first_ray % columns
    programs = first_programs(device)

    def buffer(*size: int) -> Tensor | None:
        return torch.empty(size, dtype=torch.int32, device=device) if windows else None

    down = -(-(lead + n_rays) // (columns * patch[1]))
    n_tiles = down * -(-columns // patch[0]) * -(-samples.per_ray // patch[2])
    max_listed = -(-n_tiles // programs)
    rest = (
        buffer(3, n_tiles, patch[0] * patch[1] * patch[2]),
        buffer(3, programs, max_listed),
        buffer(3, programs),
    )
    table, first_ray, folded, unit = inputs.texels.table, samples.first_ray, sums.folded, None
    whole = None
    if exact:
        bound = (d_raw, d_rgb) if grad is None else (grad,)
        gain = max(1.0, abs(1 + 2 * settings.rgb_padding) / 4)  # of a single layer's sigmoid
        whole = ExactSums(inputs.sizes, samples, bound, shape.width, gain)
        table, folded, unit = whole.table, whole.sums, whole.unit
        first_ray -= whole.first_object * samples.rays_per_object
    arguments: list[Any] = [samples.rays_o, samples.rays_d, samples.ts, table, grad]
    arguments += [records.raw, records.rgb, d_raw, d_rgb, folded, unit, sums.only, *rest]
    arguments += [n_rays, samples.per_ray, first_ray, samples.rays_per_object]
    arguments += [columns, lead, max_listed, float(settings.radius), float(settings.rgb_padding)]
    constexprs = first_constexprs(
        shape, settings, n_levels, patch, bias_grad=sums.only is not None, exact=exact
    )
    taps = {**constexprs, **tile_options(tuning.taps), "LISTED": windows}
    taps["ALONG_RAYS"] = samples.ts is not None
    with torch.cuda.device_of(d_raw):
        if windows:
            options = {**constexprs, "PRECISION": precision_of(precision, split=True)}
            options |= {"num_warps": tuning.window_warps, "num_stages": 1}
            window_backward_kernel[(programs, 3)](*arguments, **options, **FP_FUSION)
            taps["BIAS_GRAD"] = False
        tap_backward_kernel[(programs, 3)](*arguments, **taps, **FP_FUSION)
    if whole is not None:
        whole.add_to(sums.folded, inputs.sizes)


def differentiate_points(
    samples: Samples,
    records: Records,
    grad: Tensor | None,
    d_raw: Tensor,
    d_rgb: Tensor,
    inputs: FieldInputs,
    settings: RenderSettings,
    precision: str,
) -> Tensor:
    """Gradient (M, 3) of the positions, in scene units, from that of z_0, as `scatter_first`."""
    device, count, shape = d_raw.device, samples.count, inputs.decoder.shape
    d_points = torch.empty(3, count, 3, dtype=torch.float32, device=device)
    with torch.cuda.device_of(d_raw):
        point_backward_kernel[(first_programs(device), 3)](
            samples.rays_o,
            samples.rays_d,
            samples.ts,
            *inputs.texels,
            inputs.decoder.weights,
            grad,
            records.raw,
            records.rgb,
            d_raw,
            d_rgb,
            d_points,
            samples.rays_o.shape[0],
            samples.per_ray,
            samples.first_ray,
            samples.rays_per_object,
            float(settings.radius),
            float(settings.rgb_padding),
            **point_constexprs(
                shape,
                settings,
                precision,
                inputs.tuning,
                n_levels=inputs.texels.table.shape[0],
                along_rays=samples.ts is not None,
            ),
            **tile_options(inputs.tuning.points),
            **FP_FUSION,
        )
    return d_points.sum(0)


def unfold_gradient(
    d_folded: Tensor,
    inputs: FieldInputs,
    settings: RenderSettings,
    precision: str,
    *,
    planes: bool,
    weights: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """From the gradient (T, WIDTH) of the folded texels to those of what they are folded of.

    It may be overwritten.

    Returns:
        d_rows (T, C) fp32 for ``planes``, and for ``weights`` that of W_0 as its packed matrices
        (BLOCKS * BLOCK_C * WIDTH,) fp32.
    """
    shape, device, n_rows = inputs.decoder.shape, d_folded.device, d_folded.shape[0]
    d_rows = None
    if planes:  # where rows are as long, those of the one become those of the other
        same = shape.channels == shape.width
        d_rows = d_folded if same else d_folded.new_empty(n_rows, shape.channels)
    programs = first_programs(device)
    size = shape.block_c * shape.width
    sums = d_folded.new_empty(3, programs, size) if weights else None
    n_objects = n_rows // sum(3 * h * w for h, w in inputs.sizes)
    with torch.cuda.device_of(d_folded):
        fold_backward_kernel[(programs, 3)](
            d_folded,
            *inputs.texels,
            inputs.decoder.weights,
            d_rows,
            sums,
            n_objects,
            **fold_constexprs(
                shape,
                settings,
                precision,
                n_levels=len(inputs.sizes),
                planes=planes,
                weights=weights,
            ),
            **tile_options(inputs.tuning.fold),
            **FP_FUSION,
        )
    if sums is None:
        return d_rows, None
    by_plane = sums.sum(1)
    return d_rows, by_plane.flatten() if shape.blocks == 3 else by_plane.sum(0)
