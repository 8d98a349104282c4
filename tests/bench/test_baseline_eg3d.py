"""The plainly written EG3D renderer draws what `render_rays` draws with G3DR's preset."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from fastrecon_kernels import render_rays
from torch import Tensor

from bench.baselines.eg3d import fine_samples, render_g3dr
from bench.noise import uniform_noise
from bench.workloads import B, Inputs


def double(x: Inputs) -> Inputs:
    """The same inputs in fp64, so that parity is about the algorithm."""
    x.mlp.double()
    levels = tuple(level.detach().double().requires_grad_() for level in x.levels)
    return replace(x, levels=levels, rays_o=x.rays_o.double(), rays_d=x.rays_d.double())


@pytest.mark.parametrize("stratified", [False, True])
def test_workload_b_agrees_with_the_reference(stratified: bool) -> None:
    x = B.inputs(views=2, image_side=3)
    settings = replace(x.settings, stratified=stratified)
    noise = uniform_noise(settings, 2, 9, seed=5) if stratified else None
    with torch.no_grad():
        rgb, depth, opacity = render_g3dr(x.levels, x.mlp, x.rays_o, x.rays_d, noise=noise)
        ours = render_rays(
            x.levels, x.decoder, x.rays_o, x.rays_d, settings, seed=5, backend="reference"
        )
    assert float(rgb.std()) > 0.05
    torch.testing.assert_close(rgb, ours.rgb, rtol=0, atol=1e-5)
    torch.testing.assert_close(opacity, ours.opacity, rtol=0, atol=1e-5)
    torch.testing.assert_close(depth, ours.depth, rtol=0, atol=1e-4)


def test_gradients_agree_with_the_reference() -> None:
    workload = replace(B, plane_side=8, channels=4, hidden=(8,))
    x = double(workload.inputs(views=2, image_side=3, requires_grad=True))
    settings = replace(x.settings, n_samples=8, n_importance=5)
    noise = uniform_noise(settings, 2, 9, seed=1)
    rgb, _, _ = render_g3dr(
        x.levels, x.mlp, x.rays_o, x.rays_d, n_samples=8, n_importance=5, noise=noise
    )
    ours = render_rays(
        x.levels, x.decoder, x.rays_o, x.rays_d, settings, seed=1, backend="reference"
    ).rgb
    torch.testing.assert_close(rgb, ours, rtol=0, atol=1e-8)
    cotangent = torch.randn(rgb.shape, dtype=rgb.dtype, generator=torch.Generator().manual_seed(0))
    leaves = [*x.levels, *x.mlp.parameters()]

    def gradients(picture: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(picture, leaves, cotangent)

    for mine, theirs in zip(gradients(ours), gradients(rgb), strict=True):
        assert float(theirs.abs().max()) > 0
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


def test_a_ray_that_misses_is_sampled_where_other_rays_are() -> None:
    x = B.inputs(views=1, image_side=2)
    rays_d = x.rays_d.clone()
    rays_d[:, 0] = -rays_d[:, 0]
    with torch.no_grad():
        rgb, depth, opacity = render_g3dr(x.levels, x.mlp, x.rays_o, rays_d)
        lost = render_g3dr(x.levels, x.mlp, x.rays_o, -x.rays_d)
    assert bool(torch.isfinite(rgb).all())
    assert float(depth[0, 0]) > 3  # as far as the box is for the rays that hit it
    assert all(bool(torch.isfinite(part).all()) for part in (*lost, opacity))


def test_fine_samples_go_where_the_weight_is() -> None:
    ts = torch.linspace(0, 1, 12)[None, None, :, None]
    weights = torch.zeros(1, 1, 11, 1)
    weights[..., 5, 0] = 1.0
    fine = fine_samples(ts, weights, 101, None)
    near_peak = ((fine - 0.5).abs() < 0.15).float().mean()
    assert float(near_peak) > 0.8
