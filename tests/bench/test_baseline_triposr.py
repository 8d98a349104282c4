"""The plainly written TripoSR renderer draws what `render_rays` draws with its preset."""

from __future__ import annotations

from dataclasses import replace

import torch
from fastrecon_kernels import render_rays
from torch import Tensor

from bench.baselines.triposr import render_triposr
from bench.workloads import A, Inputs


def small() -> Inputs:
    """Workload A with less of everything, in fp64, and one ray in three past the object."""
    workload = replace(A, plane_side=8, channels=4, hidden=(8, 8))
    x = workload.inputs(views=2, image_side=4, requires_grad=True)
    x.mlp.double()
    planes = x.planes.detach().double().requires_grad_()
    rays_d = x.rays_d.double()
    rays_d[:, ::3] *= -1
    settings = replace(x.settings, n_samples=9)
    return Inputs(planes, (planes,), x.mlp, x.rays_o.double(), rays_d, settings)


def test_it_is_render_rays_with_its_preset() -> None:
    x = small()
    rgb, opacity = render_triposr(x.planes, x.mlp, x.rays_o, x.rays_d, n_samples=9)
    ours = render_rays(x.planes, x.decoder, x.rays_o, x.rays_d, x.settings, backend="reference")
    torch.testing.assert_close(rgb, ours.rgb, rtol=0, atol=1e-8)
    torch.testing.assert_close(opacity, ours.opacity, rtol=0, atol=1e-8)
    assert 0 < int((opacity == 0).sum()) < opacity.numel()
    assert bool((opacity > 0.2).any())
    cotangent = torch.randn(rgb.shape, dtype=rgb.dtype, generator=torch.Generator().manual_seed(0))
    leaves = [x.planes, *x.mlp.parameters()]

    def gradients(picture: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(picture, leaves, cotangent)

    for mine, theirs in zip(gradients(ours.rgb), gradients(rgb), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-6, atol=1e-7)


def test_chunks_change_nothing() -> None:
    x = small()
    pictures = [
        render_triposr(x.planes, x.mlp, x.rays_o, x.rays_d, n_samples=9, chunk=chunk)[0]
        for chunk in (7, None)
    ]
    torch.testing.assert_close(*pictures, rtol=0, atol=1e-12)


def test_every_ray_misses() -> None:
    x = small()
    rgb, opacity = render_triposr(x.planes, x.mlp, 9 + x.rays_o, x.rays_d.abs(), n_samples=9)
    assert bool((rgb == 1).all())
    assert bool((opacity == 0).all())
