"""Launching the backward pass of the first layer and the lookup: windows, then single taps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..settings import RenderSettings
from .kernel_backward import first_backward_kernel
from .kernel_windows import window_backward_kernel
from .tuning import first_constexprs, first_programs, tile_options, tuning_of

if TYPE_CHECKING:
    from .launch import FieldInputs, Records, Samples, Sums

MAX_LEVELS = 31
"""Bits of the number in which the windows say what they leave of a sample."""


def differentiate_first(
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
    need_points: bool,
    keep_features: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """As `launch.differentiate`, for the gradient (M, WIDTH) of z_0; None: of a single layer.

    Windows serve samples along rays. What they leave, points, gradients of positions and
    ``keep_features`` go tap by tap.
    """
    shape, device, count = inputs.decoder.shape, d_raw.device, samples.count
    tuning = tuning_of(device, precision)
    n_levels = inputs.texels.table.shape[0]
    weight_grad = sums.first is not None
    scatter = sums.rows is not None and not keep_features
    windows = samples.ts is not None and not keep_features and n_levels <= MAX_LEVELS
    # Products of fp32 without tensor cores spill.
    windows = windows and precision != "fp32" and tuning.window_warps > 0
    windows = windows and (weight_grad or scatter)
    n_rays = samples.rays_o.shape[0]
    columns, lead, patch = n_rays, 0, tuning.line
    if samples.picture_width:
        columns, patch = samples.picture_width, tuning.patch
        lead = samples.first_ray % columns
    programs = first_programs(device)

    def buffer(wanted: bool, dtype: torch.dtype, *size: int) -> Tensor | None:
        return torch.empty(size, dtype=dtype, device=device) if wanted else None

    down = -(-(lead + n_rays) // (columns * patch[1]))
    n_tiles = down * -(-columns // patch[0]) * -(-samples.per_ray // patch[2])
    max_listed = -(-n_tiles // programs)
    rest = (
        buffer(windows, torch.int32, 3, n_tiles, patch[0] * patch[1] * patch[2]),
        buffer(windows, torch.int32, 3, programs, max_listed),
        buffer(windows, torch.int32, 3, programs),
    )
    d_points = buffer(need_points, torch.float32, 3, count, 3)
    d_features = buffer(keep_features, torch.float32, count, shape.blocks * shape.channels)
    inner: list[Any] = [samples.rays_o, samples.rays_d, samples.ts, *inputs.texels]
    inner += [inputs.decoder.weights, grad, records.raw, records.rgb, d_raw, d_rgb, sums.rows]
    outer: list[Any] = [sums.first, *rest, n_rays, samples.per_ray, samples.first_ray]
    outer += [samples.rays_per_object, columns, lead, max_listed]
    outer += [float(settings.radius), float(settings.rgb_padding)]
    constexprs = first_constexprs(
        shape, settings, precision, tuning, n_levels=n_levels, patch=patch
    )

    def launch_taps(**wanted: bool) -> None:
        options = {**constexprs, **wanted, **tile_options(tuning.first)}
        options["ALONG_RAYS"] = samples.ts is not None
        arguments = [*inner, d_features, d_points, *outer]
        first_backward_kernel[(programs, 3)](*arguments, **options)

    with torch.cuda.device_of(d_raw):
        if windows:
            asked = {"WEIGHT_GRAD": weight_grad, "SCATTER": scatter}
            options = {**constexprs, **asked, "num_warps": tuning.window_warps, "num_stages": 1}
            window_backward_kernel[(programs, 3)](*inner, *outer, **options)
            launch_taps(**asked, LISTED=True, KEEP_FEATURES=False, POINT_GRAD=False)
            weight_grad = scatter = False
        if weight_grad or scatter or keep_features or need_points:
            launch_taps(
                LISTED=False,
                WEIGHT_GRAD=weight_grad,
                SCATTER=scatter,
                KEEP_FEATURES=keep_features,
                POINT_GRAD=need_points,
            )
    return None if d_points is None else d_points.sum(0), d_features
