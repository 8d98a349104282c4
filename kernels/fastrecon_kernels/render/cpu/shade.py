"""Compositing of a block of rays with its gradient written out.

The rules are those of ``composite/reference.py``; here colours come channel by channel, (K, N, S),
and every pass runs along contiguous memory. With tau = sigma delta, T_i = exp(-sum_{j<i} tau_j),
w_i = (1 - exp(-tau_i)) T_i and g_i = dL/dw_i:

    dL/dtau_i = g_i (T_i - w_i) - sum_{j>i} g_j w_j
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ...composite.depth_kernel import depth_kernel
from ...composite.reference import (
    LEAST_NORM,
    activate_density,
    interval_lengths,
    interval_means,
)
from ...settings import RenderSettings

EXP_BOUND = 80.0
"""Where "exp" is cut off."""
TRUNCATED_AT = 15.0
"""Where the gradient of "trunc_exp" stops growing."""


class Weighed(NamedTuple):
    """What each of M samples (of M intervals, for the midpoint rule) adds to its ray; (N, M)."""

    weights: Tensor
    ts: Tensor
    deltas: Tensor
    lengths: Tensor  # deltas in the unit of the density
    raw: Tensor
    sigma: Tensor
    passed: Tensor  # transmittance T_i


class Shaded(NamedTuple):
    """Pixels of N rays, and what their gradient needs."""

    rgb: Tensor  # (K, N)
    opacity: Tensor  # (N,)
    depth: Tensor  # (N,)
    colours: Tensor  # (K, N, M)
    at: Weighed


def density_backward(grad: Tensor, raw: Tensor, sigma: Tensor, settings: RenderSettings) -> Tensor:
    """Gradient of the raw density, in place of ``grad``, that of `activate_density`."""
    x, name = raw + settings.density_shift, settings.density_activation
    if name == "exp":
        return grad.mul_(sigma).masked_fill_(x > EXP_BOUND, 0)
    if name == "trunc_exp":
        slope = x.clamp(max=TRUNCATED_AT).exp_()
    elif name == "softplus":
        slope = x.sigmoid()
    else:
        slope = (x > 0).to(x.dtype)
    return grad.mul_(slope).mul_(settings.density_scale)


class Measured(NamedTuple):
    """Intervals and their optical depth tau, (N, M) each."""

    deltas: Tensor
    lengths: Tensor  # deltas in the unit of the density
    raw: Tensor
    sigma: Tensor
    optical: Tensor


def measure(
    raw: Tensor, ts: Tensor, deltas: Tensor | None, chord: Tensor, settings: RenderSettings
) -> Measured:
    """raw (N, S), ts (N, S), deltas (N, S) for bins, chord (N,)."""
    if settings.quadrature == "midpoint":
        deltas, raw = ts.diff(dim=-1), interval_means(raw)
    assert deltas is not None
    lengths = interval_lengths(deltas, settings, chord)
    sigma = activate_density(raw, settings)
    # An interval of no length has no opacity, however dense it is.
    optical = (sigma * lengths).masked_fill_(lengths == 0, 0)
    return Measured(deltas, lengths, raw, sigma, optical)


def weigh(
    raw: Tensor, ts: Tensor, deltas: Tensor | None, chord: Tensor, settings: RenderSettings
) -> Weighed:
    """Weights of samples; arguments as for `measure`."""
    deltas, lengths, raw, sigma, optical = measure(raw, ts, deltas, chord, settings)
    if settings.quadrature == "midpoint":
        ts = (ts[..., 1:] + ts[..., :-1]).mul_(0.5)
    before = F.pad(optical[:, :-1].cumsum(-1), (1, 0))
    passed = before.neg_().exp_()
    weights = optical.neg_().expm1_().neg_().mul_(passed)
    if settings.early_stop > 0:
        weights.masked_fill_(passed < settings.early_stop, 0)
    return Weighed(weights, ts, deltas, lengths, raw, sigma, passed)


def shade(at: Weighed, colours: Tensor, settings: RenderSettings) -> Shaded:
    """Pixels of samples with colours (K, N, S)."""
    if settings.quadrature == "midpoint":
        colours = (colours[..., 1:] + colours[..., :-1]).mul_(0.5)
    weights = at.weights
    opacity = weights.sum(-1)
    low, high = settings.rgb_range
    background = weights.new_tensor(settings.background_colour(len(colours)))
    unit = (colours * weights).sum(-1)
    unit.addcmul_(background[:, None], 1 - opacity)
    rgb = unit if (low, high) == (0, 1) else unit.mul_(high - low).add_(low)
    norm = (opacity + settings.depth_eps).clamp_(min=LEAST_NORM)
    depth = torch.where(opacity > 0, (weights * at.ts).sum(-1) / norm, 0)
    return Shaded(rgb, opacity, depth, colours, at)


def shade_backward(
    x: Shaded,
    d_rgb: Tensor | None,
    d_opacity: Tensor | None,
    d_depth: Tensor | None,
    d_weights: Tensor | None,
    depth_prior: Tensor | None,
    settings: RenderSettings,
) -> tuple[Tensor, Tensor]:
    """Gradients of raw densities (N, S) and colours (K, N, S) from d_rgb (K, N) and (N, ...)."""
    at = x.at
    each = torch.zeros_like(x.opacity) if d_opacity is None else d_opacity.clone()
    d_unit = None
    if d_rgb is not None:
        low, high = settings.rgb_range
        d_unit = d_rgb * (high - low)
        background = d_unit.new_tensor(settings.background_colour(len(d_unit)))
        each -= background @ d_unit
    along = None
    if d_depth is not None:
        norm = x.opacity + settings.depth_eps
        along = torch.where(x.opacity > 0, d_depth, 0) / norm.clamp(min=LEAST_NORM)
        each -= torch.where(norm >= LEAST_NORM, x.depth * along, 0)
    slope = each[:, None].expand_as(at.weights).clone()
    if d_weights is not None:
        slope += d_weights
    if along is not None:
        slope.addcmul_(at.ts, along[:, None])
    d_colours = torch.zeros_like(x.colours)
    if d_unit is not None:
        for colour, d_channel, d_colour in zip(x.colours, d_unit, d_colours, strict=True):
            slope.addcmul_(colour, d_channel[:, None])
            torch.mul(at.weights, d_channel[:, None], out=d_colour)
    if settings.early_stop > 0:
        slope.masked_fill_(at.passed < settings.early_stop, 0)
    behind = F.pad((slope * at.weights)[:, 1:].flip(-1).cumsum(-1).flip(-1), (0, 1))
    d_optical = (at.passed - at.weights).mul_(slope).sub_(behind)
    if depth_prior is not None:
        kernel = depth_kernel(at.ts, depth_prior[:, None], **settings.depth_kernel._asdict())
        d_optical.mul_(kernel)
        d_colours.mul_(kernel)
    d_sigma = d_optical.mul_(at.lengths)
    d_raw = density_backward(d_sigma, at.raw, at.sigma, settings)
    d_raw.masked_fill_(at.lengths == 0, 0)
    if settings.quadrature != "midpoint":
        return d_raw, d_colours
    return _to_both_ends(d_raw), _to_both_ends(d_colours)


def _to_both_ends(d_means: Tensor) -> Tensor:
    """Gradient of (..., S) samples from that of the (..., S - 1) means of neighbours."""
    half = d_means * 0.5
    ends = F.pad(half, (1, 0))
    ends[..., :-1] += half
    return ends
