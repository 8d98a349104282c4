"""Calls of every operator and public function that the tests of operators share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from fastrecon_kernels import (
    Decoder,
    Rendering,
    RenderSettings,
    composite,
    query_points,
    render_rays,
    sample_multires,
    sample_triplane,
)
from torch import Tensor

BINS = RenderSettings(n_samples=4, density_shift=1.0)
FINE = RenderSettings.g3dr(n_samples=4, n_importance=3, reduction="concat", density_shift=1.0)


class Inputs:
    """Leaves of the calls: two objects, ``n_rays`` rays or points of each."""

    def __init__(self, device: torch.device, n_rays: int = 3, hidden: int = 8) -> None:
        g = torch.Generator().manual_seed(17)

        def leaf(*shape: int) -> Tensor:
            return torch.randn(shape, generator=g).to(device).requires_grad_()

        self.levels = [leaf(2, 3, 2, 6, 5), leaf(2, 3, 2, 3, 4)]
        self.weights, self.biases = [leaf(hidden, 6), leaf(4, hidden)], [leaf(hidden), None]
        self.points = leaf(2, n_rays, 3)
        origins = torch.nn.functional.normalize(self.points.detach(), dim=-1) * 2
        self.rays_o = origins.requires_grad_()
        self.rays_d = (-0.4 * origins.detach() + 0.05).requires_grad_()
        self.raw, self.rgbs = leaf(2, n_rays, 5), leaf(2, n_rays, 5, 3)
        self.ts = torch.rand(2, n_rays, 5, generator=g).sort(-1).values.to(device)
        self.prior = torch.full((2, n_rays), 2.0, device=device)

    @property
    def decoder(self) -> Decoder:
        return Decoder(self.weights, self.biases)

    def leaves(self) -> list[Tensor]:
        field = [*self.levels, *self.weights, *(b for b in self.biases if b is not None)]
        return [*field, self.points, self.rays_o, self.rays_d, self.raw, self.rgbs]


def tensors(result: Any) -> list[Tensor]:
    """The tensors of a call's result."""
    if isinstance(result, Tensor):
        return [result]
    return [] if result is None else [x for part in result for x in tensors(part)]


def total(result: Any) -> Tensor:
    """A scalar that every differentiable tensor of a result takes part in."""
    parts = [x.square().sum() for x in tensors(result) if x.requires_grad]
    return torch.stack(parts).sum()


def _rendering(x: Inputs, backend: str) -> Rendering:
    return render_rays(x.levels[0], x.decoder, x.rays_o, x.rays_d, BINS, backend=backend)


def _rendering_fine(x: Inputs, backend: str) -> Rendering:
    return render_rays(
        x.levels,
        x.decoder,
        x.rays_o,
        x.rays_d,
        FINE,
        depth_prior=x.prior,
        per_sample=True,
        seed=5,
        backend=backend,
    )


CALLS: dict[str, Callable[[Inputs, str], Any]] = {
    "sample_triplane": lambda x, backend: sample_triplane(x.levels[0], x.points, backend=backend),
    "sample_multires": lambda x, backend: sample_multires(x.levels, x.points, backend=backend),
    "composite": lambda x, backend: composite(
        x.raw,
        x.rgbs,
        x.ts,
        replace(BINS, early_stop=1e-3),
        depth_prior=x.prior,
        per_sample=True,
        backend=backend,
    ),
    "render_rays": _rendering,
    "render_rays with importance sampling": _rendering_fine,
    "query_points": lambda x, backend: query_points(
        x.levels[0], x.decoder, x.points, BINS, backend=backend
    ),
}
"""Every public function, called on inputs with a backend."""
