"""An independent renderer for the tests: published formulas as loops over rays and samples.

Nothing of fastrecon_kernels is called, nothing is batched, everything is fp64. Sample positions
are Python floats, so gradients pass through ``o + t d`` only.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

PUBLISHED_EPS = 1e-10
"""Both papers' code adds this to every factor of the transmittance."""


class Pixel(NamedTuple):
    rgb: Tensor
    opacity: Tensor
    depth: Tensor
    weights: Tensor
    ts: list[float]


class Box(NamedTuple):
    near: float
    far: float


@dataclass
class Field:
    """One object: planes (3, C, H, W) per level and an MLP."""

    levels: Sequence[Tensor]
    weights: Sequence[Tensor]
    biases: Sequence[Tensor | None]
    activation: str
    radius: float
    axes: Sequence[str] = ("xy", "xz", "yz")
    reduction: str = "concat"
    padding: float = 0.0
    empty_outside: bool = False

    def at(self, o: Tensor, d: Tensor, t: float) -> tuple[Tensor, Tensor] | None:
        """Raw density and colour at o + t d; None where there is nothing."""
        p = (o + t * d) / self.radius
        if self.empty_outside and bool((p.abs() > 1).any()):
            return None
        per_plane = []
        for k, (u, v) in enumerate(self.axes):
            taps = [bilinear(x[k], p["xyz".index(u)], p["xyz".index(v)]) for x in self.levels]
            per_plane.append(torch.stack(taps).sum(0))
        if self.reduction == "concat":
            x = torch.cat(per_plane)
        else:
            x = per_plane[0] + per_plane[1] + per_plane[2]
            x = x / 3 if self.reduction == "mean" else x
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if i:
                x = activate(x, self.activation)
            x = weight @ x + (0 if bias is None else bias)
        colour = (1 + 2 * self.padding) / (1 + torch.exp(-x[1:])) - self.padding
        return x[0], colour


def bilinear(plane: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """(C, H, W) at width coordinate u and height coordinate v, texel centres (2 i + 1) / W - 1."""
    _, height, width = plane.shape
    x, y = ((u + 1) * width - 1) / 2, ((v + 1) * height - 1) / 2
    i0, j0 = math.floor(x.item()), math.floor(y.item())
    total = torch.zeros_like(plane[:, 0, 0])
    for j in (j0, j0 + 1):
        for i in (i0, i0 + 1):
            if 0 <= i < width and 0 <= j < height:
                total = total + (1 - (x - i).abs()) * (1 - (y - j).abs()) * plane[:, j, i]
    return total


def activate(x: Tensor, kind: str) -> Tensor:
    if kind == "silu":
        return x / (1 + torch.exp(-x))
    return torch.log1p(torch.exp(x)) if kind == "softplus" else x * (x > 0)


def density(x: Tensor, kind: str) -> Tensor:
    if kind in ("exp", "trunc_exp"):
        return torch.exp(x)
    return torch.log1p(torch.exp(x)) if kind == "softplus" else x * (x > 0)


def chord(o: Tensor, d: Tensor, half: float) -> Box:
    """Where a ray crosses the cube [-half, half]^3, plane by plane; near >= 0."""
    near, far = 0.0, math.inf
    for x, dx in zip(o.tolist(), d.tolist(), strict=True):
        dx = 1e-6 if abs(dx) < 1e-6 else dx
        a, b = sorted(((-half - x) / dx, (half - x) / dx))
        near, far = max(near, a), min(far, b)
    return Box(near, far)


@dataclass
class Film:
    """What is done with alphas and colours."""

    background: Sequence[float]
    low: float = 0.0
    high: float = 1.0
    depth_eps: float = 1e-3
    prior: float = math.nan
    early_stop: float = 0.0

    def expose(
        self, alphas: Sequence[Tensor], colours: Sequence[Tensor], ts: Sequence[float]
    ) -> Pixel:
        transmittance: Tensor | float = 1.0
        weights = []
        for alpha, colour, t in zip(alphas, colours, ts, strict=True):
            if not math.isnan(self.prior):
                k = min(max(1.25 * math.exp(-((t - self.prior) ** 2) / 0.03), 0.05), 1.0)
                for x in (alpha, colour):
                    if x.requires_grad:
                        x.register_hook(lambda g, k=k: k * g)
            seen = alpha * transmittance
            weights.append(0 * seen if transmittance < self.early_stop else seen)
            transmittance = transmittance * (1 - alpha + PUBLISHED_EPS)
        total = sum(weights)
        assert isinstance(total, Tensor)
        light = sum(w * c for w, c in zip(weights, colours, strict=True))
        unit = light + (1 - total) * torch.tensor(self.background, dtype=torch.float64)
        moment = sum(w * t for w, t in zip(weights, ts, strict=True))
        depth = moment / (total + self.depth_eps) if total > 0 else 0 * total
        rgb = self.low + (self.high - self.low) * unit
        return Pixel(rgb, total, torch.as_tensor(depth), torch.stack(weights), list(ts))

    def miss(self, n: int) -> Pixel:
        zero = torch.zeros(n, dtype=torch.float64)
        return self.expose(list(zero), [zero[:1].expand(len(self.background))] * n, [0.0] * n)


def bins(
    field: Field,
    o: Tensor,
    d: Tensor,
    ts: Sequence[float],
    lengths: Sequence[float],
    sigma: Callable[[Tensor], Tensor],
    film: Film,
) -> Pixel:
    """Density and colour constant over each bin."""
    alphas, colours = [], []
    for t, length in zip(ts, lengths, strict=True):
        found = field.at(o, d, t)
        zero = torch.zeros((), dtype=torch.float64)
        alphas.append(zero if found is None else 1 - torch.exp(-sigma(found[0]) * length))
        colours.append(zero.expand(len(film.background)) if found is None else found[1])
    return film.expose(alphas, colours, ts)


def midpoint(
    field: Field,
    o: Tensor,
    d: Tensor,
    ts: Sequence[float],
    sigma: Callable[[Tensor], Tensor],
    film: Film,
) -> Pixel:
    """Raw density, colour and t averaged over each interval between neighbouring samples."""
    found = [field.at(o, d, t) for t in ts]
    zero = torch.zeros((), dtype=torch.float64)
    alphas, colours, mids = [], [], []
    for i in range(len(ts) - 1):
        a, b = found[i], found[i + 1]
        mids.append((ts[i] + ts[i + 1]) / 2)
        if a is None or b is None:
            alphas.append(zero)
            colours.append(zero.expand(len(film.background)))
            continue
        alphas.append(1 - torch.exp(-sigma((a[0] + b[0]) / 2) * (ts[i + 1] - ts[i])))
        colours.append((a[1] + b[1]) / 2)
    return film.expose(alphas, colours, mids)


def bin_widths(ts: Sequence[float]) -> list[float]:
    """Edges half-way between neighbours; the outer edge mirrors the inner one."""
    inner = [(a + b) / 2 for a, b in itertools.pairwise(ts)]
    edges = [2 * ts[0] - inner[0], *inner, 2 * ts[-1] - inner[-1]]
    return [b - a for a, b in itertools.pairwise(edges)]


def triposr(field: Field, o: Tensor, d: Tensor, n: int) -> Pixel:
    """TripoSR: n equal bins of the ray's chord through the shrunk cube, each of length 1 / n."""
    film = Film(background=[1.0] * (field.weights[-1].shape[0] - 1))
    near, far = chord(o, d, field.radius * (1 - 1e-3))
    if not far - near > 0.01:
        return film.miss(n)
    ts = [near + (i + 0.5) / n * (far - near) for i in range(n)]
    return bins(field, o, d, ts, [1 / n] * n, lambda raw: torch.exp(raw - 1), film)


def importance(ts: Sequence[float], weights: Sequence[float], n: int) -> list[float]:
    """EG3D's fine samples at the quantiles 0, 1/(n-1), ..., 1 of the smoothed weights."""
    m = len(weights)
    padded = [-math.inf, *weights, -math.inf]
    peaks = [max(padded[j], padded[j + 1]) for j in range(m + 1)]
    smooth = [(peaks[j] + peaks[j + 1]) / 2 + 0.01 for j in range(m)]
    inner = smooth[1:-1]
    mids = [(a + b) / 2 for a, b in itertools.pairwise(ts)]
    cdf = [0.0]
    for w in inner:
        cdf.append(cdf[-1] + w / sum(inner))
    fine = []
    for i in range(n):
        u = i / (n - 1)
        k = max(j for j in range(len(cdf)) if cdf[j] <= u)
        if k == len(inner):
            fine.append(mids[k])
        else:
            fine.append(mids[k] + (u - cdf[k]) / (cdf[k + 1] - cdf[k]) * (mids[k + 1] - mids[k]))
    return fine


def eg3d(field: Field, o: Tensor, d: Tensor, box: Box, n: int, n_fine: int, film: Film) -> Pixel:
    """EG3D, G3DR, OpenLRM without jitter: a coarse pass, fine samples where it saw something."""
    near, far = box

    def sigma(raw: Tensor) -> Tensor:
        return torch.log1p(torch.exp(raw - 1))

    ts = [near + i * (far - near) / (n - 1) for i in range(n)]
    if n_fine:
        coarse = midpoint(field, o, d, ts, sigma, Film(film.background))
        ts = sorted([*ts, *importance(ts, coarse.weights.tolist(), n_fine)])
    return midpoint(field, o, d, ts, sigma, film)
