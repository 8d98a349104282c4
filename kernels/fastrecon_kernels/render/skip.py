"""The decoder for those samples alone that can be seen, without the host knowing how many they are.

`select_kernel` lists them and the field kernel reads the list. An occupancy grid needs one list for
all samples; early stop goes from front to back in segments, each ray as long as light passes.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import triton
from torch import Tensor

from ..common.backend import FP_FUSION
from ..settings import RenderSettings
from .launch import FieldInputs, Listed, Records, Samples, fill_records
from .skip_kernel import select_kernel

SEGMENT = 32
"""Samples of a ray between two looks at what light is left."""
BLOCK_R = 16
"""Rays of a program, so that a thread of four warps looks at four samples."""
STOP_MARGIN = 0.5
"""Share of `early_stop` at which a ray ends here: rounding must not stop a ray that compositing,
which adds up in another order, keeps."""


def seen_records(
    samples: Samples,
    deltas: Tensor | None,
    chord: Tensor | None,
    inputs: FieldInputs,
    settings: RenderSettings,
    precision: str,
    *,
    stop: bool,
) -> Records:
    """Records as `evaluate` gives them; empty (-inf, colour 0) what the grid or early stop skips.

    Args:
        samples: along rays, in increasing order where ``stop`` is asked for.
        deltas, chord: intervals as `composite_forward` takes them.
        stop: leave out what lies behind `early_stop`; else the grid alone decides.
    """
    assert samples.ts is not None
    assert samples.rays_d is not None
    (n_rays, n_samples), device = samples.ts.shape, samples.ts.device
    colours = inputs.decoder.shape.widths[-1] - 1
    raw = torch.empty(samples.count, dtype=torch.float32, device=device)
    rgb = torch.zeros(samples.count, colours, dtype=torch.float32, device=device)
    records = Records(raw, rgb, None)
    if not samples.count:
        return records
    stop = stop and settings.early_stop > 0
    step, segments = (SEGMENT, 1) if stop else (n_samples, triton.cdiv(n_samples, SEGMENT))
    starts = range(0, n_samples, step)
    indices = torch.empty(n_rays * min(step, n_samples), dtype=torch.int32, device=device)
    # Four numbers apart, as kernels compile again for pointers that are not multiples of 16 bytes.
    counts = torch.zeros(len(starts), 4, dtype=torch.int32, device=device)
    optical = torch.zeros(n_rays if stop else 1, dtype=torch.float32, device=device)
    occupancy = inputs.occupancy
    constexprs: dict[str, Any] = {
        "STOP": stop,
        "ACTIVATION": settings.density_activation,
        "MIDPOINT": settings.quadrature == "midpoint",
        "DROP_OUTSIDE": settings.outside == "empty",
        "GRID": occupancy is not None,
        "BLOCK_R": BLOCK_R,
        "SEGMENT": SEGMENT,
    }
    for count, start in zip(counts, starts, strict=True):
        with torch.cuda.device_of(raw):
            select_kernel[(triton.cdiv(n_rays, BLOCK_R), segments)](
                samples.rays_o,
                samples.rays_d,
                samples.ts,
                deltas,
                chord,
                None if occupancy is None else occupancy.view(torch.uint8),
                raw,
                optical,
                indices,
                count,
                n_rays,
                n_samples,
                start,
                samples.first_ray,
                samples.rays_per_object,
                0 if occupancy is None else occupancy.shape[1],
                float(settings.radius),
                float(settings.density_shift),
                float(settings.density_scale),
                -math.log(settings.early_stop * STOP_MARGIN) if stop else math.inf,
                **constexprs,
                **FP_FUSION,
            )
        fill_records(records, samples, inputs, settings, precision, Listed(indices, count))
    return records
