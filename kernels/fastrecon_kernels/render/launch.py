"""Launching the field kernels on flat samples."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor

from ..common.backend import FP_FUSION
from ..common.texels import Texels
from ..settings import RenderSettings
from .device import Divisor
from .kernel import field_kernel
from .kernel_backward import group_backward_kernel
from .launch_first import differentiate_points, scatter_first
from .pack import PackedDecoder
from .tuning import (
    LONG_ROWS,
    Tuning,
    field_constexprs,
    field_options,
    group_constexprs,
    groups,
    n_programs,
    tile_options,
)

MAX_SAMPLES = 1 << 30
"""Of a launch, and so its rays at most: they are counted in 32 bits."""


class Samples(NamedTuple):
    """Samples of some of the rays, or points (``ts`` None: one sample at each origin)."""

    rays_o: Tensor  # (N, 3) fp32
    rays_d: Tensor | None  # (N, 3) fp32
    ts: Tensor | None  # (N, S) fp32
    first_ray: int  # flat index of the first of them
    rays_per_object: int
    picture_width: int = 0  # rays in a row of the pictures that they are of; 0: no known order

    @property
    def per_ray(self) -> int:
        return 1 if self.ts is None else self.ts.shape[1]

    @property
    def count(self) -> int:
        return self.rays_o.shape[0] * self.per_ray

    def divisors(self) -> tuple[int, int, int, int, int, int]:
        """The numbers by which `sample_points` finds a sample's ray and object.

        Rays are counted from the first of the first ray's object; of an object with more rays than
        a chunk may have, from where the next object is as far away as it is.
        """
        first_object, within = divmod(self.first_ray, self.rays_per_object)
        span = min(self.rays_per_object, MAX_SAMPLES)
        lead = span - min(self.rays_per_object - within, span)
        ray, rays = Divisor.of(self.per_ray), Divisor.of(span)
        return ray.multiplier, ray.shift, rays.multiplier, rays.shift, first_object, lead

    def positions(self) -> Tensor:
        """(M, 3) in scene units."""
        if self.ts is None or self.rays_d is None:
            return self.rays_o
        return (self.rays_o[:, None] + self.ts[..., None] * self.rays_d[:, None]).flatten(0, 1)

    def objects(self) -> Tensor:
        """(M,) int64 object of each sample."""
        first, count = self.first_ray, self.rays_o.shape[0]
        rays = torch.arange(first, first + count, device=self.rays_o.device)
        return (rays // self.rays_per_object).repeat_interleave(self.per_ray)


class Records(NamedTuple):
    """What the field gives at samples (M = N * S, flat)."""

    raw: Tensor  # (M,) fp32, -inf where empty
    rgb: Tensor  # (M, K) fp32
    cuts: Tensor | None  # (n_cuts, M, WIDTH) in the type of the matrix products


class Sums(NamedTuple):
    """Gradients that are added up over chunks of samples; None where nobody asks."""

    weights: Tensor | None  # (programs, n_weights without the first layer's) fp32
    biases: Tensor | None  # (programs, n_biases) fp32; 0 for a single layer
    only: Tensor | None  # (3, programs, WIDTH) fp32: the bias of a single layer
    folded: Tensor | None  # (T, WIDTH) fp32: texels behind the first layer's weight


class FieldInputs(NamedTuple):
    """The field's tensors, ready for the kernels."""

    texels: Texels
    decoder: PackedDecoder
    occupancy: Tensor | None  # (B, R, R, R) bool
    sizes: tuple[tuple[int, int], ...]  # height and width of each level
    tuning: Tuning


class Listed(NamedTuple):
    """Some of the samples, by their flat indices; how many is known to the device alone."""

    indices: Tensor  # (at least count,) int32
    count: Tensor  # () int32


def evaluate(
    samples: Samples, inputs: FieldInputs, settings: RenderSettings, precision: str, *, cuts: bool
) -> Records:
    """Raw density and colour of every sample; with ``cuts`` also what the backward pass needs."""
    decoder, shape = inputs.decoder, inputs.decoder.shape
    device, count = samples.rays_o.device, samples.count
    raw = torch.empty(count, dtype=torch.float32, device=device)
    rgb = torch.empty(count, shape.widths[-1] - 1, dtype=torch.float32, device=device)
    kept = None
    if cuts and shape.n_layers > 1:
        size = (len(groups(shape, inputs.tuning)), count, shape.width)
        kept = torch.empty(size, dtype=decoder.weights.dtype, device=device)
    records = Records(raw, rgb, kept)
    if count:
        fill_records(records, samples, inputs, settings, precision)
    return records


def fill_records(
    records: Records,
    samples: Samples,
    inputs: FieldInputs,
    settings: RenderSettings,
    precision: str,
    listed: Listed | None = None,
) -> None:
    """Write the records of all samples, or of the listed ones alone."""
    decoder, shape = inputs.decoder, inputs.decoder.shape
    device, count, occupancy = samples.rays_o.device, samples.count, inputs.occupancy
    tuning, cuts = inputs.tuning, records.cuts is not None
    options = field_options(shape, tuning, cuts=cuts, listed=listed is not None)
    programs = min(
        triton.cdiv(count, options["BLOCK_M"]), n_programs(device, tuning.field_programs)
    )
    with torch.cuda.device_of(records.raw):
        field_kernel[(programs,)](
            samples.rays_o,
            samples.rays_d,
            samples.ts,
            inputs.texels.rows,
            inputs.texels.table,
            None if occupancy is None else occupancy.view(torch.uint8),
            decoder.weights,
            decoder.biases,
            records.raw,
            records.rgb,
            records.cuts,
            None if listed is None else listed.indices,
            None if listed is None else listed.count,
            count,
            *samples.divisors(),
            0 if occupancy is None else occupancy.shape[1],
            float(settings.radius),
            float(settings.rgb_padding),
            **field_constexprs(
                shape,
                settings,
                decoder.activation,
                precision,
                tuning,
                n_levels=inputs.texels.table.shape[0],
                long_rows=inputs.texels.rows.shape[0] >= LONG_ROWS,
                grid=occupancy is not None,
                along_rays=samples.ts is not None,
                cuts=cuts,
            ),
            **options,
            **FP_FUSION,
        )


def differentiate(
    samples: Samples,
    records: Records,
    d_raw: Tensor,
    d_rgb: Tensor,
    inputs: FieldInputs,
    settings: RenderSettings,
    precision: str,
    sums: Sums,
    *,
    need_points: bool,
    exact: bool,
) -> Tensor | None:
    """Backward of `evaluate`; adds to ``sums``, with ``exact`` bitwise the same every time.

    Returns:
        d_points (M, 3), if needed.
    """
    decoder, shape = inputs.decoder, inputs.decoder.shape
    device, count, tuning = d_raw.device, samples.count, inputs.tuning
    if not count:
        return None
    weight_grad = sums.weights is not None
    d_weights = decoder.weights if sums.weights is None else sums.weights
    d_biases = decoder.biases if sums.biases is None else sums.biases
    first = shape.weight_offset(1)
    strides = (shape.n_weights - first, shape.n_biases)
    grad = None
    if records.cuts is not None:
        grad = torch.empty_like(records.cuts[0])
        tile = tile_options(tuning.group)
        programs = n_programs(device, tuning.group_programs)
        grid = (min(triton.cdiv(count, tile["BLOCK_M"]), programs),)
        for cut, group in reversed(list(enumerate(groups(shape, tuning)))):
            offset, bias_offset = shape.weight_offset(group[0] + 1), group[0] * shape.width
            with torch.cuda.device_of(d_raw):
                group_backward_kernel[grid](
                    records.cuts[cut],
                    grad,
                    records.raw,
                    records.rgb,
                    d_raw,
                    d_rgb,
                    decoder.weights[offset:],
                    decoder.biases[0, bias_offset:],
                    d_weights.view(-1)[offset - first :],
                    d_biases.view(-1)[bias_offset:],
                    *strides,
                    count,
                    float(settings.rgb_padding),
                    **group_constexprs(
                        shape,
                        group,
                        decoder.activation,
                        precision,
                        tuning,
                        weight_grad=weight_grad,
                    ),
                    **tile,
                    **FP_FUSION,
                )
    left = (samples, records, grad, d_raw, d_rgb, inputs, settings, precision)
    if sums.folded is not None:
        scatter_first(*left, sums, exact=exact)
    return differentiate_points(*left) if need_points else None
