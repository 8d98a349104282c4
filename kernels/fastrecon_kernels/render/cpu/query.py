"""`query_points` on a CPU: blocks of points, computed again in the backward pass."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...settings import RenderSettings
from ...types import Decoder
from ..reference import query_points_reference
from .call import Call, Shape, differentiable_gradients
from .field import Wanted


class Request(NamedTuple):
    """The arguments of one call that carry no gradient."""

    settings: RenderSettings
    shape: Shape
    half: bool  # the decoder in bf16


def query_points_cpu(
    levels: tuple[Tensor, ...],
    decoder: Decoder,
    points: Tensor,
    settings: RenderSettings,
    *,
    half: bool = False,
) -> tuple[Tensor, Tensor]:
    """Raw density (B, N) and colours (B, N, K) at points (B, N, 3) in scene units, in one dtype."""
    request = Request(settings, Shape.of(levels, decoder), half)
    raw, rgb = QueryPoints.apply(request, points, *levels, *decoder.parameters)
    return raw, rgb


def _call(request: Request, points: Tensor, tensors: tuple[Tensor, ...], wanted: Wanted) -> Call:
    levels, decoder = request.shape.unpack(tuple(x.detach() for x in tensors))
    return Call(levels, decoder, request.settings, None, points.shape[1], wanted, request.half)


def _groups(call: Call, n_points: int, keep: bool) -> Iterator[slice]:
    step = call.group_points(keep)
    return (slice(start, start + step) for start in range(0, n_points, step))


class QueryPoints(torch.autograd.Function):
    """Points (B, N, 3), levels and decoder tensors -> raw density (B, N) and colours (B, N, K)."""

    @staticmethod
    def forward(
        ctx: Any, request: Request, points: Tensor, *tensors: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(points, *tensors)
        ctx.request = request
        ctx.set_materialize_grads(False)
        call = _call(request, points, tensors, Wanted())
        raw = points.new_empty(points.shape[:2])
        rgb = points.new_empty(*points.shape[:2], call.decoder.n_colours)
        for b in range(points.shape[0]):
            field = call.field(b)
            for part in _groups(call, points.shape[1], keep=False):
                outputs, _ = field.look(_unit(points[b, part], request), None, keep=False)
                raw[b, part], rgb[b, part] = outputs[0], outputs[1:].t()
        return raw, rgb

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        points, *tensors = ctx.saved_tensors
        request: Request = ctx.request
        needed = ctx.needs_input_grad[1:]
        with torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled():
                return None, *_differentiable(request, ctx.saved_tensors, needed, grads)
            wanted = request.shape.wanted(needed[0], needed[1:])
            call = _call(request, points, tuple(tensors), wanted)
            d_points = torch.zeros_like(points)
            for b in range(points.shape[0]):
                field = call.field(b)
                for part in _groups(call, points.shape[1], keep=True):
                    outputs, looked = field.look(_unit(points[b, part], request), None, keep=True)
                    d_outputs = torch.zeros_like(outputs)
                    if grads[0] is not None:
                        d_outputs[0] = grads[0][b, part]
                    if grads[1] is not None:
                        d_outputs[1:] = grads[1][b, part].t()
                    d_unit = field.look_backward(looked, d_outputs)
                    if d_unit is not None:
                        d_points[b, part] = d_unit.t() / request.settings.radius
                call.finish(b, field)
        return None, d_points, *call.gradients()


def _unit(points: Tensor, request: Request) -> Tensor:
    """Points (N, 3) as (3, N) with the box at [-1, 1]."""
    return (points / request.settings.radius).t().contiguous()


def _differentiable(
    request: Request,
    inputs: tuple[Tensor, ...],
    needed: tuple[bool, ...],
    grads: tuple[Tensor | None, ...],
) -> Iterator[Tensor | None]:
    """The same gradients through the reference, for a backward pass that is differentiated."""
    points, *tensors = inputs
    levels, decoder = request.shape.unpack(tuple(tensors))
    outputs = query_points_reference(levels, decoder, points, request.settings)
    return differentiable_gradients(outputs, grads, inputs, needed)
