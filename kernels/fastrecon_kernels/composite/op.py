"""`composite`: checks, autograd and the choice of backend."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..common.backend import use_triton
from ..common.checks import check_float, check_same_device, check_settings, compute_dtype
from ..settings import RenderSettings
from ..types import RaySamples, Rendering
from .reference import composite_reference


def check_composite(
    raw_sigmas: Tensor,
    rgbs: Tensor,
    ts: Tensor,
    settings: RenderSettings,
    deltas: Tensor | None,
    depth_prior: Tensor | None,
) -> torch.device:
    """Check the arguments of `composite`; returns their device."""
    check_settings(settings)
    raw_sigmas, rgbs = check_float("raw_sigmas", raw_sigmas), check_float("rgbs", rgbs)
    ts = check_float("ts", ts)
    if raw_sigmas.ndim < 1:
        raise ValueError("raw_sigmas must be (..., S), got a scalar")
    shape = tuple(raw_sigmas.shape)
    if rgbs.ndim != raw_sigmas.ndim + 1 or tuple(rgbs.shape[:-1]) != shape:
        raise ValueError(f"rgbs must be (..., S, K) = {(*shape, 'K')}, got {tuple(rgbs.shape)}")
    if tuple(ts.shape) != shape:
        raise ValueError(f"ts must be (..., S) = {shape}, got {tuple(ts.shape)}")
    n = shape[-1]
    if settings.quadrature == "midpoint":
        if deltas is not None:
            raise ValueError(
                "deltas are given by ts under quadrature='midpoint'; leave deltas=None"
            )
        if n < 2:
            raise ValueError(f"quadrature='midpoint' needs at least 2 samples per ray, got {n}")
    elif deltas is None and n < 2:
        raise ValueError(
            f"deltas=None needs at least 2 samples per ray to place bin edges, got {n}; pass deltas"
        )
    elif deltas is not None and tuple(check_float("deltas", deltas).shape) != shape:
        raise ValueError(f"deltas must be (..., S) = {shape}, got {tuple(deltas.shape)}")
    if (
        depth_prior is not None
        and tuple(check_float("depth_prior", depth_prior).shape) != (shape[:-1])
    ):
        raise ValueError(
            f"depth_prior must be (...) = {shape[:-1]}, got {tuple(depth_prior.shape)}"
        )
    settings.background_colour(rgbs.shape[-1])
    return check_same_device(
        raw_sigmas=raw_sigmas, rgbs=rgbs, ts=ts, deltas=deltas, depth_prior=depth_prior
    )


def unsupported_by_kernels(raw_sigmas: Tensor, rgbs: Tensor, ts: Tensor) -> str | None:
    """Why the Triton kernels cannot serve these records, or None."""
    if compute_dtype(raw_sigmas, rgbs, ts) == torch.float64:
        return "fp64 records need backend='reference' (the kernels compute in fp32)"
    return None


class Composite(torch.autograd.Function):
    """The Triton kernels on flat records, which are all that is kept per sample."""

    @staticmethod
    def forward(
        ctx: Any,
        raw: Tensor,
        rgbs: Tensor,
        ts: Tensor,
        deltas: Tensor | None,
        settings: RenderSettings,
        depth_prior: Tensor | None,
        per_sample: bool,
    ) -> tuple[Tensor, ...]:
        from .launch import composite_forward  # lazily: the package imports without Triton

        out = composite_forward(raw, rgbs, ts, deltas, settings, depth_prior, per_sample)
        ctx.save_for_backward(raw, rgbs, ts, deltas, depth_prior, out.opacity, out.depth)
        ctx.settings = settings
        ctx.set_materialize_grads(False)
        if out.samples is None:
            return out.rgb, out.opacity, out.depth
        ctx.mark_non_differentiable(out.samples.ts, out.samples.deltas)
        return out.rgb, out.opacity, out.depth, *out.samples

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        from .launch import composite_backward

        raw, rgbs, ts, deltas, depth_prior, opacity, depth = ctx.saved_tensors
        d_rgb, d_opacity, d_depth, d_weights = (*grads, None)[:4]
        d_raw, d_rgbs = composite_backward(
            d_rgb,
            d_opacity,
            d_depth,
            d_weights,
            raw,
            rgbs,
            ts,
            deltas,
            ctx.settings,
            opacity,
            depth,
            depth_prior,
        )
        return d_raw, d_rgbs, None, None, None, None, None


def composite_triton(
    raw: Tensor,
    rgbs: Tensor,
    ts: Tensor,
    deltas: Tensor | None,
    settings: RenderSettings,
    depth_prior: Tensor | None,
    per_sample: bool,
) -> Rendering:
    """`composite_reference` on the kernels: any leading shape, differentiable."""
    *shape, n_samples = raw.shape
    n_rays = math.prod(shape)
    rgb, opacity, depth, *samples = Composite.apply(
        raw.reshape(n_rays, n_samples),
        rgbs.reshape(n_rays, n_samples, rgbs.shape[-1]),
        ts.detach().reshape(n_rays, n_samples),
        None if deltas is None else deltas.detach().reshape(n_rays, n_samples),
        settings,
        None if depth_prior is None else depth_prior.detach().reshape(n_rays),
        per_sample,
    )
    return Rendering(
        rgb.reshape(*shape, rgb.shape[-1]),
        opacity.reshape(shape),
        depth.reshape(shape),
        RaySamples(*(x.reshape(*shape, x.shape[-1]) for x in samples)) if samples else None,
    )


def composite(
    raw_sigmas: Tensor,
    rgbs: Tensor,
    ts: Tensor,
    settings: RenderSettings,
    *,
    deltas: Tensor | None = None,
    depth_prior: Tensor | None = None,
    per_sample: bool = False,
    backend: str = "auto",
) -> Rendering:
    """Composite samples along rays, front to back.

    Args:
        raw_sigmas: (..., S) raw density, before shift and activation; -inf is empty;
            differentiable.
        rgbs: (..., S, K) colours after sigmoid and padding; differentiable.
        ts: (..., S) increasing ray parameters; no gradient.
        settings: density activation, quadrature, background and ranges.
        deltas: (..., S) interval lengths in units of t, for bins only; 0 marks gaps and padding.
            None puts bin edges half-way between neighbours.
        depth_prior: (...) known depth of each ray, which turns the depth kernel on: the gradients
            of every sample's alpha and colour are multiplied by k(t, d). NaN: not on that ray.
        per_sample: fill `Rendering.samples` with weights, ts and deltas.
        backend: "auto", "triton" or "reference".

    Returns:
        `Rendering` with rgb (..., K), opacity (...), depth (...); fp32, or fp64 for fp64 input.

    Raises:
        TypeError, ValueError: for wrong types, shapes or devices, saying what to pass.
    """
    device = check_composite(raw_sigmas, rgbs, ts, settings, deltas, depth_prior)
    if use_triton(backend, device, unsupported_by_kernels(raw_sigmas, rgbs, ts)):
        return composite_triton(raw_sigmas, rgbs, ts, deltas, settings, depth_prior, per_sample)
    return composite_reference(raw_sigmas, rgbs, ts, deltas, settings, depth_prior, per_sample)
