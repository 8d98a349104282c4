"""`composite` on the records of workloads A and B against the published `cumprod` marchers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from fastrecon_kernels import RenderSettings, composite, sample_rays
from torch import Tensor

from bench.baselines import eg3d, triposr
from bench.case import EAGER, PEER, Case, Renderer, Size
from bench.workloads import SEED, A, B, Workload


@dataclass
class RecordInputs:
    """Records along rays: raw densities (B, N, S), colours (B, N, S, 3) and where they lie."""

    raw: Tensor
    rgbs: Tensor
    ts: Tensor
    deltas: Tensor | None
    settings: RenderSettings

    @property
    def leaves(self) -> list[Tensor]:
        """Densities and colours."""
        return [self.raw, self.rgbs]

    @property
    def n_samples(self) -> int:
        return self.raw.numel()


def records(
    workload: Workload, size: Size, device: torch.device, requires_grad: bool
) -> RecordInputs:
    """Random records at the workload's sample positions, the midpoint rule's in one pass."""
    x = workload.problem(size, device, False)
    settings = x.settings
    ts, deltas = sample_rays(x.rays_o, x.rays_d, settings, seed=SEED)
    if settings.n_importance:
        middles = (ts[..., 1:] + ts[..., :-1]) / 2
        ts, deltas = torch.cat([ts, middles, middles[..., -1:]], -1).sort(-1).values, None
    generator = torch.Generator().manual_seed(SEED)
    raw = torch.randn(ts.shape, generator=generator) * 2
    rgbs = torch.rand(*ts.shape, 3, generator=generator)
    raw, rgbs = (t.to(device).requires_grad_(requires_grad) for t in (raw, rgbs))
    bins = deltas if settings.quadrature == "bins" else None
    return RecordInputs(raw, rgbs, ts, bins, settings)


def published_a(x: RecordInputs) -> tuple[Tensor, ...]:
    """TripoSR: exponential density, equal bins of the chord."""
    sigmas = torch.exp(x.raw - 1).flatten(0, 1)
    rgb, opacity = triposr.shade(sigmas, x.rgbs.flatten(0, 1))
    return rgb.view(*x.raw.shape[:2], 3), opacity.view(x.raw.shape[:2])


def published_b(x: RecordInputs) -> tuple[Tensor, ...]:
    """EG3D's midpoint marcher."""
    rgb, _, weights = eg3d.march(x.raw[..., None], x.rgbs, x.ts[..., None])
    return rgb, weights[..., 0].sum(-1)


def ours(x: RecordInputs, backend: str = "auto") -> tuple[Tensor, ...]:
    """The operator."""
    r = composite(x.raw, x.rgbs, x.ts, x.settings, deltas=x.deltas, backend=backend)
    return r.rgb, r.opacity


def case(workload: Workload, published: Callable[[RecordInputs], tuple[Tensor, ...]]) -> Case:
    return Case(
        f"composite {workload.name}",
        functools.partial(records, workload),
        {
            PEER: Renderer(published),
            EAGER: Renderer(functools.partial(ours, backend="reference")),
            "ours": Renderer(ours),
        },
        cpu={"forward": Size(1, 4096), "forward+backward": Size(1, 4096)},
    )


CASES = (case(A, published_a), case(B, published_b))
