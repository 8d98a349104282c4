"""Points along a workload's rays, for operators that read planes at points."""

from __future__ import annotations

import torch
from fastrecon_kernels import sample_rays
from torch import Tensor

from bench.case import Size
from bench.workloads import SEED, Inputs, Workload


class PointInputs(Inputs):
    """A workload's inputs with ``points`` (B, M, 3) along its rays, in scene units."""

    points: Tensor

    @property
    def unit(self) -> Tensor:
        """The points with the box at [-1, 1]."""
        return self.points / self.settings.radius

    @property
    def n_samples(self) -> int:
        return self.points.shape[:-1].numel()


class PlaneInputs(PointInputs):
    """The same for operators without a decoder."""

    @property
    def leaves(self) -> list[Tensor]:
        """The levels."""
        return list(self.levels)


def along_rays(
    workload: Workload,
    kind: type[PointInputs],
    size: Size,
    device: torch.device,
    requires_grad: bool,
    every: int,
) -> PointInputs:
    """Every ``every``-th sample of the workload's rays: neighbours in memory as they are there."""
    x = workload.problem(size, device, requires_grad)
    ts, _ = sample_rays(x.rays_o, x.rays_d, x.settings, seed=SEED)
    ts = ts[..., every // 2 :: every]
    points = x.rays_o[..., None, :] + ts[..., None] * x.rays_d[..., None, :]
    found = kind(**vars(x))
    found.points = points.flatten(1, 2)
    return found
