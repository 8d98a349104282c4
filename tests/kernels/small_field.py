"""A small random field, rays at it and every way to place samples: what the tests share."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from fastrecon_kernels import Decoder, Rendering, RenderSettings
from torch import Tensor

BINS = RenderSettings(n_samples=6, density_shift=1.0)
FINE = RenderSettings.g3dr(n_samples=5, n_importance=4, reduction="concat", density_shift=1.0)
EACH_PLACEMENT = pytest.mark.parametrize(
    "settings",
    [BINS, replace(BINS, stratified=True), FINE, replace(FINE, stratified=False)],
    ids=["bins", "stratified bins", "stratified fine", "fine"],
)


def make_field(batch: int = 2, channels: int = 4, n_colours: int = 3) -> tuple[Tensor, Decoder]:
    g = torch.Generator().manual_seed(11)
    planes = torch.randn(batch, 3, channels, 8, 8, generator=g)
    widths = [3 * channels, 8, 1 + n_colours]
    weights = [torch.randn(b, a, generator=g) for a, b in itertools.pairwise(widths)]
    biases = [torch.randn(w, generator=g) for w in widths[1:]]
    return planes, Decoder(weights, biases)


def make_rays(*shape: int) -> tuple[Tensor, Tensor]:
    """Unit-direction rays from distance 2 that pass near the centre."""
    g = torch.Generator().manual_seed(13)
    origins = torch.nn.functional.normalize(torch.randn(*shape, 3, generator=g), dim=-1) * 2
    targets = 0.5 * torch.randn(*shape, 3, generator=g).clamp(-1, 1)
    return origins, torch.nn.functional.normalize(targets - origins, dim=-1)


def flatten(r: Rendering) -> list[Tensor]:
    return [r.rgb, r.opacity, r.depth, *(r.samples or ())]
