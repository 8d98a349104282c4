"""`sample_triplane` on workload A's planes, 32 samples of each ray, against `grid_sample`."""

from __future__ import annotations

import functools

import torch
from fastrecon_kernels import sample_triplane
from torch import Tensor

from bench.baselines.eg3d import features
from bench.case import BF16, EAGER, EXACT, PEER, Case, Renderer, Size
from bench.operators.points import PlaneInputs, along_rays
from bench.workloads import A


def published(x: PlaneInputs) -> tuple[Tensor]:
    """Three `grid_sample` calls in one; the three planes' features side by side."""
    found = features(x.levels, x.unit, x.settings.axes)
    return (found.transpose(1, 2).flatten(2),)


def ours(x: PlaneInputs, backend: str = "auto", dtype: torch.dtype | None = None) -> tuple[Tensor]:
    """The operator; ``dtype`` is what the planes are read in."""
    planes = x.planes if dtype is None else x.planes.to(dtype)
    return (sample_triplane(planes, x.unit, axes=x.settings.axes, backend=backend),)


CASES = (
    Case(
        "sample_triplane A",
        functools.partial(along_rays, A, PlaneInputs, every=4),
        {
            PEER: Renderer(published),
            EAGER: Renderer(functools.partial(ours, backend="reference")),
            "ours": Renderer(ours, EXACT),
            "ours bf16": Renderer(functools.partial(ours, dtype=torch.bfloat16), BF16, ("cuda",)),
        },
        cpu={"forward": Size(1, 2048), "forward+backward": Size(1, 1024)},
    ),
)
