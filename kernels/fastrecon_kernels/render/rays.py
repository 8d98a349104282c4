"""Where the samples of a ray lie: box intersection, coarse placement, importance sampling."""

from __future__ import annotations

import torch
from torch import Tensor

from ..common.checks import check_float, check_same_device, check_settings, compute_dtype
from ..common.random import COARSE, FINE, seed_tensor, uniform
from ..settings import RenderSettings

TSR_SHRINK = 1e-3
TSR_MIN_CHORD = 0.01
MIN_DIRECTION = 1e-6


def check_rays(rays_o: object, rays_d: object) -> tuple[Tensor, Tensor]:
    """Rays must be two floating-point tensors of the same shape (B, ..., 3)."""
    origins, directions = check_float("rays_o", rays_o), check_float("rays_d", rays_d)
    if origins.ndim < 2 or origins.shape[-1] != 3:
        raise ValueError(f"rays_o must be (B, ..., 3), got {tuple(origins.shape)}")
    if directions.shape != origins.shape:
        raise ValueError(
            f"rays_d must have the shape of rays_o {tuple(origins.shape)}, got "
            f"{tuple(directions.shape)}; expand both to one shape"
        )
    check_same_device(rays_o=origins, rays_d=directions)
    return origins, directions


def ray_range(rays_o: Tensor, rays_d: Tensor, settings: RenderSettings) -> tuple[Tensor, Tensor]:
    """Where each ray enters and leaves the rendered region, in units of t.

    ``|d| < 1e-6`` is nudged to 1e-6 and ``near`` is at least 0. A ray that misses gets
    ``near = far = 0``.

    Returns:
        near, far: (...), without gradient.
    """
    dtype = compute_dtype(rays_o, rays_d)
    origins, directions = rays_o.detach().to(dtype), rays_d.detach().to(dtype)
    if not isinstance(settings.near_far, str):
        near, far = (torch.full_like(origins[..., 0], x) for x in settings.near_far)
        return near, far
    tsr = settings.near_far == "tsr_box"
    half = settings.radius * (1 - TSR_SHRINK) if tsr else settings.radius
    safe = torch.where(directions.abs() < MIN_DIRECTION, MIN_DIRECTION, directions)
    first, second = (-half - origins) / safe, (half - origins) / safe
    near = torch.minimum(first, second).amax(-1).clamp(min=0)
    far = torch.maximum(first, second).amin(-1)
    hit = far - near > (TSR_MIN_CHORD if tsr else 0)
    return torch.where(hit, near, 0), torch.where(hit, far, 0)


def place_samples(
    near: Tensor, far: Tensor, settings: RenderSettings, seed: Tensor | None, first_ray: int = 0
) -> tuple[Tensor, Tensor]:
    """Coarse samples of the rays ``first_ray, first_ray + 1, ...``; (N,) -> two of (N, S | S - 1).

    Bins: ``t_k = near + (k + 1/2) (far - near) / S``, jittered within the bin. Midpoint:
    ``t_k = near + k (far - near) / (S - 1)``, jittered forward by up to one step, so that the last
    sample may pass ``far`` (EG3D).
    """
    n = settings.n_samples
    bins = settings.quadrature == "bins"
    steps = torch.arange(n, device=near.device, dtype=near.dtype)[None]
    if settings.stratified:
        assert seed is not None
        rays = torch.arange(first_ray, first_ray + near.shape[0], device=near.device)
        steps = steps + uniform(seed, rays, n, COARSE).to(near.dtype)
    elif bins:
        steps = steps + 0.5
    step = ((far - near) / (n if bins else n - 1))[:, None]
    ts = near[:, None] + steps * step
    deltas = step.expand(-1, n).contiguous() if bins else ts.diff(dim=-1)
    return ts, deltas


def sample_rays(
    rays_o: Tensor, rays_d: Tensor, settings: RenderSettings, *, seed: int | Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Coarse sample placement of `render_rays`, with the same numbers for the same seed.

    Args:
        rays_o, rays_d: (B, ..., 3); directions need not have unit length.
        settings: `near_far`, `n_samples`, `quadrature`, `stratified` and `radius` are read.
        seed: int or integer tensor; None follows torch's default generator.

    Returns:
        ts (B, ..., S) and deltas, (B, ..., S) for bins, (B, ..., S - 1) for midpoint; both in
        units of t, without gradient, and 0 on a ray that misses.
    """
    check_settings(settings)
    rays_o, rays_d = check_rays(rays_o, rays_d)
    near, far = ray_range(rays_o, rays_d, settings)
    key = seed_tensor(seed, near.device) if settings.stratified else None
    ts, deltas = place_samples(near.reshape(-1), far.reshape(-1), settings, key)
    shape = near.shape
    return ts.reshape(*shape, ts.shape[-1]), deltas.reshape(*shape, deltas.shape[-1])


def importance_samples(
    ts: Tensor, weights: Tensor, settings: RenderSettings, seed: Tensor | None, first_ray: int = 0
) -> Tensor:
    """Fine samples from the coarse interval weights (EG3D's inverse transform sampling).

    The S - 1 weights are smoothed (max of neighbours, mean of neighbours, + 0.01); their inner
    S - 3 are the density over the interval midpoints, whose last one therefore stays unused.

    Args:
        ts: (N, S) coarse samples.
        weights: (N, S - 1) coarse interval weights.
        seed: of the uniform numbers where stratified; otherwise they are linspace(0, 1, n).

    Returns:
        (N, n_importance), unsorted, without gradient.
    """
    n = settings.n_importance
    padded = torch.nn.functional.pad(weights.detach(), (1, 1), value=-torch.inf)
    peaks = torch.maximum(padded[:, 1:], padded[:, :-1])
    smooth = (peaks[:, 1:] + peaks[:, :-1]) / 2 + 0.01
    inner = smooth[:, 1:-1]
    cdf = torch.nn.functional.pad((inner / inner.sum(-1, keepdim=True)).cumsum(-1), (1, 0))
    mids = (ts[:, 1:] + ts[:, :-1]) / 2
    if settings.stratified:
        assert seed is not None
        rays = torch.arange(first_ray, first_ray + ts.shape[0], device=ts.device)
        u = uniform(seed, rays, n, FINE).to(ts.dtype)
    else:
        u = torch.linspace(0, 1, n, device=ts.device, dtype=ts.dtype).expand(ts.shape[0], n)
    above = torch.searchsorted(cdf, u.contiguous(), right=True)
    below = (above - 1).clamp(min=0)
    above = above.clamp(max=inner.shape[1])
    cdf_below, cdf_above = cdf.gather(1, below), cdf.gather(1, above)
    width = cdf_above - cdf_below
    share = (u - cdf_below) / torch.where(width > 0, width, 1)
    start, end = mids.gather(1, below), mids.gather(1, above)
    return start + share * (end - start)
