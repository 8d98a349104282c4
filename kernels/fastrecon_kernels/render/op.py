"""`render_rays` and `query_points`: checks and the choice of backend."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..common.backend import double_unsupported, use_triton
from ..common.checks import (
    check_float,
    check_levels,
    check_points,
    check_same_device,
    check_settings,
    compute_dtype,
    feature_width,
)
from ..composite import activate_density
from ..settings import RenderSettings, check_choice
from ..types import Decoder, RaySamples, Rendering
from .cpu import query_points_cpu, render_rays_cpu
from .rays import check_rays
from .reference import query_points_reference, render_rays_reference

PRECISIONS = ("auto", "bf16", "tf32", "fp32")
LEAST_ROWS = 16
"""Rays (B, ..., H, W) with fewer rows H may be single rays of some views as well as a picture."""


def check_field(
    planes: Tensor | Sequence[Tensor], decoder: Decoder, settings: RenderSettings, precision: str
) -> tuple[Tensor, ...]:
    """Check planes and decoder against each other; returns the levels."""
    levels = check_levels((planes,) if isinstance(planes, Tensor) else planes)
    if not isinstance(decoder, Decoder):
        raise TypeError(
            f"decoder must be a fastrecon_kernels.Decoder, got {type(decoder).__name__}; "
            "Decoder.from_mlp(mlp) reads an nn.Sequential"
        )
    check_settings(settings)
    for i, parameter in enumerate(decoder.parameters):
        check_float(f"decoder tensor {i}", parameter)
    channels = levels[0].shape[2]
    width = feature_width(channels, settings.reduction)
    if decoder.n_features != width:
        raise ValueError(
            f"planes with {channels} channels under reduction={settings.reduction!r} give {width} "
            f"features, but the decoder reads {decoder.n_features}"
        )
    named = {f"decoder tensor {i}": parameter for i, parameter in enumerate(decoder.parameters)}
    check_same_device(planes=levels[0], **named)
    settings.background_colour(decoder.n_colours)
    check_choice("precision", precision, PRECISIONS)
    return levels


def render_rays(
    planes: Tensor | Sequence[Tensor],
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
    backend: str = "auto",
) -> Rendering:
    """Render rays through triplanes: sample, decode, composite.

    Gradients reach planes, decoder and rays; sample positions carry none, rays get theirs through
    ``o + t d``. Nothing per sample is kept for the backward pass, but for at most 64 MiB on a CPU.

    Args:
        planes: (B, 3, C, H, W), or a sequence of levels whose features are summed.
        decoder: MLP from a feature to raw density and K colours.
        rays_o, rays_d: (B, ..., 3); directions need not have unit length, t is in units of them.
            Shape rays of pictures (B, ..., H, W, 3): on a GPU neighbours add to the planes
            together. Rays in no order are best given as (B, N, 3).
        settings: everything that is not a tensor.
        ts: (B, ..., S) increasing; replaces placement and importance sampling.
        depth_prior: (B, ...) known depth, which turns the depth kernel on; NaN: not on that ray.
        occupancy: (B, R, R, R) bool from `build_occupancy`; false cells count as empty.
        per_sample: fill `Rendering.samples`.
        seed: int or integer tensor for stratified sampling; None follows torch's generator.
        precision: of the kernels' matrix products, "auto", "bf16", "tf32" or "fp32"; "auto" is
            bf16 for bf16 planes or under autocast, else tf32. The reference computes in the
            inputs' dtype, at least fp32; on a CPU "bf16" runs the decoder alone in bf16 (but not
            its first layer where that is applied to the texels).
        deterministic: bitwise repeatable gradients; None follows torch's global flag. On the
            kernels a gradient that is not finite then makes those of its whole objects NaN.
        backend: "auto", "triton" or "reference".

    Returns:
        `Rendering` with rgb (B, ..., K), opacity (B, ...), depth (B, ...).

    Raises:
        TypeError, ValueError: for wrong types, shapes, devices or names, saying what to pass.
    """
    levels = check_field(planes, decoder, settings, precision)
    rays_o, rays_d = check_rays(rays_o, rays_d)
    batch, shape = levels[0].shape[0], rays_o.shape[:-1]
    check_points("rays_o", rays_o, batch)
    if ts is not None:
        ts = check_float("ts", ts).detach()
        if tuple(ts.shape[:-1]) != tuple(shape):
            raise ValueError(f"ts must be (B, ..., S) = {(*shape, 'S')}, got {tuple(ts.shape)}")
        if ts.shape[-1] < 2:
            raise ValueError(f"ts needs at least 2 samples per ray, got {ts.shape[-1]}")
    if depth_prior is not None:
        depth_prior = check_float("depth_prior", depth_prior).detach()
        if tuple(depth_prior.shape) != tuple(shape):
            raise ValueError(
                f"depth_prior must be (B, ...) = {tuple(shape)}, got {tuple(depth_prior.shape)}"
            )
    if occupancy is not None:
        if not isinstance(occupancy, Tensor):
            raise TypeError(f"occupancy must be a torch.Tensor, got {type(occupancy).__name__}")
        cube = occupancy.ndim == 4 and len(set(occupancy.shape[1:])) == 1
        if occupancy.dtype != torch.bool or not cube or occupancy.shape[0] != batch:
            raise ValueError(
                f"occupancy must be ({batch}, R, R, R) bool, got {tuple(occupancy.shape)} "
                f"{occupancy.dtype}; make it with build_occupancy"
            )
    device = check_same_device(
        planes=levels[0], rays_o=rays_o, ts=ts, depth_prior=depth_prior, occupancy=occupancy
    )
    rays_o, rays_d = flatten_rays(rays_o, shape), flatten_rays(rays_d, shape)
    ts = None if ts is None else flatten_rays(ts, shape)
    depth_prior = None if depth_prior is None else flatten_rays(depth_prior, shape)
    if use_triton(
        backend, device, double_unsupported(*levels, rays_o, rays_d, *decoder.parameters)
    ):
        from .operators import render_rays_triton

        rendering = render_rays_triton(
            levels,
            decoder,
            rays_o,
            rays_d,
            settings,
            ts=ts,
            depth_prior=depth_prior,
            occupancy=occupancy,
            per_sample=per_sample,
            seed=seed,
            precision=precision,
            deterministic=deterministic,
            picture_width=shape[-1] if len(shape) > 2 and shape[-2] >= LEAST_ROWS else 0,
        )
        return unflatten(rendering, shape)
    dtype = compute_dtype(levels[0], rays_o, rays_d, ts, *decoder.parameters)
    arguments = (
        tuple(level.to(dtype) for level in levels),
        decoder.to(dtype),
        rays_o.to(dtype),
        rays_d.to(dtype),
        settings,
    )
    options: dict[str, Any] = {
        "ts": None if ts is None else ts.to(dtype),
        "depth_prior": None if depth_prior is None else depth_prior.to(dtype),
        "occupancy": occupancy,
        "per_sample": per_sample,
        "seed": seed,
    }
    with torch.autocast(device.type, enabled=False):
        if backend == "auto" and device.type == "cpu":
            flat = render_rays_cpu(*arguments, **options, half=precision == "bf16")
        else:
            flat = render_rays_reference(*arguments, **options)
    return unflatten(flat, shape)


def flatten_rays(x: Tensor, shape: torch.Size) -> Tensor:
    """(B, ..., rest) with the rays' ``shape`` (B, ...) to (B, N, rest); N may be 0 or 1."""
    return x.reshape(shape[0], math.prod(shape[1:]), *x.shape[len(shape) :])


def unflatten(flat: Rendering, shape: torch.Size) -> Rendering:
    """A rendering of (B, N) rays in the shape (B, ...) that the caller gave them."""
    samples = None
    if flat.samples is not None:
        samples = RaySamples(*(x.reshape(*shape, x.shape[-1]) for x in flat.samples))
    return Rendering(
        flat.rgb.reshape(*shape, flat.rgb.shape[-1]),
        flat.opacity.reshape(shape),
        flat.depth.reshape(shape),
        samples,
    )


def query_points(
    planes: Tensor | Sequence[Tensor],
    decoder: Decoder,
    points: Tensor,
    settings: RenderSettings,
    *,
    raw: bool = False,
    precision: str = "auto",
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Density and colour at points.

    Args:
        planes: (B, 3, C, H, W), or a sequence of levels whose features are summed.
        points: (B, ..., 3) in scene units; differentiable.
        raw: give the density before shift and activation (-inf where empty).

    Returns:
        sigmas (B, ...) and rgbs (B, ..., K); colours are padded but not mapped to ``rgb_range``.

    Raises:
        TypeError, ValueError: for wrong types, shapes, devices or names, saying what to pass.
    """
    levels = check_field(planes, decoder, settings, precision)
    points = check_points("points", points, levels[0].shape[0])
    device = check_same_device(planes=levels[0], points=points)
    shape = points.shape[:-1]
    flat = flatten_rays(points, shape)
    if use_triton(backend, device, double_unsupported(*levels, points, *decoder.parameters)):
        from .operators import query_points_triton

        sigmas, rgbs = query_points_triton(levels, decoder, flat, settings, precision=precision)
        if not raw:
            sigmas = activate_density(sigmas, settings)
        return sigmas.reshape(shape), rgbs.reshape(*shape, rgbs.shape[-1])
    dtype = compute_dtype(levels[0], points, *decoder.parameters)
    arguments = (
        tuple(level.to(dtype) for level in levels),
        decoder.to(dtype),
        flat.to(dtype),
        settings,
    )
    with torch.autocast(device.type, enabled=False):
        if backend == "auto" and device.type == "cpu":
            sigmas, rgbs = query_points_cpu(*arguments, half=precision == "bf16")
        else:
            sigmas, rgbs = query_points_reference(*arguments)
        if not raw:
            sigmas = activate_density(sigmas, settings)
    return sigmas.reshape(shape), rgbs.reshape(*shape, rgbs.shape[-1])
