"""The operators behind `render_rays` and `query_points` on the kernels.

Their results are lists, since what is rendered and what is differentiated depend on the call. The
backward operators compute the forward pass again, chunk by chunk (see `triton_path.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..common.operators import below_autograd, register, separate
from ..common.random import seed_tensor
from ..common.settings_arguments import unpack_settings
from ..settings import RenderSettings
from ..types import Decoder, RaySamples, Rendering
from .field_arguments import (
    FIELD_SCHEMA,
    FieldArguments,
    FieldLayout,
    field_arguments,
    field_gradients,
    field_gradients_fake,
    spread,
    spread_gradients,
)
from .triton_path import (
    PixelGradients,
    Rays,
    differentiate_chunks,
    differentiate_query,
    query_chunks,
    render_chunks,
)
from .tuned import or_with_defaults

RAYS = "Tensor rays_o, Tensor rays_d, Tensor? ts, Tensor? depth_prior, Tensor? occupancy, "
RAYS += "Tensor? seed"


def flat(x: Tensor) -> Tensor:
    """(B, N, rest) -> (B * N, rest) as the kernels read it."""
    return x.flatten(0, 1).float().contiguous()


# --- rays --------------------------------------------------------------------------------------


@or_with_defaults
def _render(
    rays_o: Tensor,
    rays_d: Tensor,
    ts: Tensor | None,
    depth_prior: Tensor | None,
    occupancy: Tensor | None,
    seed: Tensor | None,
    *rest: Any,
) -> list[Tensor]:
    *packed, per_sample, _ = rest
    arguments = FieldArguments(*packed)
    shape = rays_o.shape[:2]
    call = arguments.call(shape[1], per_sample=per_sample)
    rays = Rays(flat(rays_o), flat(rays_d), None if ts is None else flat(ts), seed)
    cells = None if occupancy is None else occupancy.contiguous()
    with torch.autocast(rays_o.device.type, enabled=False):
        pixels = render_chunks(call, rays, call.make_field(arguments.tensors(cells)))
    results = [pixels.rgb, pixels.opacity, pixels.depth, *pixels.samples]
    if pixels.positions is not None:
        results.append(pixels.positions)
    return [x.unflatten(0, shape) for x in results]


def _render_fake(
    rays_o: Tensor,
    rays_d: Tensor,
    ts: Tensor | None,
    depth_prior: Tensor | None,
    occupancy: Tensor | None,
    seed: Tensor | None,
    *rest: Any,
) -> list[Tensor]:
    *packed, per_sample, _ = rest
    arguments = FieldArguments(*packed)
    settings, shape = arguments.settings, rays_o.shape[:2]
    n_samples = settings.n_samples + settings.n_importance if ts is None else ts.shape[2]
    sizes = [(arguments.weights[-1].shape[0] - 1,), (), ()]
    if per_sample:
        sizes += [(n_samples - 1 if settings.quadrature == "midpoint" else n_samples,)] * 3
    if ts is None and settings.n_importance > 0:
        sizes.append((n_samples,))
    return [rays_o.new_empty((*shape, *size), dtype=torch.float32) for size in sizes]


@or_with_defaults
def _render_backward(
    grads: list[Tensor | None],
    opacity: Tensor,
    depth: Tensor,
    rays_o: Tensor,
    rays_d: Tensor,
    ts: Tensor | None,
    depth_prior: Tensor | None,
    occupancy: Tensor | None,
    seed: Tensor | None,
    *rest: Any,
) -> list[Tensor]:
    *packed, needs, picture_width = rest
    arguments = FieldArguments(*packed)
    call = arguments.call(rays_o.shape[1], needs)
    ts = None if ts is None else flat(ts)
    rays = Rays(flat(rays_o), flat(rays_d), ts, seed, picture_width)
    cells = None if occupancy is None else occupancy.contiguous()
    with torch.autocast(rays_o.device.type, enabled=False):
        field = call.make_field(arguments.tensors(cells))
        d_rays = differentiate_chunks(
            call,
            rays,
            field,
            PixelGradients(*(None if grad is None else flat(grad) for grad in grads)),
            None if depth_prior is None else flat(depth_prior),
            flat(opacity),
            flat(depth),
        )
        results = []
        if d_rays is not None:
            results = [
                grad.view(like.shape).to(like.dtype)
                for grad, like in zip(d_rays, (rays_o, rays_d), strict=True)
            ]
        return results + field_gradients(field, call.plan)


def _render_backward_fake(
    grads: list[Tensor | None],
    opacity: Tensor,
    depth: Tensor,
    rays_o: Tensor,
    rays_d: Tensor,
    ts: Tensor | None,
    depth_prior: Tensor | None,
    occupancy: Tensor | None,
    seed: Tensor | None,
    *rest: Any,
) -> list[Tensor]:
    *packed, needs, _ = rest
    d_rays = [x.new_empty(x.shape) for x in (rays_o, rays_d)] if needs[2] else []
    return d_rays + field_gradients_fake(FieldArguments(*packed), needs)


class RenderRays(torch.autograd.Function):
    """`render` with the field's tensors spread out, as autograd wants them."""

    @staticmethod
    def forward(
        ctx: Any,
        rays_o: Tensor,
        rays_d: Tensor,
        ts: Tensor | None,
        depth_prior: Tensor | None,
        occupancy: Tensor | None,
        seed: Tensor | None,
        layout: FieldLayout,
        per_sample: bool,
        picture_width: int,
        *tensors: Tensor | None,
    ) -> tuple[Tensor, ...]:
        rays = (rays_o, rays_d, ts, depth_prior, occupancy, seed)
        with below_autograd():
            results = render(*rays, *layout.gather(tensors), per_sample, picture_width)
        settings = unpack_settings(*layout.settings)
        if ts is None and settings.n_importance > 0:
            ts = results[-1]
        ctx.layout = layout
        ctx.save_for_backward(*results[1:3], *rays[:2], ts, *rays[3:], *tensors)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(*results[4 if per_sample else 3 :])
        ctx.per_sample, ctx.picture_width = per_sample, picture_width
        return tuple(results)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        rays, tensors = ctx.saved_tensors[:8], ctx.saved_tensors[8:]
        arguments = ctx.layout.gather(tensors)
        needs = ctx.layout.needs(ctx.needs_input_grad[9:], any(ctx.needs_input_grad[:2]))
        pixels = [*grads[:3], grads[3] if ctx.per_sample else None]
        gradients = render_backward(pixels, *rays, *arguments, needs, ctx.picture_width)
        d_rays = [None, None]
        if needs[2]:
            d_rays, gradients = gradients[:2], gradients[2:]
        return *d_rays, *[None] * 7, *spread_gradients(gradients, arguments, needs)


def _render_differentiate(*all_arguments: Any) -> list[Tensor]:
    rays, packed, rest = all_arguments[:6], all_arguments[6:-2], all_arguments[-2:]
    layout, tensors = spread(FieldArguments(*packed))
    results: Any = RenderRays.apply(*rays, layout, *rest, *tensors)
    return list(results)


render = register(
    f"render_rays({RAYS}, {FIELD_SCHEMA}, bool per_sample, SymInt picture_width) -> Tensor[]",
    _render,
    _render_fake,
    _render_differentiate,
)
render_backward = register(
    f"render_rays_backward(Tensor?[] grads, Tensor opacity, Tensor depth, {RAYS}, {FIELD_SCHEMA}, "
    "bool[] needs, SymInt picture_width) -> Tensor[]",
    _render_backward,
    _render_backward_fake,
)


# --- points ------------------------------------------------------------------------------------


@or_with_defaults
def _query(points: Tensor, *packed: Any) -> tuple[Tensor, Tensor]:
    arguments = FieldArguments(*packed)
    shape = points.shape[:2]
    call = arguments.call(shape[1])
    with torch.autocast(points.device.type, enabled=False):
        results = query_chunks(call, flat(points), call.make_field(arguments.tensors()))
    raw, rgb = (x.contiguous() for x in separate(results))
    return raw.view(shape), rgb.view(*shape, rgb.shape[-1])


def _query_fake(points: Tensor, *packed: Any) -> tuple[Tensor, Tensor]:
    n_colours = FieldArguments(*packed).weights[-1].shape[0] - 1
    shape = points.shape[:2]
    raw = points.new_empty(shape, dtype=torch.float32)
    return raw, points.new_empty((*shape, n_colours), dtype=torch.float32)


@or_with_defaults
def _query_backward(d_raw: Tensor, d_rgb: Tensor, points: Tensor, *rest: Any) -> list[Tensor]:
    *packed, needs = rest
    arguments = FieldArguments(*packed)
    call = arguments.call(points.shape[1], needs)
    with torch.autocast(points.device.type, enabled=False):
        field = call.make_field(arguments.tensors())
        d_points = differentiate_query(call, flat(points), field, flat(d_raw), flat(d_rgb))
        results = [] if d_points is None else [d_points.view(points.shape).to(points.dtype)]
        return results + field_gradients(field, call.plan)


def _query_backward_fake(d_raw: Tensor, d_rgb: Tensor, points: Tensor, *rest: Any) -> list[Tensor]:
    *packed, needs = rest
    d_points = [points.new_empty(points.shape)] if needs[2] else []
    return d_points + field_gradients_fake(FieldArguments(*packed), needs)


class QueryPoints(torch.autograd.Function):
    """`query` with the field's tensors spread out, as autograd wants them."""

    @staticmethod
    def forward(
        ctx: Any, points: Tensor, layout: FieldLayout, *tensors: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        ctx.layout = layout
        ctx.save_for_backward(points, *tensors)
        with below_autograd():
            return query(points, *layout.gather(tensors))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        points, *tensors = ctx.saved_tensors
        arguments = ctx.layout.gather(tensors)
        needs = ctx.layout.needs(ctx.needs_input_grad[2:], ctx.needs_input_grad[0])
        gradients = query_backward(*grads, points, *arguments, needs)
        d_points = None
        if needs[2]:
            d_points, *gradients = gradients
        return d_points, None, *spread_gradients(gradients, arguments, needs)


def _query_differentiate(points: Tensor, *packed: Any) -> tuple[Tensor, Tensor]:
    layout, tensors = spread(FieldArguments(*packed))
    results: Any = QueryPoints.apply(points, layout, *tensors)
    return results


query = register(
    f"query_points(Tensor points, {FIELD_SCHEMA}) -> (Tensor, Tensor)",
    _query,
    _query_fake,
    _query_differentiate,
)
query_backward = register(
    f"query_points_backward(Tensor d_raw, Tensor d_rgb, Tensor points, {FIELD_SCHEMA}, "
    "bool[] needs) -> Tensor[]",
    _query_backward,
    _query_backward_fake,
)


# --- calls -------------------------------------------------------------------------------------


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
    picture_width: int = 0,
) -> Rendering:
    """`render_rays_reference` on the kernels: rays (B, N, 3), ts (B, N, S), prior (B, N).

    ``picture_width``: rays in a row of the pictures that they are of; 0 if they are of none.
    """
    stratified = settings.stratified and ts is None
    rgb, opacity, depth, *each = render(
        rays_o,
        rays_d,
        ts,
        depth_prior,
        occupancy,
        seed_tensor(seed, rays_o.device) if stratified else None,
        *field_arguments(levels, decoder, settings, precision, deterministic),
        per_sample,
        picture_width,
    )
    return Rendering(rgb, opacity, depth, RaySamples(*each[:3]) if per_sample else None)


def query_points_triton(
    levels: tuple[Tensor, ...],
    decoder: Decoder,
    points: Tensor,
    settings: RenderSettings,
    *,
    precision: str = "auto",
) -> tuple[Tensor, Tensor]:
    """`query_points_reference` on the kernels: points (B, N, 3) -> (B, N), (B, N, K)."""
    return query(points, *field_arguments(levels, decoder, settings, precision, None))
