"""Inference on a typical object: most rays end at a surface or hit nothing.

Workload A and B with a ball of density in the middle of the box, and whole pictures of one object
as a viewer asks for them. Early stop drops samples behind a transmittance of 1e-3 and the occupancy
grid (built beforehand) those in empty cells; both change colours by about that much.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from fastrecon_kernels import build_occupancy, render_rays
from torch import Tensor, nn

from bench.case import BF16, EAGER, PEER, Case, Renderer, Size
from bench.operators.render_rays import Run, g3dr, ours, triposr
from bench.workloads import SEED, A, B, Inputs, Workload

BALL = 0.5
"""Radius of the ball, of the box's half side."""
STEEPNESS = {"exp": 60.0, "softplus": 400.0}
"""Raw density per unit of squared distance, by activation: a ray through the middle is stopped."""
EMPTY = 9.0
"""Raw density far outside, below zero: exp(-10) of an opaque one."""
EARLY_STOP = 1e-3
RESOLUTION = 64
"""Cells of the occupancy grid along a side."""


class BallInputs(Inputs):
    """A workload's inputs with the occupancy grid of its objects."""

    occupancy: Tensor


@torch.no_grad()
def put_ball(x: Inputs) -> None:
    """Make the density of every object that of a ball, in place.

    Channel 0 of each plane holds s (BALL^2 / 3 - (u^2 + v^2) / 2), s being the steepness, whose
    sum over the three planes is s (BALL^2 - r^2); unit 0 of every layer hands it on (an activation
    leaves large values alone and takes negative ones to about zero), and only it reaches the
    density. Coarser levels hold zeros there. Colours stay random.
    """
    steepness = STEEPNESS[x.settings.density_activation]
    for i, level in enumerate(x.levels):
        height, width = level.shape[-2:]
        v = (torch.arange(height, device=level.device) + 0.5) * (2 / height) - 1
        u = (torch.arange(width, device=level.device) + 0.5) * (2 / width) - 1
        squares = (v[:, None] ** 2 + u[None] ** 2) / 2
        level[:, :, 0] = steepness * (BALL**2 / 3 - squares) if i == 0 else 0.0
    linears = [layer for layer in x.mlp if isinstance(layer, nn.Linear)]
    channels = x.levels[0].shape[2]
    concat = x.settings.reduction == "concat"
    for i, linear in enumerate(linears):
        if i == 0:
            linear.weight[:, ::channels] = 0.0  # colours do not read the distance
        else:
            linear.weight[:, 0] = 0.0
        linear.weight[0] = 0.0
        inputs = slice(None, None, channels) if i == 0 and concat else 0
        linear.weight[0, inputs] = 3.0 if i == 0 and not concat else 1.0
        linear.bias[0] = 0.0
    linears[-1].bias[0] = -EMPTY


def ball(workload: Workload, size: Size, device: torch.device, requires_grad: bool) -> BallInputs:
    """The workload with balls, and their occupancy."""
    x = workload.problem(size, device, requires_grad)
    put_ball(x)
    found = BallInputs(**vars(x))
    found.occupancy = build_occupancy(x.levels, x.decoder, x.settings, resolution=RESOLUTION)
    return found


def skipping(occupancy: bool, **options: Any) -> Run:
    """`render_rays` with early stop and, if asked, the grid."""

    def run(x: Inputs) -> tuple[Tensor, ...]:
        assert isinstance(x, BallInputs)
        r = render_rays(
            x.levels,
            x.decoder,
            x.rays_o,
            x.rays_d,
            replace(x.settings, early_stop=EARLY_STOP),
            seed=SEED,
            occupancy=x.occupancy if occupancy else None,
            **options,
        )
        return r.rgb, r.opacity

    return run


def renderers(published: Run) -> dict[str, Renderer]:
    """Exact, then with what an object allows to leave out."""
    return {
        PEER: Renderer(published),
        EAGER: Renderer(ours(backend="reference")),
        "ours bf16": Renderer(ours(precision="bf16"), BF16),
        "ours bf16, early stop": Renderer(skipping(False, precision="bf16"), BF16),
        "ours bf16, early stop, occupancy": Renderer(skipping(True, precision="bf16"), BF16),
    }


def case(name: str, workload: Workload, published: Callable[[Inputs], Any], size: Size) -> Case:
    return Case(
        name,
        functools.partial(ball, workload),
        renderers(published),
        cpu={"forward": Size(1, 512, size.image_side)},
        full=size,
        passes=("forward",),
        extra=True,
    )


CASES = (
    case("typical A", A, triposr, Size(8, 128 * 128)),
    case("typical B", B, g3dr, Size(8, 128 * 128)),
    case("frame 512 A", A, triposr, Size(1, 512 * 512, 512)),
    case("frame 1024 A", A, triposr, Size(1, 1024 * 1024, 1024)),
    case("frame 512 B", B, g3dr, Size(1, 512 * 512, 512)),
)
