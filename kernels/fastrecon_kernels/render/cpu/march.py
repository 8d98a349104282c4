"""A block of rays through one object's field, forward and backward."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ...composite import half_way_deltas
from ...settings import RenderSettings
from ..rays import importance_samples, place_samples, ray_range
from .field import Field, Looked
from .shade import Shaded, measure, shade, shade_backward, weigh

STOP_SAMPLES = 16
"""Samples of a ray between two checks whether it has become opaque."""
STOP_MARGIN = 0.999
"""Share of `early_stop` at which a ray stops being looked up."""


class Placed(NamedTuple):
    """Coarse samples of N rays, or those that the caller gave."""

    chord: Tensor  # (N,) far - near
    ts: Tensor  # (N, S)
    deltas: Tensor | None  # (N, S) for bins
    alive: Tensor | None  # (N,) rays that hit the box; None: all

    def of(self, rows: slice | Tensor) -> Placed:
        """Those of some rays."""
        deltas = None if self.deltas is None else self.deltas[rows]
        alive = None if self.alive is None else self.alive[rows]
        return Placed(self.chord[rows], self.ts[rows], deltas, alive)


def place(
    rays_o: Tensor,
    rays_d: Tensor,
    settings: RenderSettings,
    ts: Tensor | None,
    seed: Tensor | None,
    first: int,
) -> Placed:
    """Place the samples of rays (N, 3), whose flat indices begin at ``first``."""
    near, far = ray_range(rays_o, rays_d, settings)
    alive = None
    if ts is None:
        ts, deltas = place_samples(near, far, settings, seed, first)
        alive = far > near  # the samples of a ray that misses have no length
    else:
        deltas = half_way_deltas(ts)
    return Placed(far - near, ts, deltas if settings.quadrature == "bins" else None, alive)


class Rays(NamedTuple):
    """N rays of one object."""

    origins: Tensor  # (N, 3)
    directions: Tensor  # (N, 3)
    placed: Placed
    refine: bool  # draw fine samples
    depth_prior: Tensor | None  # (N,)
    seed: Tensor | None
    first: int  # flat index of the first ray


class Marched(NamedTuple):
    """What the gradient of one block of rays needs."""

    shaded: Shaded
    passes: list[tuple[Tensor, Looked]]  # sample positions (N, S), coarse and fine
    order: Tensor | None  # (N, S) how the passes were merged


def march(field: Field, rays: Rays, keep: bool) -> Marched:
    """Look up the samples, refine them and composite."""
    settings, order = field.settings, None
    chord, ts, deltas, _ = rays.placed
    if settings.early_stop > 0 and not (keep or rays.refine):
        outputs, passes = _look_until_opaque(field, rays), []
    else:
        outputs, looked = _look(field, rays, ts, keep)
        passes = [(ts, looked)]
    if rays.refine:
        coarse = weigh(outputs[0], ts, None, chord, settings)
        fine = importance_samples(ts, coarse.weights, settings, rays.seed, rays.first)
        more, looked = _look(field, rays, fine, keep)
        passes.append((fine, looked))
        ts, order = torch.cat([ts, fine], 1).sort(dim=1, stable=True)
        outputs = torch.cat([outputs, more], 2).gather(2, order.expand(len(outputs), -1, -1))
    at = weigh(outputs[0], ts, deltas, chord, settings)
    return Marched(shade(at, outputs[1:], settings), passes, order)


def _look(field: Field, rays: Rays, ts: Tensor, keep: bool) -> tuple[Tensor, Looked]:
    """Outputs (1 + K, N, S) at samples (N, S) of the rays."""
    unit = ts.new_empty(3, *ts.shape)
    torch.mul(ts, rays.directions.t()[:, :, None], out=unit)
    unit = unit.add_(rays.origins.t()[:, :, None]).div_(field.settings.radius).view(3, -1)
    alive = rays.placed.alive
    if alive is not None:
        alive = None if bool(alive.all()) else alive[:, None].expand_as(ts).reshape(-1)
    outputs, looked = field.look(unit, alive, keep)
    return outputs.view(-1, *ts.shape), looked


def _look_until_opaque(field: Field, rays: Rays) -> Tensor:
    """Outputs as `_look` gives them, -inf and 0 where nothing behind can be seen any more."""
    settings, ts = field.settings, rays.placed.ts
    n_rays, n_samples = ts.shape
    outputs = ts.new_zeros(field.network.n_outputs, n_rays, n_samples)
    outputs[0] = -torch.inf
    optical = ts.new_zeros(n_rays)
    # Rounding must not stop a ray that the compositing, which sums in another order, keeps.
    stop = -math.log(settings.early_stop * STOP_MARGIN)
    overlap = 1 if settings.quadrature == "midpoint" else 0
    for start in range(0, n_samples, STOP_SAMPLES):
        part = slice(start, min(start + STOP_SAMPLES, n_samples))
        (seen,) = (optical < stop).nonzero(as_tuple=True)
        if len(seen) == 0:
            break
        if len(seen) == n_rays:
            outputs[:, :, part], _ = _look(field, rays, ts[:, part], keep=False)
        else:
            some = rays._replace(
                origins=rays.origins[seen],
                directions=rays.directions[seen],
                placed=rays.placed.of(seen),
            )
            found, _ = _look(field, some, ts[seen, part], keep=False)
            outputs[:, seen, part] = found
        since = slice(max(0, start - overlap), part.stop)
        deltas = rays.placed.deltas
        deltas = None if deltas is None else deltas[:, since]
        measured = measure(outputs[0][:, since], ts[:, since], deltas, rays.placed.chord, settings)
        optical += measured.optical.sum(-1)
    return outputs


class Cotangents(NamedTuple):
    """Gradients of the pixels of N rays; None where the loss does not read them."""

    rgb: Tensor | None  # (N, K)
    opacity: Tensor | None  # (N,)
    depth: Tensor | None  # (N,)
    weights: Tensor | None  # (N, M)


def march_backward(
    field: Field, rays: Rays, marched: Marched, grads: Cotangents
) -> tuple[Tensor, Tensor] | None:
    """Collect the field's gradients; returns those of the rays, (3, N) each, if wanted."""
    d_raw, d_colours = shade_backward(
        marched.shaded,
        None if grads.rgb is None else grads.rgb.t().contiguous(),
        grads.opacity,
        grads.depth,
        grads.weights,
        rays.depth_prior,
        field.settings,
    )
    d_outputs = torch.cat([d_raw[None], d_colours])
    if marched.order is not None:
        order = marched.order.expand(len(d_outputs), -1, -1)
        d_outputs = torch.empty_like(d_outputs).scatter_(2, order, d_outputs)
    d_origins = d_directions = None
    first = 0
    for ts, looked in marched.passes:
        part = d_outputs[:, :, first : first + ts.shape[1]].reshape(len(d_outputs), -1)
        first += ts.shape[1]
        d_unit = field.look_backward(looked, part)
        if d_unit is None:
            continue
        d_points = d_unit.div_(field.settings.radius).view(3, *ts.shape)
        along = (d_points * ts).sum(-1)
        d_directions = along if d_directions is None else d_directions + along
        straight = d_points.sum(-1)
        d_origins = straight if d_origins is None else d_origins + straight
    if d_origins is None or d_directions is None:
        return None
    return d_origins, d_directions
