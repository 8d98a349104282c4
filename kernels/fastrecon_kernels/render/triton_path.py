"""`render_rays` and `query_points` on the kernels: chunks of rays, and their gradients.

A chunk goes through three steps: the field writes records at its samples, the compositing kernels
turn records into pixels, and for importance sampling both run on the coarse samples before. The
backward pass does the same again, chunk by chunk, instead of storing anything per sample but the
positions that importance sampling chose. Nothing waits for the GPU, and nothing here knows
autograd: `operators.py` makes operators of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from ..composite import composite_backward, composite_forward
from ..settings import RenderSettings
from ..types import Decoder
from .field import Field, FieldPlan, FusedField
from .importance_kernel import draw_and_order, merge_records
from .launch import MAX_SAMPLES, Samples
from .layered import LayeredField
from .pack import DecoderShape
from .rays import place_samples, ray_range

CHUNK_BYTES = 128 << 20
"""Bound on per-sample buffers: a chunk has as many rays as fit, at least one."""
PLACED_BYTES = 32
"""Of positions, intervals and their order, per sample."""
PICTURE_ROWS = 4
"""Rows of a picture in a tile of the backward pass (`tuning.Tuning.patch`)."""


class FieldTensors(NamedTuple):
    """A field's tensors as an operator gets them."""

    levels: Sequence[Tensor]
    weights: Sequence[Tensor]
    biases: Sequence[Tensor | None]
    occupancy: Tensor | None = None


@dataclass(frozen=True)
class Call:
    """Everything about a call that is not a tensor."""

    plan: FieldPlan
    activation: str
    rays_per_object: int
    per_sample: bool = False

    def make_field(self, tensors: FieldTensors) -> Field:
        levels = tuple(tensors.levels)
        decoder = Decoder(tensors.weights, tensors.biases, self.activation)
        fits = DecoderShape.of(decoder, levels[0].shape[2]).fits(self.plan.precision)
        return (FusedField if fits else LayeredField)(self.plan, levels, decoder, tensors.occupancy)


class Rays(NamedTuple):
    """Flat rays, their number being that of all objects together."""

    rays_o: Tensor  # (N, 3) fp32
    rays_d: Tensor  # (N, 3) fp32
    ts: Tensor | None  # (N, S) fp32
    seed: Tensor | None  # int64 scalar
    picture_width: int = 0  # rays in a row of the pictures that they are of; 0: of none


def split_rays(
    n_rays: int, n_samples: int, call: Call, field: Field, backward: bool, picture_width: int = 0
) -> list[slice]:
    """Chunks of the flat rays.

    Chunks of pictures, ``picture_width`` rays across, end where a row of the backward pass's tiles
    does, if that many rays fit.
    """
    per_ray = n_samples * (field.sample_bytes(backward) + PLACED_BYTES)
    step = max(1, min(CHUNK_BYTES // per_ray, MAX_SAMPLES // n_samples))
    tiles = PICTURE_ROWS * picture_width
    if 0 < tiles <= step:
        step -= step % tiles
    elif step > 4:  # slices stay 16-byte aligned, else every kernel compiles again for some chunks
        step -= step % 4
    span = call.rays_per_object if field.one_object else n_rays
    return [
        slice(start, min(start + step, first + span))
        for first in range(0, n_rays, max(span, 1))
        for start in range(first, first + span, step)
    ]


class Chunk(NamedTuple):
    """Rays of a chunk and where their samples lie."""

    samples: Samples
    ts: Tensor  # (N, S)
    deltas: Tensor | None  # (N, S), for bins that were placed here
    chord: Tensor | None  # (N,) far - near, for chord intervals


def make_chunk(call: Call, rays: Rays, part: slice) -> Chunk:
    """The rays ``part`` with coarse samples, or with the given ts."""
    settings = call.plan.settings
    rays_o, rays_d = rays.rays_o[part], rays.rays_d[part]
    near, far = ray_range(rays_o, rays_d, settings)
    deltas = None
    if rays.ts is not None:
        ts = rays.ts[part]
    else:
        ts, deltas = place_samples(near, far, settings, rays.seed, part.start)
    if settings.quadrature == "midpoint":
        deltas = None
    chord = far - near if settings.interval == "chord" else None
    samples = Samples(rays_o, rays_d, ts, part.start, call.rays_per_object, rays.picture_width)
    return Chunk(samples, ts, deltas, chord)


def add_fine_samples(
    chunk: Chunk, field: Field, settings: RenderSettings, seed: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Coarse and fine samples in the order of t: ts (N, S), raw (N, S) and rgb (N, S, K)."""
    # The coarse samples see less light than all samples together may: early stop is not for them.
    raw, rgb, _ = field.seen_records(chunk.samples, None, None, stop=False)
    n_colours = rgb.shape[-1]
    raw, rgb = raw.view(chunk.ts.shape), rgb.view(*chunk.ts.shape, n_colours)
    coarse = composite_forward(raw, rgb, chunk.ts, None, settings, per_sample=True).samples
    assert coarse is not None
    first_ray = chunk.samples.first_ray
    fine, ts, order = draw_and_order(chunk.ts, coarse.weights, settings, seed, first_ray)
    fine_samples = chunk.samples._replace(ts=fine)
    fine_raw, fine_rgb, _ = field.seen_records(fine_samples, None, None, stop=False)
    fine_raw, fine_rgb = fine_raw.view(fine.shape), fine_rgb.view(*fine.shape, n_colours)
    return ts, *merge_records(order, raw, rgb, fine_raw, fine_rgb)


def join(parts: Sequence[Tensor]) -> Tensor:
    """Chunks in one tensor; a single one is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


def put(whole: Tensor | None, part: slice, values: Tensor, n_rays: int) -> Tensor:
    """Values of a chunk in their place among all rays' (`join` would hold every sample twice)."""
    if values.shape[0] == n_rays:
        return values
    if whole is None:
        whole = values.new_empty(n_rays, *values.shape[1:])
    whole[part] = values
    return whole


class Pixels(NamedTuple):
    """What a call renders."""

    rgb: Tensor  # (N, K)
    opacity: Tensor  # (N,)
    depth: Tensor  # (N,)
    samples: list[Tensor]  # weights, ts, deltas (N, M) with ``per_sample``, else none
    positions: Tensor | None  # (N, S) where importance sampling chose them


def render_chunks(call: Call, rays: Rays, field: Field) -> Pixels:
    """Render all rays."""
    settings = call.plan.settings
    refine = rays.ts is None and settings.n_importance > 0
    n_samples = settings.n_samples + settings.n_importance if rays.ts is None else rays.ts.shape[1]
    n_rays = rays.rays_o.shape[0]
    parts, positions = [], None
    # An empty chunk gives results of the right shape where there are no rays.
    chunks = split_rays(n_rays, n_samples, call, field, False) or [slice(0, 0)]
    for part in chunks:
        chunk = make_chunk(call, rays, part)
        if refine:
            ts, raw, rgb = add_fine_samples(chunk, field, settings, rays.seed)
            positions = put(positions, part, ts, n_rays)
        else:
            ts = chunk.ts
            raw, rgb, _ = field.seen_records(chunk.samples, chunk.deltas, chunk.chord, stop=True)
        parts.append(
            composite_forward(
                raw.view(ts.shape),
                rgb.view(*ts.shape, rgb.shape[-1]),
                ts,
                chunk.deltas,
                settings,
                None,
                call.per_sample,
                chunk.chord,
            )
        )
        del chunk, ts, raw, rgb  # else they live on while the next chunk's are made
    rgb, opacity, depth = (join([part[i] for part in parts]) for i in range(3))
    each = [part.samples for part in parts if part.samples is not None]
    samples = [join(column) for column in zip(*each, strict=True)]
    return Pixels(rgb, opacity, depth, samples, positions)


class PixelGradients(NamedTuple):
    """Gradients of `Pixels`; None is zero."""

    rgb: Tensor | None
    opacity: Tensor | None
    depth: Tensor | None
    weights: Tensor | None

    def of(self, part: slice) -> list[Tensor | None]:
        return [None if grad is None else grad[part] for grad in self]


def differentiate_chunks(
    call: Call,
    rays: Rays,
    field: Field,
    grads: PixelGradients,
    depth_prior: Tensor | None,
    opacity: Tensor,
    depth: Tensor,
) -> tuple[Tensor, Tensor] | None:
    """Backward of `render_chunks`: adds to the field's gradients.

    Args:
        rays: with the positions that the forward pass chose, if it did, as their ts.
        depth_prior: (N,) turns the depth kernel on; NaN: not on that ray.
        opacity, depth: (N,) results of the forward pass.

    Returns:
        d_rays_o and d_rays_d (N, 3), if the field's plan asks for positions.
    """
    settings = call.plan.settings
    d_rays = None
    if call.plan.positions:
        d_rays = torch.zeros_like(rays.rays_o), torch.zeros_like(rays.rays_d)
    n_samples = settings.n_samples if rays.ts is None else rays.ts.shape[1]
    n_rays, width = rays.rays_o.shape[0], rays.picture_width
    for part in split_rays(n_rays, n_samples, call, field, True, width):
        chunk = make_chunk(call, rays, part)
        records = field.records(chunk.samples, cuts=True)
        d_raw, d_colours = composite_backward(
            *grads.of(part),
            records.raw.view(chunk.ts.shape),
            records.rgb.view(*chunk.ts.shape, -1),
            chunk.ts,
            chunk.deltas,
            settings,
            opacity[part],
            depth[part],
            None if depth_prior is None else depth_prior[part],
            chunk.chord,
        )
        d_points = field.backward(chunk.samples, records, d_raw.flatten(), d_colours.flatten(0, 1))
        if d_points is not None and d_rays is not None:
            d_points = d_points.view(*chunk.ts.shape, 3)
            d_rays[0][part] = d_points.sum(1)
            d_rays[1][part] = (d_points * chunk.ts[..., None]).sum(1)
        del chunk, records, d_raw, d_colours, d_points  # as above, and they are most of a chunk
    return d_rays


def query_chunks(call: Call, points: Tensor, field: Field) -> tuple[Tensor, Tensor]:
    """Flat points (N, 3) fp32 -> raw density (N,), colours (N, K)."""
    chunks = split_rays(points.shape[0], 1, call, field, False) or [slice(0, 0)]
    parts = [field.records(point_samples(points, part, call)) for part in chunks]
    return join([part.raw for part in parts]), join([part.rgb for part in parts])


def differentiate_query(
    call: Call, points: Tensor, field: Field, d_raw: Tensor, d_rgb: Tensor
) -> Tensor | None:
    """Backward of `query_chunks`: adds to the field's gradients, returns the points'."""
    d_points = torch.zeros_like(points) if call.plan.positions else None
    for part in split_rays(points.shape[0], 1, call, field, True):
        samples = point_samples(points, part, call)
        records = field.records(samples, cuts=True)
        gradient = field.backward(samples, records, d_raw[part], d_rgb[part])
        if d_points is not None and gradient is not None:
            d_points[part] = gradient
        del records, gradient
    return d_points


def point_samples(points: Tensor, part: slice, call: Call) -> Samples:
    """Points as rays of one sample, at their origin."""
    return Samples(points[part], None, None, part.start, call.rays_per_object)
