"""`render_rays` and `query_points` on the kernels: chunks of rays, and their gradients.

A chunk goes through three steps: the field writes records at its samples, the compositing kernels
turn records into pixels, and for importance sampling both run on the coarse samples before. The
backward pass does the same again, chunk by chunk, instead of storing anything per sample but the
positions that importance sampling chose. Nothing waits for the GPU.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..common.random import seed_tensor
from ..composite import composite_backward, composite_forward
from ..settings import RenderSettings
from ..types import Decoder, RaySamples, Rendering
from .field import Field, FieldPlan, FusedField
from .launch import Samples
from .layered import LayeredField
from .pack import DecoderShape
from .rays import importance_samples, place_samples, ray_range

CHUNK_BYTES = 256 << 20
"""Bound on per-sample buffers: a chunk has as many rays as fit, at least one."""
MAX_SAMPLES = 1 << 30
"""Samples of a chunk are counted in 32 bits."""


@dataclass(frozen=True)
class Call:
    """Everything about a call that is not a tensor."""

    plan: FieldPlan
    activation: str
    n_levels: int
    n_layers: int
    rays_per_object: int
    per_sample: bool = False

    def make_field(
        self, tensors: tuple[Tensor | None, ...], occupancy: Tensor | None, plan: FieldPlan
    ) -> Field:
        """The field of ``levels + weights + biases``."""
        levels = tuple(t for t in tensors[: self.n_levels] if t is not None)
        parameters = tensors[self.n_levels :]
        weights = [t for t in parameters[: self.n_layers] if t is not None]
        decoder = Decoder(weights, parameters[self.n_layers :], self.activation)
        fits = DecoderShape.of(decoder, levels[0].shape[2]).fits(plan.precision)
        return (FusedField if fits else LayeredField)(plan, levels, decoder, occupancy)

    def backward_plan(self, needs: tuple[bool, ...], positions: bool) -> FieldPlan:
        """The plan with the gradients asked for; ``needs`` is that of the field's tensors."""
        planes, decoder = any(needs[: self.n_levels]), any(needs[self.n_levels :])
        return replace(self.plan, planes=planes, decoder=decoder, positions=positions)


def split_rays(
    n_rays: int, n_samples: int, call: Call, field: Field, backward: bool
) -> list[slice]:
    """Chunks of the flat rays; 32 bytes per sample are for positions, intervals and their order."""
    per_ray = n_samples * (field.sample_bytes(backward) + 32)
    step = max(1, min(CHUNK_BYTES // per_ray, MAX_SAMPLES // n_samples))
    if step > 4:  # slices stay 16-byte aligned, else every kernel compiles again for some chunks
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


def make_chunk(
    call: Call, rays_o: Tensor, rays_d: Tensor, part: slice, ts: Tensor | None, seed: Tensor | None
) -> Chunk:
    """The rays ``part`` with coarse samples, or with the given ``ts`` of all rays."""
    settings = call.plan.settings
    rays_o, rays_d = rays_o[part], rays_d[part]
    near, far = ray_range(rays_o, rays_d, settings)
    deltas = None
    if ts is not None:
        ts = ts[part]
    else:
        ts, deltas = place_samples(near, far, settings, seed, part.start)
    if settings.quadrature == "midpoint":
        deltas = None
    chord = far - near if settings.interval == "chord" else None
    samples = Samples(rays_o, rays_d, ts, part.start, call.rays_per_object)
    return Chunk(samples, ts, deltas, chord)


def add_fine_samples(
    chunk: Chunk, field: Field, settings: RenderSettings, seed: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Coarse and fine samples in the order of t: ts (N, S), raw (N, S) and rgb (N, S, K)."""
    raw, rgb, _ = field.records(chunk.samples)
    n_colours = rgb.shape[-1]
    raw, rgb = raw.view(chunk.ts.shape), rgb.view(*chunk.ts.shape, n_colours)
    coarse = composite_forward(raw, rgb, chunk.ts, None, settings, per_sample=True).samples
    assert coarse is not None
    first_ray = chunk.samples.first_ray
    fine = importance_samples(chunk.ts, coarse.weights, settings, seed, first_ray)
    fine_raw, fine_rgb, _ = field.records(chunk.samples._replace(ts=fine))
    ts, order = torch.cat([chunk.ts, fine], 1).sort(dim=1, stable=True)
    raw = torch.cat([raw, fine_raw.view(fine.shape)], 1).gather(1, order)
    rgb = torch.cat([rgb, fine_rgb.view(*fine.shape, n_colours)], 1)
    return ts, raw, rgb.gather(1, order[..., None].expand_as(rgb))


class RenderRays(torch.autograd.Function):
    """Flat rays -> rgb, opacity, depth, and with ``per_sample`` weights, ts, deltas."""

    @staticmethod
    def forward(
        ctx: Any,
        call: Call,
        rays_o: Tensor,  # (N, 3) fp32
        rays_d: Tensor,
        ts: Tensor | None,  # (N, S) fp32
        depth_prior: Tensor | None,  # (N,)
        occupancy: Tensor | None,
        seed: Tensor | None,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        settings = call.plan.settings
        field = call.make_field(tensors, occupancy, call.plan)
        refine = ts is None and settings.n_importance > 0
        n_samples = settings.n_samples + settings.n_importance if ts is None else ts.shape[1]
        parts, positions = [], []
        # An empty chunk gives results of the right shape where there are no rays.
        chunks = split_rays(rays_o.shape[0], n_samples, call, field, False) or [slice(0, 0)]
        for part in chunks:
            chunk = make_chunk(call, rays_o, rays_d, part, ts, seed)
            if refine:
                chunk_ts, raw, rgb = add_fine_samples(chunk, field, settings, seed)
                positions.append(chunk_ts)
            else:
                chunk_ts = chunk.ts
                raw, rgb, _ = field.records(chunk.samples)
            parts.append(
                composite_forward(
                    raw.view(chunk_ts.shape),
                    rgb.view(*chunk_ts.shape, rgb.shape[-1]),
                    chunk_ts,
                    chunk.deltas,
                    settings,
                    None,
                    call.per_sample,
                    chunk.chord,
                )
            )
        rgb, opacity, depth = (torch.cat([part[i] for part in parts]) for i in range(3))
        if refine:
            ts = torch.cat(positions)
        ctx.call = call
        ctx.save_for_backward(
            rays_o, rays_d, ts, depth_prior, occupancy, seed, opacity, depth, *tensors
        )
        ctx.set_materialize_grads(False)
        if not call.per_sample:
            return rgb, opacity, depth
        each = [part.samples for part in parts if part.samples is not None]
        weights, mids, deltas = (torch.cat([samples[i] for samples in each]) for i in range(3))
        ctx.mark_non_differentiable(mids, deltas)
        return rgb, opacity, depth, weights, mids, deltas

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        rays_o, rays_d, ts, depth_prior, occupancy, seed, opacity, depth, *tensors = (
            ctx.saved_tensors
        )
        call: Call = ctx.call
        settings = call.plan.settings
        need_rays = any(ctx.needs_input_grad[1:3])
        plan = call.backward_plan(ctx.needs_input_grad[7:], need_rays)
        field = call.make_field(tuple(tensors), occupancy, plan)
        d_rgb, d_opacity, d_depth = grads[:3]
        d_weights = grads[3] if call.per_sample else None
        d_rays_o = torch.zeros_like(rays_o) if need_rays else None
        d_rays_d = torch.zeros_like(rays_d) if need_rays else None
        n_samples = settings.n_samples if ts is None else ts.shape[1]
        for part in split_rays(rays_o.shape[0], n_samples, call, field, True):
            chunk = make_chunk(call, rays_o, rays_d, part, ts, seed)
            records = field.records(chunk.samples, cuts=True)
            d_raw, d_colours = composite_backward(
                None if d_rgb is None else d_rgb[part],
                None if d_opacity is None else d_opacity[part],
                None if d_depth is None else d_depth[part],
                None if d_weights is None else d_weights[part],
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
            d_points = field.backward(
                chunk.samples, records, d_raw.flatten(), d_colours.flatten(0, 1)
            )
            if d_points is not None and d_rays_o is not None and d_rays_d is not None:
                each = d_points.view(*chunk.ts.shape, 3)
                d_rays_o[part] = each.sum(1)
                d_rays_d[part] = (each * chunk.ts[..., None]).sum(1)
        sums = field.gradients()
        return (
            *(None, d_rays_o, d_rays_d, None, None, None, None),
            *(*sums.levels, *sums.weights, *sums.biases),
        )


class QueryPoints(torch.autograd.Function):
    """Flat points (N, 3) -> raw density (N,), colours (N, K)."""

    @staticmethod
    def forward(
        ctx: Any, call: Call, points: Tensor, *tensors: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        field = call.make_field(tensors, None, call.plan)
        chunks = split_rays(points.shape[0], 1, call, field, False) or [slice(0, 0)]
        parts = [field.records(point_samples(points, part, call)) for part in chunks]
        ctx.call = call
        ctx.save_for_backward(points, *tensors)
        return torch.cat([part.raw for part in parts]), torch.cat([part.rgb for part in parts])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        points, *tensors = ctx.saved_tensors
        call: Call = ctx.call
        plan = call.backward_plan(ctx.needs_input_grad[2:], ctx.needs_input_grad[1])
        field = call.make_field(tuple(tensors), None, plan)
        d_raw, d_rgb = (grad.float().contiguous() for grad in grads)
        d_points = torch.zeros_like(points) if plan.positions else None
        for part in split_rays(points.shape[0], 1, call, field, True):
            samples = point_samples(points, part, call)
            records = field.records(samples, cuts=True)
            gradient = field.backward(samples, records, d_raw[part], d_rgb[part])
            if d_points is not None and gradient is not None:
                d_points[part] = gradient
        sums = field.gradients()
        return None, d_points, *sums.levels, *sums.weights, *sums.biases


def point_samples(points: Tensor, part: slice, call: Call) -> Samples:
    """Points as rays of one sample, at their origin."""
    return Samples(points[part], None, None, part.start, call.rays_per_object)


def make_call(
    levels: tuple[Tensor, ...],
    decoder: Decoder,
    settings: RenderSettings,
    per_object: int,
    *,
    precision: str,
    deterministic: bool | None,
    per_sample: bool = False,
) -> Call:
    """Settle what is left to "auto" while the caller's autocast state is in force."""
    if precision == "auto":
        half = levels[0].dtype == torch.bfloat16
        half = half or torch.is_autocast_enabled(levels[0].device.type)
        precision = "bf16" if half else "tf32"
    if deterministic is None:
        deterministic = torch.are_deterministic_algorithms_enabled()
    plan = FieldPlan(settings, precision, bool(deterministic))
    n_layers = len(decoder.weights)
    return Call(plan, decoder.activation, len(levels), n_layers, per_object, per_sample)


def render_rays_triton(
    levels: tuple[Tensor, ...],
    decoder: Decoder,
    rays_o: Tensor,
    rays_d: Tensor,
    settings: RenderSettings,
    *,
    ts: Tensor | None = None,
    depth_prior: Tensor | None = None,
    occupancy: Tensor | None = None,
    per_sample: bool = False,
    seed: int | Tensor | None = None,
    precision: str = "auto",
    deterministic: bool | None = None,
) -> Rendering:
    """`render_rays_reference` on the kernels: rays (B, N, 3), ts (B, N, S), prior (B, N)."""
    shape = rays_o.shape[:2]
    call = make_call(
        levels,
        decoder,
        settings,
        shape[1],
        precision=precision,
        deterministic=deterministic,
        per_sample=per_sample,
    )
    stratified = settings.stratified and ts is None
    with torch.autocast(rays_o.device.type, enabled=False):
        rgb, opacity, depth, *each = RenderRays.apply(
            call,
            rays_o.reshape(-1, 3).float().contiguous(),
            rays_d.reshape(-1, 3).float().contiguous(),
            None if ts is None else ts.reshape(-1, ts.shape[-1]).float().contiguous(),
            None if depth_prior is None else depth_prior.reshape(-1).float(),
            None if occupancy is None else occupancy.contiguous(),
            seed_tensor(seed, rays_o.device) if stratified else None,
            *levels,
            *decoder.weights,
            *decoder.biases,
        )
    samples = RaySamples(*(x.view(*shape, x.shape[-1]) for x in each)) if each else None
    rgb = rgb.view(*shape, rgb.shape[-1])
    return Rendering(rgb, opacity.view(shape), depth.view(shape), samples)


def query_points_triton(
    levels: tuple[Tensor, ...],
    decoder: Decoder,
    points: Tensor,
    settings: RenderSettings,
    *,
    precision: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`query_points_reference` on the kernels: points (B, N, 3) -> (B, N), (B, N, K)."""
    shape = points.shape[:2]
    call = make_call(levels, decoder, settings, shape[1], precision=precision, deterministic=None)
    with torch.autocast(points.device.type, enabled=False):
        raw, rgb = QueryPoints.apply(
            call,
            points.reshape(-1, 3).float().contiguous(),
            *levels,
            *decoder.weights,
            *decoder.biases,
        )
    return raw.view(shape), rgb.view(*shape, rgb.shape[-1])
