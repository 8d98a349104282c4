"""`query_points` on both workloads against the published lookups and decoders."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from fastrecon_kernels import query_points
from torch import Tensor

from bench.baselines import eg3d, triposr
from bench.case import BF16, EAGER, PEER, TF32, Case, Renderer, Size
from bench.operators.points import PointInputs, along_rays
from bench.workloads import A, B

Run = Callable[[PointInputs], tuple[Tensor, ...]]


def published_a(x: PointInputs) -> tuple[Tensor, ...]:
    """TripoSR's `query`, object by object: densities (on a log scale, see `ours`) and colours."""
    pairs = [
        triposr.query(planes, x.mlp, points, x.settings.radius)
        for planes, points in zip(x.planes, x.points, strict=True)
    ]
    return torch.stack([s for s, _ in pairs]).log1p(), torch.stack([c for _, c in pairs])


def published_b(x: PointInputs) -> tuple[Tensor, ...]:
    """EG3D's `run_model` and its softplus."""
    raw, rgb = eg3d.query(x.levels, x.mlp, x.unit[:, None], x.settings.axes)
    return F.softplus(raw[:, 0, :, 0] - 1).log1p(), rgb[:, 0]


def ours(**options: Any) -> Run:
    """The operator. An exponential density spans decades: its logarithm is compared."""

    def run(x: PointInputs) -> tuple[Tensor, ...]:
        sigmas, rgbs = query_points(x.levels, x.decoder, x.points, x.settings, **options)
        return sigmas.log1p(), rgbs

    return run


def renderers(published: Run) -> dict[str, Renderer]:
    return {
        PEER: Renderer(published),
        EAGER: Renderer(ours(backend="reference")),
        "ours": Renderer(ours(), TF32),
        "ours bf16": Renderer(ours(precision="bf16"), BF16),
    }


CASES = (
    Case(
        "query_points A",
        functools.partial(along_rays, A, PointInputs, every=4),
        renderers(published_a),
        cpu={"forward": Size(1, 2048), "forward+backward": Size(1, 1024)},
    ),
    Case(
        "query_points B",
        functools.partial(along_rays, B, PointInputs, every=1),
        renderers(published_b),
        cpu={"forward": Size(1, 512), "forward+backward": Size(1, 256)},
    ),
)
