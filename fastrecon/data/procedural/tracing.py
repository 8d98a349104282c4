"""Sphere tracing (Hart 1996): where rays first meet a distance field.

Rays live in the objects' frames and share one parameter t with the world. Rays that have arrived or
left are dropped; in dense fields all rays take all steps, because counting the live ones would make
a GPU wait.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .field import Field

STEPS = 100
"""Most steps of a ray whose neighbours are dropped as they arrive: 0.03% of the covered pixels are
then missed beside 600 steps; with 40 steps it were 0.4% (bench/NOTES.md)."""
DENSE_STEPS = 64
"""Most steps where every ray takes all of them."""
CONE_STEPS = 12
"""Most steps of a cone, which only shortens the rays' way."""
ARRIVED = 1e-3
"""A ray has arrived within this distance of the surface (objects are about 2 long); what colours
the point moves it closer."""
CREEPING = 5e-3
"""A ray that has not arrived after all steps counts as arrived if it is this near."""
FEW = 0.002
"""Tracing ends when fewer than this share of the rays have not arrived, unless it is dense."""


def sphere_interval(rays_o: Tensor, rays_d: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
    """Where rays (3, B, N) are within ``radius`` (B, 1) of the origin: near >= 0 and far (B, N).

    far < near on a miss.
    """
    a = (rays_d * rays_d).sum(0)
    b = (rays_o * rays_d).sum(0)
    c = (rays_o * rays_o).sum(0) - radius * radius
    discriminant = b * b - a * c
    root = discriminant.clamp(min=0.0).sqrt()
    near, far = (-b - root) / a, (-b + root) / a
    return near.clamp(min=0.0), torch.where(discriminant > 0, far, -1.0)


def march(
    field: Field, rays_o: Tensor, rays_d: Tensor, near: Tensor, far: Tensor, cone: float = 0.0
) -> Tensor:
    """The first t (B, N) in [near, far] at which each ray is on the surface; infinite on a miss.

    Args:
        field: of B objects.
        rays_o, rays_d: (3, B, N or 1) and (3, B, N) in the objects' frames.
        near, far: (B, N); rays with far < near are misses.
        cone: if positive, a ray stands for a cone that is ``cone * t * |rays_d|`` wide at t, and
            the answer is a t up to which the whole cone is free.
    """
    speed = rays_d.square().sum(0).sqrt()
    o = [x.expand_as(near) for x in rays_o.unbind(0)]
    if not field.dense:
        return _march_dropping(field, o, rays_d, near, far, speed, cone)
    d = rays_d.unbind(0)
    t, live = near, far >= near
    arrived, free = torch.zeros_like(live), t
    for _ in range(CONE_STEPS if cone else DENSE_STEPS):
        free = field.measure(*(torch.addcmul(a, t, b) for a, b in zip(o, d, strict=True)))
        if cone:
            free = free - cone * t * speed
        arrived = arrived | (live & (free < ARRIVED))
        t = torch.where(arrived, t, t + free / speed)
        live = live & (t <= far)
    return torch.where(arrived | (live & ((free < CREEPING) | bool(cone))), t, torch.inf)


def _march_dropping(
    field: Field,
    o: list[Tensor],
    rays_d: Tensor,
    near: Tensor,
    far: Tensor,
    speed: Tensor,
    cone: float,
) -> Tensor:
    """`march` for one object, in numpy, without the rays that are done."""
    found = np.full(near.shape[1], np.inf, np.float32)
    live = np.flatnonzero(far[0].numpy() >= near[0].numpy())
    columns = [*(x[0] for x in o), *rays_d[:, 0].unbind(0), near[0], far[0], speed[0]]
    ox, oy, oz, dx, dy, dz, t, end, pace = (x.numpy()[live] for x in columns)
    few, steps = FEW * len(live), CONE_STEPS if cone else STEPS
    for step in range(steps):
        if not len(live):
            break
        free = field.measure((ox + t * dx)[None], (oy + t * dy)[None], (oz + t * dz)[None])[0]
        if cone:
            free -= cone * t * pace
        arrived = free < ARRIVED
        if step == steps - 1 or len(live) < few:
            arrived = free < (np.inf if cone else CREEPING)
            found[live[arrived]] = t[arrived]
            break
        found[live[arrived]] = t[arrived]
        t = t + free / pace
        kept = np.flatnonzero(~arrived & (t <= end))
        live = live[kept]
        ox, oy, oz, dx, dy, dz, t, end, pace = (
            x[kept] for x in (ox, oy, oz, dx, dy, dz, t, end, pace)
        )
    return torch.from_numpy(found)[None]
