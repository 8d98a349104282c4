"""G3DR's sections 2 to 6 once more: slow, in float64, one formula after the other.

Nothing of the renderer, the cameras or the objective of the package is used. `Field.planes` is
where gradients are compared.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tests.kernels.oracle import importance

F64 = torch.float64
FILTERS = {1: (1, 3, 3, 1), 2: (1, 3, 5, 7, 7, 5, 3, 1)}
"""Of the levels 1/2 and 1/4 (section 2), before normalisation."""


def shrink(size: int, level: int) -> Tensor:
    """Matrix (size / 2^level, size) of the published filter, renormalised at the borders."""
    if level == 0:
        return torch.eye(size, dtype=F64)
    taps, matrix = FILTERS[level], torch.zeros(size >> level, size, dtype=F64)
    for i in range(size >> level):
        first = (i << level) + (1 << level) // 2 - len(taps) // 2
        for k, tap in enumerate(taps):
            if 0 <= first + k < size:
                matrix[i, first + k] = tap
        matrix[i] /= matrix[i].sum()
    return matrix


def bilinear(plane: Tensor, u: Tensor, v: Tensor) -> Tensor:
    """(C, P, P) at width coordinates u and height coordinates v (N,): (N, C); zeros beyond."""
    side = plane.shape[-1]
    x, y = ((u + 1) * side - 1) / 2, ((v + 1) * side - 1) / 2
    found = plane.new_zeros(len(u), len(plane))
    for di in (0, 1):
        for dj in (0, 1):
            i, j = x.floor().long() + di, y.floor().long() + dj
            weight = (1 - (x - i).abs()) * (1 - (y - j).abs())
            inside = (i >= 0) & (i < side) & (j >= 0) & (j < side)
            texel = plane[:, j.clamp(0, side - 1), i.clamp(0, side - 1)].T
            found = found + torch.where(inside, weight, 0.0)[:, None] * texel
    return found


class Scaled(torch.autograd.Function):
    """Section 4: nothing forward, the gradient times k backward."""

    @staticmethod
    def forward(ctx, x, k):
        ctx.k = k
        return x.clone()

    @staticmethod
    def backward(ctx, *grads):
        return grads[0] * ctx.k, None


def kernel(t: Tensor, d: Tensor) -> Tensor:
    """Section 4, value by value."""
    values = [
        min(max(1.25 * math.exp(-((a - b) ** 2) / 0.03), 0.05), 1.0)
        for a, b in zip(t.flatten().tolist(), d.expand_as(t).flatten().tolist(), strict=True)
    ]
    return torch.tensor(values, dtype=F64).view_as(t)


@dataclass
class Seen:
    """Rays of one picture, (R, ...)."""

    rgb: Tensor  # in [-1, 1]
    depth: Tensor
    opacity: Tensor
    weights: Tensor
    mids: Tensor
    deltas: Tensor
    ts: Tensor


@dataclass
class Field:
    """One scene: planes (3, C, P, P) and EG3D's decoder, whose raw weights are scaled here."""

    planes: Tensor
    raw_weights: list[Tensor]
    biases: list[Tensor]
    axes: tuple[str, ...] = ("xy", "xz", "zy")
    levels: tuple[int, ...] = (0, 1, 2)
    pyramid: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.pyramid = []
        for level in self.levels:
            matrix = shrink(self.planes.shape[-1], level)
            self.pyramid.append(torch.einsum("pchw,ih,jw->pcij", self.planes, matrix, matrix))

    def at(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Raw densities (N,) and colours (N, 3) at points (N, 3)."""
        features = points.new_zeros(())
        for plane, (u, v) in enumerate(self.axes):
            for level in self.pyramid:
                at = points[:, "xyz".index(u)], points[:, "xyz".index(v)]
                features = features + bilinear(level[plane], *at) / 3
        (first, second), (a, b) = self.raw_weights, self.biases
        hidden = features @ first.T / math.sqrt(first.shape[1]) + a
        out = torch.log1p(hidden.exp()) @ second.T / math.sqrt(second.shape[1]) + b
        return out[:, 0], torch.sigmoid(out[:, 1:]) * 1.002 - 0.001

    def march(self, o: Tensor, d: Tensor, ts: Tensor, prior: Tensor | None) -> Seen:
        """Section 3's midpoint rule on sorted samples ts (R, S), and section 4's kernel."""
        rays, count = ts.shape
        points = o[:, None] + ts[..., None] * d[:, None]
        raw, rgb = self.at(points.reshape(-1, 3))
        raw, rgb = raw.view(rays, count), rgb.view(rays, count, 3)
        deltas, mids = ts[:, 1:] - ts[:, :-1], (ts[:, 1:] + ts[:, :-1]) / 2
        sigma = torch.log1p(((raw[:, 1:] + raw[:, :-1]) / 2 - 1).exp())
        alpha, colour = 1 - torch.exp(-sigma * deltas), (rgb[:, 1:] + rgb[:, :-1]) / 2
        if prior is not None:
            k = kernel(mids, prior[:, None])
            alpha, colour = Scaled.apply(alpha, k), Scaled.apply(colour, k[..., None])
        transmittance, weights = torch.ones(rays, dtype=F64), []
        for i in range(count - 1):
            weights.append(alpha[:, i] * transmittance)
            transmittance = transmittance * (1 - alpha[:, i] + 1e-10)
        w = torch.stack(weights, dim=1)
        opacity = w.sum(1)
        depth = (w * mids).sum(1) / (opacity + 1e-3)
        return Seen(2 * (w[..., None] * colour).sum(1) - 1, depth, opacity, w, mids, deltas, ts)

    def render(
        self,
        o: Tensor,
        d: Tensor,
        coarse: Tensor,
        n_fine: int,
        prior: Tensor | None = None,
        around: Tensor | None = None,
    ) -> Seen:
        """Coarse samples (R, n), and n_fine others: where the coarse pass saw something (at even
        quantiles), or within 0.05 of known depths ``around`` (R,)."""
        if around is not None:
            fine = around[:, None] + torch.linspace(-0.05, 0.05, n_fine, dtype=F64)
        else:
            with torch.no_grad():
                weights = self.march(o, d, coarse, None).weights
            lists = zip(coarse.tolist(), weights.tolist(), strict=True)
            fine = torch.tensor([importance(t, w, n_fine) for t, w in lists], dtype=F64)
        return self.march(o, d, torch.cat([coarse, fine], 1).sort(1).values, prior)


def evenly(o: Tensor, d: Tensor, count: int) -> Tensor:
    """linspace between where rays (R, 3) enter and leave the box, (R, count); all must hit."""
    near, far = [], []
    for origin, direction in zip(o.tolist(), d.tolist(), strict=True):
        crossings = [
            sorted(((-1 - x) / dx, (1 - x) / dx))
            for x, dx in zip(origin, direction, strict=True)
            if abs(dx) > 1e-9
        ]
        near.append(max(a for a, _ in crossings))
        far.append(min(b for _, b in crossings))
    ends = [torch.tensor(x, dtype=F64)[:, None] for x in (near, far)]
    assert bool((ends[1] > ends[0]).all())
    return ends[0] + (ends[1] - ends[0]) * torch.arange(count, dtype=F64) / (count - 1)


def rays(yaw: float, pitch: float, size: int) -> tuple[Tensor, Tensor]:
    """Section 5: (size^2, 3) each; the pixel grid spans the outer pixels' centres."""
    back = torch.tensor(
        [-math.cos(pitch) * math.cos(yaw), -math.sin(pitch), -math.cos(pitch) * math.sin(yaw)],
        dtype=F64,
    )
    right = torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0], dtype=F64), back)
    right = right / right.norm()
    up = torch.linalg.cross(back, right)
    focal = (size - 1) / 2 / math.tan(math.radians(9))
    directions = []
    for row in range(size):
        for column in range(size):
            x, y = (column - (size - 1) / 2) / focal, ((size - 1) / 2 - row) / focal
            direction = x * right + y * up - back
            directions.append(direction / direction.norm())
    return (5 * back).expand(size * size, 3), torch.stack(directions)


def kl(seen: Seen, d: Tensor) -> Tensor:
    """DS-NeRF's loss, ray by ray."""
    s = math.sqrt(0.03 / 2)
    total = torch.zeros((), dtype=F64)
    for ray in range(len(d)):
        near = torch.exp(-((seen.mids[ray].detach() - d[ray]) ** 2) / (2 * s**2))
        each = torch.log(seen.weights[ray] + 1e-5) * near * seen.deltas[ray].detach()
        total = total - each.sum()
    return total / len(d)


def tv(depth: Tensor) -> Tensor:
    """(H, W): means of the squared steps down and across."""
    height, width = depth.shape
    down = [(depth[i, j] - depth[i + 1, j]) ** 2 for i in range(height - 1) for j in range(width)]
    across = [(depth[i, j] - depth[i, j + 1]) ** 2 for i in range(height) for j in range(width - 1)]
    return torch.stack(down).mean() + torch.stack(across).mean()
