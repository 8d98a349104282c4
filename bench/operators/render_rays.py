"""`render_rays` on workloads A and B against TripoSR's and EG3D's published renderers.

And on workload L against Lightplane, which is measured where it is installed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from fastrecon_kernels import render_rays
from torch import Tensor

from bench.baselines.eg3d import render_g3dr
from bench.baselines.lightplane import NAME, absence, render_lightplane, render_plain
from bench.baselines.triposr import render_object, render_triposr
from bench.case import BF16, EAGER, EXACT, PEER, TF32, Case, Pass, Renderer, Size
from bench.workloads import SEED, A, B, Inputs, L

Outputs = tuple[Tensor, ...]
Run = Callable[[Inputs], Outputs]


def ours(**options: Any) -> Run:
    """`render_rays` with the given backend, precision, ...: rgb and opacity."""

    def run(x: Inputs) -> Outputs:
        r = render_rays(x.levels, x.decoder, x.rays_o, x.rays_d, x.settings, seed=SEED, **options)
        return r.rgb, r.opacity

    return run


def triposr(x: Inputs) -> Outputs:
    """TripoSR's algorithm as published: 65,536 samples at a time."""
    s = x.settings
    return render_triposr(
        x.planes, x.mlp, x.rays_o, x.rays_d, radius=s.radius, n_samples=s.n_samples
    )


def g3dr(x: Inputs, render: Callable[..., Outputs] = render_g3dr) -> Outputs:
    """EG3D's algorithm as G3DR publishes it: all samples at a time."""
    rgb, _, opacity = render(x.levels, x.mlp, x.rays_o, x.rays_d, noise=x.noise)
    return rgb, opacity


def under_autocast(run: Run) -> Run:
    """The same with bf16 products where PyTorch's autocast puts them."""

    def autocast(x: Inputs) -> Outputs:
        with torch.autocast(x.rays_o.device.type, torch.bfloat16):
            return run(x)

    return autocast


@functools.cache
def compiled(function: Callable[..., Any], dynamic: bool) -> Callable[..., Any]:
    """``torch.compile`` of a function; compiled when first called."""
    return torch.compile(function, dynamic=dynamic)


def triposr_compiled(x: Inputs) -> Outputs:
    """TripoSR's algorithm, an object at a time and its samples in one piece, compiled.

    Objects are hit by different numbers of rays, hence the dynamic shapes.
    """
    s = x.settings
    return render_triposr(
        x.planes,
        x.mlp,
        x.rays_o,
        x.rays_d,
        radius=s.radius,
        n_samples=s.n_samples,
        chunk=None,
        render=compiled(render_object, True),
    )


def g3dr_compiled(x: Inputs) -> Outputs:
    """EG3D's algorithm, compiled."""
    return g3dr(x, compiled(render_g3dr, False))


def plain_lightplane(
    x: Inputs, render: Callable[..., Outputs] = render_plain, **options: int
) -> Outputs:
    """Lightplane's formula: the plain way, compiled, or by its own kernels."""
    return render(x.planes, x.mlp, x.rays_o, x.rays_d, x.settings, **options)


def lightplane_compiled(x: Inputs) -> Outputs:
    """Lightplane's formula, compiled."""
    return plain_lightplane(x, compiled(render_plain, False))


def lightplane(**options: int) -> Renderer:
    """Lightplane itself."""
    run = functools.partial(plain_lightplane, render=render_lightplane, **options)
    return Renderer(run, EXACT, ("cuda",))


def lightplane_programs() -> dict[str, Renderer]:
    """Lightplane's forward pass in other sizes of a program than its speed test's 16 rays, 4 warps.

    Its backward pass always has 4 warps, and takes minutes to compile for more rays.
    """
    return {
        f"{NAME}, {rays} rays, {warps} warps": lightplane(block_size=rays, num_warps=warps)
        for rays, warps in ((16, 2), (16, 4), (32, 4), (32, 8), (64, 4), (64, 8))
    }


def renderers(published: Run, published_compiled: Run) -> dict[str, Renderer]:
    """Everybody who renders. Our reference leaves autocast, so it has no row under it."""
    return {
        PEER: Renderer(published),
        f"{PEER} bf16": Renderer(under_autocast(published), BF16),
        f"{PEER} compiled": Renderer(published_compiled, EXACT, compiled=True),
        EAGER: Renderer(ours(backend="reference")),
        "ours": Renderer(ours(), TF32),
        "ours tf32": Renderer(ours(precision="tf32"), TF32, ("cuda",)),
        "ours bf16": Renderer(ours(precision="bf16"), BF16),
    }


def sizes(rays: int, training_rays: int) -> dict[Pass, Size]:
    """What a CPU renders of one view."""
    return {"forward": Size(1, rays), "forward+backward": Size(1, training_rays)}


CASES = (
    Case(
        "render_rays A",
        A.problem,
        renderers(triposr, triposr_compiled),
        cpu=sizes(128 * 128, 128 * 32),
        memory=True,
    ),
    Case(
        "render_rays B",
        B.problem,
        renderers(g3dr, g3dr_compiled),
        cpu=sizes(1024, 256),  # of which the reference makes nine seconds on one core
        memory=True,
    ),
    Case(
        "render_rays L",
        L.problem,
        {
            **renderers(plain_lightplane, lightplane_compiled),
            "ours fp32": Renderer(ours(precision="fp32"), EXACT, ("cuda",)),
            **({} if absence() else {NAME: lightplane()}),
        },
        cpu=sizes(2048, 512),
        extra=True,  # what it is there for runs on a GPU only
    ),
)
if not absence():
    CASES += (
        Case(
            "programs L",
            L.problem,
            {
                PEER: Renderer(plain_lightplane),
                "ours fp32": Renderer(ours(precision="fp32"), EXACT),
                "ours": Renderer(ours(), TF32),
                "ours bf16": Renderer(ours(precision="bf16"), BF16),
                **lightplane_programs(),
            },
            cpu=sizes(2048, 512),
            passes=("forward",),
            extra=True,
        ),
    )
