"""The uniform numbers that `render_rays` jitters its samples with, for renderers to repeat."""

from __future__ import annotations

import torch
from fastrecon_kernels import RenderSettings
from fastrecon_kernels.common.random import COARSE, FINE, seed_tensor, uniform
from torch import Tensor


def uniform_noise(
    settings: RenderSettings,
    views: int,
    n_rays: int,
    *,
    seed: int,
    device: torch.device | str = "cpu",
) -> tuple[Tensor, Tensor]:
    """Numbers of the coarse samples (views, n_rays, S) and of the fine ones (views, n_rays, F)."""
    rays = torch.arange(views * n_rays, device=device)
    key = seed_tensor(seed, torch.device(device))
    sizes = ((COARSE, settings.n_samples), (FINE, settings.n_importance))
    coarse, fine = (uniform(key, rays, n, stream).view(views, n_rays, n) for stream, n in sizes)
    return coarse, fine
