"""`sample_multires` on workload B's coarse samples against one `grid_sample` per level."""

from __future__ import annotations

import functools

import torch
from fastrecon_kernels import sample_multires
from torch import Tensor

from bench.baselines.eg3d import features
from bench.case import BF16, EAGER, EXACT, PEER, Case, Renderer, Size
from bench.operators.points import PlaneInputs, along_rays
from bench.workloads import B


def published(x: PlaneInputs) -> tuple[Tensor]:
    """One `grid_sample` per level, summed, and the mean over planes."""
    return (features(x.levels, x.unit, x.settings.axes).mean(1),)


def ours(x: PlaneInputs, backend: str = "auto", dtype: torch.dtype | None = None) -> tuple[Tensor]:
    """The operator; ``dtype`` is what the planes are read in."""
    levels = x.levels if dtype is None else tuple(level.to(dtype) for level in x.levels)
    return (sample_multires(levels, x.unit, axes=x.settings.axes, backend=backend),)


CASES = (
    Case(
        "sample_multires B",
        functools.partial(along_rays, B, PlaneInputs, every=1),
        {
            PEER: Renderer(published),
            EAGER: Renderer(functools.partial(ours, backend="reference")),
            "ours": Renderer(ours, EXACT),
            "ours bf16": Renderer(functools.partial(ours, dtype=torch.bfloat16), BF16, ("cuda",)),
        },
        cpu={"forward": Size(1, 512), "forward+backward": Size(1, 256)},
    ),
)
