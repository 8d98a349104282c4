"""Launches the compositing kernels on flat records (N, S); see `kernel.py` for the formulas."""

from __future__ import annotations

import functools
from typing import Any

import torch
import triton
from torch import Tensor

from ..common.backend import FP_FUSION
from ..settings import RenderSettings
from ..types import RaySamples, Rendering
from .kernel import composite_backward_kernel, composite_forward_kernel
from .reference import half_way_deltas

TILE = 2048
"""Rays x samples x colours per program: 4096 made the backward kernel spill (bench.static)."""
MAX_BLOCK_S = 128
"""Samples per chunk: the usual 64 and 128 are one chunk, whose records are read once."""


@functools.lru_cache(maxsize=64)
def background_tensor(colour: tuple[float, ...], device: torch.device) -> Tensor:
    """The background on the device, copied there once."""
    # The cache outlives the call that fills it, which may be in inference mode.
    with torch.inference_mode(False):
        return torch.tensor(colour, dtype=torch.float32, device=device)


def kernel_constexprs(settings: RenderSettings, n_samples: int, n_colours: int) -> dict[str, Any]:
    """What both kernels are specialised for; the number of rays has no part in it."""
    midpoint = settings.quadrature == "midpoint"
    n_intervals = n_samples - 1 if midpoint else n_samples
    block_k = triton.next_power_of_2(max(n_colours, 1))
    block_s = triton.next_power_of_2(max(n_intervals, 4))
    block_s = min(block_s, MAX_BLOCK_S, max(2 * TILE // block_k, 4))
    return {
        "K": n_colours,
        "ACTIVATION": settings.density_activation,
        "MIDPOINT": midpoint,
        "BLOCK_R": max(TILE // (block_s * block_k), 1),
        "BLOCK_S": block_s,
        "BLOCK_K": block_k,
        "N_CHUNKS": triton.cdiv(n_intervals, block_s),
    }


def _records(
    raw: Tensor,
    rgbs: Tensor,
    ts: Tensor,
    deltas: Tensor | None,
    settings: RenderSettings,
    chord: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor]:
    """The first six arguments of both kernels."""
    if settings.quadrature == "midpoint":
        deltas = None
    if settings.interval == "distance":
        chord = None
    elif chord is None:
        lengths = half_way_deltas(ts.float()) if deltas is None else deltas
        chord = lengths.sum(-1, dtype=torch.float32)
    background = background_tensor(settings.background_colour(rgbs.shape[-1]), raw.device)
    return (
        raw.contiguous(),
        rgbs.contiguous(),
        ts.contiguous(),
        None if deltas is None else deltas.contiguous(),
        None if chord is None else chord.contiguous(),
        background,
    )


def _scalars(settings: RenderSettings) -> dict[str, float]:
    return {
        "shift": float(settings.density_shift),
        "scale": float(settings.density_scale),
        "low": settings.rgb_range[0],
        "high": settings.rgb_range[1],
        "depth_eps": float(settings.depth_eps),
        "early_stop": float(settings.early_stop),
    }


def composite_forward(
    raw: Tensor,
    rgbs: Tensor,
    ts: Tensor,
    deltas: Tensor | None,
    settings: RenderSettings,
    depth_prior: Tensor | None = None,
    per_sample: bool = False,
    chord: Tensor | None = None,
) -> Rendering:
    """Composite flat records; the arguments of `composite_reference`, no autograd, no checks.

    Args:
        raw: (N, S) raw density before shift and activation, any float but fp64; -inf is empty.
        rgbs: (N, S, K) activated colours, any float but fp64, not necessarily raw's.
        ts: (N, S) increasing, any float.
        deltas: (N, S) for bins, in units of t; None: half-way to the neighbours. Ignored by the
            midpoint rule, whose intervals lie between neighbouring ts.
        depth_prior: changes no forward value.
        per_sample: fill `Rendering.samples`, M = S for bins and S - 1 for midpoint.
        chord: (N,) far - near, read under ``interval="chord"`` only; None: the sum of the deltas.

    Returns:
        rgb (N, K), opacity (N,), depth (N,) and samples (N, M), all fp32 and without a graph.
        Inputs need not be contiguous (they are copied if not).
    """
    n_rays, n_samples, n_colours = rgbs.shape
    n_intervals = n_samples - 1 if settings.quadrature == "midpoint" else n_samples
    fp32 = {"dtype": torch.float32, "device": raw.device}
    rgb = torch.empty(n_rays, n_colours, **fp32)
    opacity, depth = (torch.empty(n_rays, **fp32) for _ in range(2))
    samples = None
    if per_sample:
        samples = RaySamples(*(torch.empty(n_rays, n_intervals, **fp32) for _ in range(3)))
    if n_rays:
        constexprs = kernel_constexprs(settings, n_samples, n_colours)
        with torch.cuda.device_of(raw):
            composite_forward_kernel[(triton.cdiv(n_rays, constexprs["BLOCK_R"]),)](
                *_records(raw, rgbs, ts, deltas, settings, chord),
                rgb,
                opacity,
                depth,
                *(samples or (None, None, None)),
                n_rays,
                n_samples,
                **_scalars(settings),
                **constexprs,
                **FP_FUSION,
            )
    return Rendering(rgb, opacity, depth, samples)


def composite_backward(
    d_rgb: Tensor | None,
    d_opacity: Tensor | None,
    d_depth: Tensor | None,
    d_weights: Tensor | None,
    raw: Tensor,
    rgbs: Tensor,
    ts: Tensor,
    deltas: Tensor | None,
    settings: RenderSettings,
    opacity: Tensor,
    depth: Tensor,
    depth_prior: Tensor | None = None,
    chord: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients of `composite_forward`, from its arguments and two of its results.

    Args:
        d_rgb, d_opacity, d_depth: (N, K), (N,), (N,) gradients of the results; None is zero.
        d_weights: (N, M) gradient of the per-sample weights, or None.
        raw, rgbs, ts, deltas, settings, chord: as given to `composite_forward`.
        opacity, depth: (N,) its results.
        depth_prior: (N,) turns the depth kernel on; NaN: not on that ray.

    Returns:
        d_raw (N, S) in raw's dtype and d_rgbs (N, S, K) in rgbs' dtype, every element written.
    """
    n_rays, n_samples, n_colours = rgbs.shape
    constexprs = kernel_constexprs(settings, n_samples, n_colours)
    d_raw = torch.empty_like(raw, memory_format=torch.contiguous_format)
    d_rgbs = torch.empty_like(rgbs, memory_format=torch.contiguous_format)
    if not n_rays:
        return d_raw, d_rgbs
    d_rgb = opacity.new_zeros(n_rays, n_colours) if d_rgb is None else d_rgb.contiguous()
    d_opacity = torch.zeros_like(opacity) if d_opacity is None else d_opacity.contiguous()
    d_depth = torch.zeros_like(opacity) if d_depth is None else d_depth.contiguous()
    kernel = (float(x) for x in settings.depth_kernel)
    with torch.cuda.device_of(raw):
        composite_backward_kernel[(triton.cdiv(n_rays, constexprs["BLOCK_R"]),)](
            *_records(raw, rgbs, ts, deltas, settings, chord),
            None if depth_prior is None else depth_prior.contiguous(),
            opacity.contiguous(),
            depth.contiguous(),
            d_rgb,
            d_opacity,
            d_depth,
            None if d_weights is None else d_weights.contiguous(),
            d_raw,
            d_rgbs,
            n_rays,
            n_samples,
            **_scalars(settings),
            **dict(zip(("s1", "s2", "c_min", "c_max"), kernel, strict=True)),
            **constexprs,
            **FP_FUSION,
        )
    return d_raw, d_rgbs
