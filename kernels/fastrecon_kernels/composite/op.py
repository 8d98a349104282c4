"""`composite`: checks and the choice of backend."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.backend import use_triton
from ..common.checks import check_float, check_same_device, check_settings, compute_dtype
from ..settings import RenderSettings
from ..types import Rendering
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
        from .operator import composite_triton  # lazily: the package imports without Triton

        return composite_triton(raw_sigmas, rgbs, ts, deltas, settings, depth_prior, per_sample)
    return composite_reference(raw_sigmas, rgbs, ts, deltas, settings, depth_prior, per_sample)
