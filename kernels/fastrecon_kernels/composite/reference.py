"""Compositing in plain PyTorch: the definition.

    sigma_i = density_scale max(act(raw_i + density_shift), 0)
    alpha_i = 1 - exp(-sigma_i delta_i)       T_i = prod_{j<i} (1 - alpha_j)       w_i = alpha_i T_i
    W = sum w_i     rgb = lo + (hi - lo) (sum w_i c_i + (1 - W) background)
    depth = sum w_i t_i / (W + depth_eps)

Bins take raw_i, c_i, t_i as given. The midpoint rule first averages raw density, colour and t over
each of the S - 1 intervals between neighbouring samples, whose length is delta_i (EG3D).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..common.checks import compute_dtype
from ..settings import RenderSettings
from ..types import RaySamples, Rendering
from .depth_kernel import ScaleGradient, depth_kernel

LEAST_NORM = 1e-30
"""Least divisor of the depth, so that its gradient is finite on a ray that all but misses."""


class TruncatedExp(torch.autograd.Function):
    """``exp(x)`` with the gradient of ``exp(min(x, 15))``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.exp()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return grads[0] * x.clamp(max=15).exp()


def activate_density(raw: Tensor, settings: RenderSettings) -> Tensor:
    """Raw density to sigma >= 0, in units of 1 / t (or 1 / chord)."""
    x = raw + settings.density_shift
    if settings.density_activation == "trunc_exp":
        sigma = TruncatedExp.apply(x)
    elif settings.density_activation == "exp":
        # Past e^80 a sample is opaque at any length; the bound keeps inf * 0 out of its gradient.
        sigma = x.clamp(max=80).exp()
    elif settings.density_activation == "softplus":
        sigma = torch.nn.functional.softplus(x)
    else:  # "relu" and "none" differ in name only: densities below 0 are clamped
        sigma = x.relu()
    return settings.density_scale * sigma


def half_way_deltas(ts: Tensor) -> Tensor:
    """Bin widths with edges half-way between neighbours; the end bins mirror their inner half."""
    gaps = ts.diff(dim=-1)
    return (torch.cat([gaps[..., :1], gaps], -1) + torch.cat([gaps, gaps[..., -1:]], -1)) / 2


def interval_lengths(
    deltas: Tensor, settings: RenderSettings, chord: Tensor | None = None
) -> Tensor:
    """What sigma is multiplied by: ``deltas``, or their share of the ray's chord.

    ``chord`` (...,) is the ray's far - near, by default the sum of its deltas.
    """
    if settings.interval == "distance":
        return deltas
    total = deltas.sum(-1) if chord is None else chord
    total = total.clamp(min=0)[..., None]
    return torch.where(total > 0, deltas / total, 0)


def interval_means(raw: Tensor) -> Tensor:
    """(..., S) raw densities -> (..., S - 1) means; an empty end (-inf) makes an interval empty."""
    begin, end = raw[..., :-1], raw[..., 1:]
    empty = torch.minimum(begin, end) == -torch.inf  # also beside +inf, where a mean would be NaN
    return ((begin + end) / 2).masked_fill(empty, -torch.inf)


def composite_reference(
    raw_sigmas: Tensor,
    rgbs: Tensor,
    ts: Tensor,
    deltas: Tensor | None,
    settings: RenderSettings,
    depth_prior: Tensor | None = None,
    per_sample: bool = False,
    chord: Tensor | None = None,
) -> Rendering:
    """(..., S), (..., S, K), (..., S), deltas (..., S) for bins -> Rendering of shape (...)."""
    dtype = compute_dtype(raw_sigmas, rgbs, ts)
    raw, colour, t = raw_sigmas.to(dtype), rgbs.to(dtype), ts.detach().to(dtype)
    if settings.quadrature == "midpoint":
        deltas = t.diff(dim=-1)
        raw = interval_means(raw)
        colour = (colour[..., 1:, :] + colour[..., :-1, :]) / 2
        t = (t[..., 1:] + t[..., :-1]) / 2
    else:
        deltas = half_way_deltas(t) if deltas is None else deltas.detach().to(dtype)
    lengths = interval_lengths(deltas, settings, chord)

    # An interval of no length has no opacity, however dense it is (infinity * 0 would be NaN).
    sigma = activate_density(raw, settings)
    optical = torch.where(lengths == 0, 0, torch.where(lengths == 0, 0, sigma) * lengths)
    if depth_prior is not None:
        prior = depth_prior.detach().to(dtype)[..., None]
        k = depth_kernel(t, prior, **settings.depth_kernel._asdict())
        # d alpha / d optical = exp(-optical) has no part in k, so scaling here scales d alpha.
        optical = ScaleGradient.apply(optical, k)
        colour = ScaleGradient.apply(colour, k[..., None])

    # The sum is shifted, never `cumsum - self`, which loses everything beside a dense sample.
    before = torch.nn.functional.pad(optical.cumsum(-1)[..., :-1], (1, 0))
    transmittance = (-before).exp()
    weights = -torch.expm1(-optical) * transmittance
    if settings.early_stop > 0:
        weights = torch.where(transmittance < settings.early_stop, 0, weights)

    opacity = weights.sum(-1)
    low, high = settings.rgb_range
    background = torch.tensor(
        settings.background_colour(colour.shape[-1]), dtype=dtype, device=colour.device
    )
    unit = (weights[..., None] * colour).sum(-2) + (1 - opacity)[..., None] * background
    rgb = low + (high - low) * unit
    norm = (opacity + settings.depth_eps).clamp(min=LEAST_NORM)
    depth = torch.where(opacity > 0, (weights * t).sum(-1) / norm, 0)
    samples = RaySamples(weights, t, deltas) if per_sample else None
    return Rendering(rgb, opacity, depth, samples)
