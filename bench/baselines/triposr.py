"""TripoSR's published renderer, the plain way: the baseline for speed and memory.

Object by object: bin centres of the rays that hit the cube, three `grid_sample` calls in one,
the decoder as an `nn.Sequential` over chunks of 65,536 samples, exponential density, `cumprod`
compositing. Nothing is recomputed, so training keeps every intermediate of every sample.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHUNK = 65536
"""Samples decoded at once."""
SHRINK = 1e-3
MIN_CHORD = 0.01
MIN_DIRECTION = 1e-6
TRANSMITTANCE_EPS = 1e-10


def hit_box(rays_o: Tensor, rays_d: Tensor, radius: float) -> tuple[Tensor, Tensor, Tensor]:
    """Rays (N, 3) against the shrunk cube -> near, far (N,) and whether each ray hits (N,)."""
    half = radius * (1 - SHRINK)
    safe = torch.where(rays_d.abs() < MIN_DIRECTION, MIN_DIRECTION, rays_d)
    first, second = (-half - rays_o) / safe, (half - rays_o) / safe
    near = torch.minimum(first, second).amax(-1).clamp(min=0)
    far = torch.maximum(first, second).amin(-1)
    return near, far, far - near > MIN_CHORD


def query(planes: Tensor, mlp: nn.Module, points: Tensor, radius: float) -> tuple[Tensor, Tensor]:
    """planes (3, C, H, W), points (M, 3) -> sigmas (M,), rgbs (M, 3)."""
    unit = points / radius
    grid = torch.stack([unit[:, [0, 1]], unit[:, [0, 2]], unit[:, [1, 2]]])[:, None]
    features = F.grid_sample(planes, grid, mode="bilinear", align_corners=False)
    out = mlp(features[:, :, 0].permute(2, 0, 1).flatten(1)).to(points.dtype)
    return torch.exp(out[:, 0] - 1), out[:, 1:].sigmoid()


def shade(sigmas: Tensor, rgbs: Tensor) -> tuple[Tensor, Tensor]:
    """sigmas (N, S), rgbs (N, S, 3) at bin centres -> rgb (N, 3) on white, opacity (N,)."""
    alphas = 1 - torch.exp(-sigmas / sigmas.shape[-1])
    passed = torch.cumprod(1 - alphas + TRANSMITTANCE_EPS, -1)
    weights = alphas * F.pad(passed[:, :-1], (1, 0), value=1.0)
    total = weights.sum(-1)
    return (weights[..., None] * rgbs).sum(-2) + (1 - total)[:, None], total


def render_object(
    planes: Tensor,
    mlp: nn.Module,
    rays_o: Tensor,
    rays_d: Tensor,
    radius: float,
    n_samples: int,
    chunk: int | None,
) -> tuple[Tensor, Tensor]:
    """Rays (N, 3) of one object -> rgb (N, 3) on white, opacity (N,)."""
    near, far, hit = hit_box(rays_o, rays_d, radius)
    rgb, opacity = rays_o.new_ones(len(rays_o), 3), rays_o.new_zeros(len(rays_o))
    if not bool(hit.any()):
        return rgb, opacity
    centres = (torch.arange(n_samples, device=rays_o.device, dtype=rays_o.dtype) + 0.5) / n_samples
    ts = near[hit, None] + centres * (far - near)[hit, None]
    points = (rays_o[hit, None] + ts[..., None] * rays_d[hit, None]).view(-1, 3)
    parts = [points] if chunk is None else points.split(chunk)
    decoded = [query(planes, mlp, part, radius) for part in parts]
    sigmas = torch.cat([sigma for sigma, _ in decoded]).view(-1, n_samples)
    rgbs = torch.cat([colour for _, colour in decoded]).view(-1, n_samples, 3)
    shaded, total = shade(sigmas, rgbs)
    index = hit.nonzero()[:, 0]
    return rgb.index_put((index,), shaded), opacity.index_put((index,), total)


def render_triposr(
    planes: Tensor,
    mlp: nn.Module,
    rays_o: Tensor,
    rays_d: Tensor,
    *,
    radius: float = 0.87,
    n_samples: int = 128,
    chunk: int | None = CHUNK,
    render: Callable[..., tuple[Tensor, Tensor]] = render_object,
) -> tuple[Tensor, Tensor]:
    """Render as `RenderSettings.triposr()` does.

    Args:
        planes: (B, 3, C, H, W).
        mlp: (M, 3C) -> (M, 4): raw density and three colour logits.
        rays_o, rays_d: (B, N, 3).
        radius: half side of the box that the planes span.
        n_samples: bins of each ray.
        chunk: samples decoded at once; None: all of an object's.
        render: `render_object`, or what torch.compile makes of it.

    Returns:
        rgb (B, N, 3) on white and opacity (B, N).
    """
    pairs = [
        render(planes[b], mlp, rays_o[b], rays_d[b], radius, n_samples, chunk)
        for b in range(len(planes))
    ]
    return torch.stack([rgb for rgb, _ in pairs]), torch.stack([opacity for _, opacity in pairs])
