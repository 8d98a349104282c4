"""EG3D's published renderer as G3DR uses it, the plain way: the baseline for workload B.

All rays at once: samples on a linspace of each ray's chord, `grid_sample` on every level, features
summed over levels and averaged over planes, the decoder as an `nn.Sequential`, the midpoint marcher
on the coarse samples; then samples from the smoothed weights, decoded as well, all samples sorted,
and the marcher again. Nothing is recomputed, so training keeps every intermediate of every sample.

Two things are done as `render_rays` does them, so that pictures can be compared to round-off: the
1e-5 that EG3D adds to weights of at least 0.01 is left out (it moves the colours of workload B by
up to 1e-4), and depth is divided by the opacity + 1e-3, which is G3DR's.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

AXES = ("xy", "xz", "zy")
MIN_DIRECTION = 1e-6
TRANSMITTANCE_EPS = 1e-10
WEIGHT_FLOOR = 0.01
DEPTH_EPS = 1e-3
RGB_PADDING = 0.001

Noise = tuple[Tensor, Tensor]
"""Uniform numbers in [0, 1) of the coarse samples (B, N, S) and of the fine ones (B, N, F)."""


def chord(rays_o: Tensor, rays_d: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """near, far (B, N) of rays (B, N, 3) in the box; a miss gets the widest of the others."""
    safe = torch.where(rays_d.abs() < MIN_DIRECTION, MIN_DIRECTION, rays_d)
    first, second = (-radius - rays_o) / safe, (radius - rays_o) / safe
    near = torch.minimum(first, second).amax(-1).clamp(min=0)
    far = torch.maximum(first, second).amin(-1)
    hit = far > near
    nearest = near.masked_fill(~hit, torch.inf).amin().nan_to_num(posinf=0.0)
    farthest = far.masked_fill(~hit, 0.0).amax()
    return torch.where(hit, near, nearest), torch.where(hit, far, farthest)


def features(levels: Sequence[Tensor], points: Tensor, axes: Sequence[str]) -> Tensor:
    """levels (B, 3, C, H, W), points (B, M, 3) in [-1, 1] -> (B, 3, M, C), summed over levels."""
    pairs = [["xyz".index(letter) for letter in pair] for pair in axes]
    grid = torch.stack([points[..., pair] for pair in pairs], 1).flatten(0, 1)[:, None]
    total = None
    for level in levels:
        found = F.grid_sample(
            level.flatten(0, 1), grid.to(level.dtype), mode="bilinear", align_corners=False
        )
        found = found[:, :, 0].transpose(1, 2).unflatten(0, (-1, 3))
        total = found if total is None else total + found
    assert total is not None
    return total


def query(
    levels: Sequence[Tensor], mlp: nn.Module, points: Tensor, axes: Sequence[str]
) -> tuple[Tensor, Tensor]:
    """points (B, N, S, 3) in [-1, 1] -> raw densities (B, N, S, 1), rgbs (B, N, S, K)."""
    read = features(levels, points.flatten(1, 2), axes).mean(1)
    out = mlp(read.flatten(0, 1)).view(*points.shape[:-1], -1).to(points.dtype)
    return out[..., :1], out[..., 1:].sigmoid() * (1 + 2 * RGB_PADDING) - RGB_PADDING


def march(raws: Tensor, rgbs: Tensor, ts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Midpoint rule: (B, N, S, 1), (B, N, S, K), (B, N, S, 1) -> rgb, depth and the weights."""
    deltas = ts[:, :, 1:] - ts[:, :, :-1]
    rgb_mids = (rgbs[:, :, :-1] + rgbs[:, :, 1:]) / 2
    raw_mids = (raws[:, :, :-1] + raws[:, :, 1:]) / 2
    t_mids = (ts[:, :, :-1] + ts[:, :, 1:]) / 2
    alphas = 1 - torch.exp(-F.softplus(raw_mids - 1) * deltas)
    passed = torch.cumprod(1 - alphas + TRANSMITTANCE_EPS, -2)
    weights = alphas * F.pad(passed[:, :, :-1], (0, 0, 1, 0), value=1.0)
    rgb = (weights * rgb_mids).sum(-2)
    depth = (weights * t_mids).sum(-2) / (weights.sum(2) + DEPTH_EPS)
    return rgb * 2 - 1, depth, weights


def coarse_samples(near: Tensor, far: Tensor, n: int, noise: Tensor | None) -> Tensor:
    """(B, N) -> ts (B, N, n, 1): near to far inclusive, jittered forward by up to one step."""
    steps = torch.arange(n, device=near.device, dtype=near.dtype)
    steps = steps if noise is None else steps + noise
    return (near[..., None] + steps * ((far - near) / (n - 1))[..., None])[..., None]


def fine_samples(ts: Tensor, weights: Tensor, n: int, noise: Tensor | None) -> Tensor:
    """Inverse transform samples (B, N, n, 1) of coarse ts (B, N, S, 1) by (B, N, S - 1, 1)."""
    batch, n_rays = ts.shape[:2]
    ts, weights = ts.flatten(0, 1)[..., 0], weights.flatten(0, 1)[..., 0]
    smooth = F.max_pool1d(weights[:, None], 2, 1, padding=1)
    smooth = F.avg_pool1d(smooth, 2, 1)[:, 0] + WEIGHT_FLOOR
    bins, inner = (ts[:, 1:] + ts[:, :-1]) / 2, smooth[:, 1:-1]
    pdf = inner / inner.sum(-1, keepdim=True)
    cdf = F.pad(pdf.cumsum(-1), (1, 0))
    if noise is None:
        u = torch.linspace(0, 1, n, device=ts.device, dtype=cdf.dtype).expand(len(ts), n)
    else:
        u = noise.flatten(0, 1).to(cdf.dtype)
    index = torch.searchsorted(cdf, u.contiguous(), right=True)
    below, above = (index - 1).clamp(min=0), index.clamp(max=inner.shape[1])
    edges = torch.stack([below, above], -1).flatten(1)
    cdf_at = cdf.gather(1, edges).unflatten(1, (n, 2))
    bin_at = bins.gather(1, edges).unflatten(1, (n, 2))
    width = cdf_at[..., 1] - cdf_at[..., 0]
    width = torch.where(width > 0, width, 1)
    share = (u - cdf_at[..., 0]) / width
    fine = bin_at[..., 0] + share * (bin_at[..., 1] - bin_at[..., 0])
    return fine.view(batch, n_rays, n, 1)


def render_g3dr(
    levels: Sequence[Tensor],
    mlp: nn.Module,
    rays_o: Tensor,
    rays_d: Tensor,
    *,
    radius: float = 1.0,
    n_samples: int = 32,
    n_importance: int = 32,
    axes: Sequence[str] = AXES,
    noise: Noise | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Render as `RenderSettings.g3dr()` does.

    Args:
        levels: planes (B, 3, C, H, W) and their pyramid; their features are summed.
        mlp: (M, C) -> (M, 1 + K): raw density and colour logits.
        rays_o, rays_d: (B, N, 3).
        radius: half side of the box that the planes span.
        n_samples, n_importance: coarse and fine samples of each ray.
        axes: world axes of each plane, width axis first.
        noise: what `torch.rand` would give, for jitter that another renderer repeats; None
            places samples without jitter.

    Returns:
        rgb (B, N, K) in [-1, 1] on black, depth (B, N) and opacity (B, N).
    """
    coarse_noise, fine_noise = (None, None) if noise is None else noise
    near, far = chord(rays_o, rays_d, radius)
    ts = coarse_samples(near, far, n_samples, coarse_noise)

    def at(t: Tensor) -> tuple[Tensor, Tensor]:
        points = rays_o[:, :, None] + t * rays_d[:, :, None]
        return query(levels, mlp, points / radius, axes)

    raws, rgbs = at(ts)
    if n_importance:
        with torch.no_grad():
            _, _, weights = march(raws, rgbs, ts)
            fine = fine_samples(ts, weights, n_importance, fine_noise)
        fine_raws, fine_rgbs = at(fine)
        ts, order = torch.cat([ts, fine], 2).sort(dim=2)
        raws = torch.cat([raws, fine_raws], 2).gather(2, order)
        rgbs = torch.cat([rgbs, fine_rgbs], 2)
        rgbs = rgbs.gather(2, order.expand(-1, -1, -1, rgbs.shape[-1]))
    rgb, depth, weights = march(raws, rgbs, ts)
    return rgb, depth[..., 0], weights[..., 0].sum(-1)
