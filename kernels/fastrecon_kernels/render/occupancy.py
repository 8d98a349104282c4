"""A grid of cells that may hold density, so that a renderer can skip the others."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ..settings import RenderSettings
from ..types import Decoder
from .op import query_points

SLAB_POINTS = 1 << 20
"""Lattice points queried at once: bounds memory at any resolution."""


@torch.no_grad()
def build_occupancy(
    planes: Tensor | Sequence[Tensor],
    decoder: Decoder,
    settings: RenderSettings,
    *,
    resolution: int = 128,
    threshold: float = 1e-2,
) -> Tensor:
    """Cells of ``[-radius, radius]^3`` in which the density may exceed ``threshold``.

    The density is evaluated on a lattice over every cell, its corners included, that is at least
    twice as fine as the planes' texels; a cell is true if it exceeds the threshold there or in one
    of the 26 cells around it.

    Args:
        planes: (B, 3, C, H, W), or levels as `render_rays` takes them.
        resolution: R, cells along one side.
        threshold: on the activated density, in 1 / t (or 1 / chord).

    Returns:
        (B, R, R, R) bool, index order [x, y, z].
    """
    if resolution < 1:
        raise ValueError(f"resolution must be at least 1, got {resolution}")
    levels = (planes,) if isinstance(planes, Tensor) else planes
    texels = max(max(level.shape[-2:]) for level in levels)
    fine = max(1, math.ceil(2 * texels / resolution))
    corners = torch.linspace(-1, 1, resolution * fine + 1, device=levels[0].device)
    corners = corners * settings.radius
    centres = (corners[1:] + corners[:-1]) / 2
    at_corners = _dense(planes, decoder, settings, corners, threshold)
    at_centres = _dense(planes, decoder, settings, centres, threshold)
    cells = torch.maximum(
        F.max_pool3d(at_corners[:, None], fine + 1, stride=fine)[:, 0],
        F.max_pool3d(at_centres[:, None], fine, stride=fine)[:, 0],
    )
    return F.max_pool3d(cells[:, None], 3, stride=1, padding=1)[:, 0] > 0


def _dense(
    planes: Tensor | Sequence[Tensor],
    decoder: Decoder,
    settings: RenderSettings,
    side: Tensor,
    threshold: float,
) -> Tensor:
    """1 where the density on the lattice ``side x side x side`` exceeds the threshold, else 0."""
    batch = (planes if isinstance(planes, Tensor) else planes[0]).shape[0]
    n = side.shape[0]
    slabs = []
    for xs in side.split(max(1, SLAB_POINTS // (n * n))):
        lattice = torch.stack(torch.meshgrid(xs, side, side, indexing="ij"), -1)
        points = lattice.expand(batch, *lattice.shape)
        sigmas, _ = query_points(planes, decoder, points, settings)
        slabs.append((sigmas > threshold).float())
    return torch.cat(slabs, 1)
