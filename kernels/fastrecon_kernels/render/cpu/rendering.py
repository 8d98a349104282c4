"""`render_rays` on a CPU: groups of rays, kept for the backward pass or computed again in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...common.random import seed_tensor
from ...settings import RenderSettings
from ...types import Decoder, RaySamples, Rendering
from ..reference import render_rays_reference
from .call import Call, Shape, differentiable_gradients
from .field import Field, Wanted
from .march import Cotangents, Placed, Rays, march, march_backward, place

PLACED_AT_ONCE = 1 << 20
"""Samples that are placed in one go if there are no more, for all objects of a call."""
KEPT_BYTES = 64 << 20
"""Memory of a call for what its backward pass would otherwise compute again."""


class Request(NamedTuple):
    """The arguments of one call that carry no gradient."""

    settings: RenderSettings
    ts: Tensor | None  # (B, N, S)
    depth_prior: Tensor | None  # (B, N)
    occupancy: Tensor | None  # (B, R, R, R)
    per_sample: bool
    seed: Tensor | None
    half: bool  # the decoder in bf16
    shape: Shape

    @property
    def n_samples(self) -> int:
        """Field evaluations per ray."""
        if self.ts is not None:
            return self.ts.shape[-1]
        return self.settings.n_samples + self.settings.n_importance


def render_rays_cpu(
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
    half: bool = False,
) -> Rendering:
    """Render rays (B, N, 3); the arguments of `render_rays_reference`, in one dtype.

    ``half`` computes the decoder's layers in bf16, save the first one where it is folded.
    """
    key = seed_tensor(seed, rays_o.device) if settings.stratified and ts is None else None
    shape = Shape.of(levels, decoder)
    request = Request(settings, ts, depth_prior, occupancy, per_sample, key, half, shape)
    tensors = (rays_o, rays_d, *levels, *decoder.parameters)
    wanted = [torch.is_grad_enabled() and x.requires_grad for x in tensors]
    rgb, opacity, depth, *samples = RenderRays.apply(request, wanted, *tensors)
    return Rendering(rgb, opacity, depth, RaySamples(*samples) if samples else None)


class Walk:
    """One pass over all rays of a call, in groups that fit into memory."""

    def __init__(
        self, request: Request, inputs: tuple[Tensor, ...], wanted: Wanted, keep: bool
    ) -> None:
        self.request, self.keep = request, keep
        self.rays_o, self.rays_d, *tensors = (x.detach() for x in inputs)
        self.batch, self.n_rays = self.rays_o.shape[:2]
        levels, decoder = request.shape.unpack(tuple(tensors))
        self.call = Call(
            levels,
            decoder,
            request.settings,
            request.occupancy,
            self.n_rays * request.n_samples,
            wanted,
            request.half,
        )

    def groups(self) -> Iterator[tuple[int, slice, Field, Rays]]:
        """Object, its rays, its field and where to sample; sums up gradients after each object."""
        request = self.request
        step = max(1, self.call.group_points(self.keep) // request.n_samples)
        origins, directions = self.rays_o.flatten(0, 1), self.rays_d.flatten(0, 1)
        placed = None
        if len(origins) * request.n_samples <= PLACED_AT_ONCE:
            placed = self._place(slice(0, len(origins)), origins, directions)
        for b in range(self.batch):
            field = self.call.field(b)
            for start in range(0, self.n_rays, step):
                part = slice(start, min(start + step, self.n_rays))
                rows = slice(b * self.n_rays + start, b * self.n_rays + part.stop)
                rays = Rays(
                    origins[rows],
                    directions[rows],
                    self._place(rows, origins, directions) if placed is None else placed.of(rows),
                    refine=request.ts is None and request.settings.n_importance > 0,
                    depth_prior=None
                    if request.depth_prior is None
                    else request.depth_prior[b, part],
                    seed=request.seed,
                    first=rows.start,
                )
                yield b, part, field, rays
            self.call.finish(b, field)

    def _place(self, rows: slice, origins: Tensor, directions: Tensor) -> Placed:
        """Samples of some of all rays (B N, 3)."""
        ts = None if self.request.ts is None else self.request.ts.flatten(0, 1)[rows]
        settings, seed = self.request.settings, self.request.seed
        return place(origins[rows], directions[rows], settings, ts, seed, rows.start)


class RenderRays(torch.autograd.Function):
    """Rays (B, N, 3), levels, decoder tensors -> rgb, opacity, depth, and samples if asked."""

    @staticmethod
    def forward(
        ctx: Any, request: Request, needed: list[bool], *inputs: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(*inputs)
        ctx.request, ctx.kept = request, {}
        ctx.set_materialize_grads(False)
        walk = Walk(request, inputs, Wanted(), any(needed))
        batch, n_rays = walk.batch, walk.n_rays
        like = inputs[0]
        n_weights = request.n_samples - (request.settings.quadrature == "midpoint")
        rgb = like.new_empty(batch, n_rays, walk.call.decoder.n_colours)
        opacity, depth = like.new_empty(2, batch, n_rays).unbind()
        samples = ()
        if request.per_sample:
            samples = like.new_empty(3, batch, n_rays, n_weights).unbind()
            ctx.mark_non_differentiable(*samples[1:])
        budget = KEPT_BYTES if any(needed) else 0
        for b, part, field, rays in walk.groups():
            budget -= (part.stop - part.start) * request.n_samples * walk.call.kept_bytes
            marched = march(field, rays, keep=budget > 0)
            if budget > 0:
                ctx.kept[b, part.start] = marched
            shaded = marched.shaded
            rgb[b, part] = shaded.rgb.t()
            opacity[b, part], depth[b, part] = shaded.opacity, shaded.depth
            for out, value in zip(samples, shaded.at, strict=False):
                out[b, part] = value
        return rgb, opacity, depth, *samples

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        request: Request = ctx.request
        needed, inputs = ctx.needs_input_grad[2:], ctx.saved_tensors
        with torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled():
                return None, None, *_differentiable(request, inputs, needed, grads)
            wanted = request.shape.wanted(any(needed[:2]), needed[2:])
            walk = Walk(request, inputs, wanted, True)
            d_rays = torch.zeros(2, *walk.rays_o.shape, dtype=walk.rays_o.dtype)
            for b, part, field, rays in walk.groups():
                marched = ctx.kept.pop((b, part.start), None)
                if marched is None:
                    marched = march(field, rays, keep=True)
                cotangents = Cotangents(
                    *(None if g is None else g[b, part] for g in (*grads, None)[:4])
                )
                found = march_backward(field, rays, marched, cotangents)
                if found is not None:
                    d_rays[0, b, part], d_rays[1, b, part] = found[0].t(), found[1].t()
        return None, None, *d_rays, *walk.call.gradients()


def _differentiable(
    request: Request,
    inputs: tuple[Tensor, ...],
    needed: tuple[bool, ...],
    grads: tuple[Tensor | None, ...],
) -> Iterator[Tensor | None]:
    """The same gradients through the reference, for a backward pass that is differentiated."""
    rays_o, rays_d, *tensors = inputs
    levels, decoder = request.shape.unpack(tuple(tensors))
    rendering = render_rays_reference(
        levels,
        decoder,
        rays_o,
        rays_d,
        request.settings,
        ts=request.ts,
        depth_prior=request.depth_prior,
        occupancy=request.occupancy,
        per_sample=request.per_sample,
        seed=request.seed,
    )
    outputs = [rendering.rgb, rendering.opacity, rendering.depth]
    if rendering.samples is not None:
        outputs.append(rendering.samples.weights)
    return differentiable_gradients(outputs, grads, inputs, needed)
