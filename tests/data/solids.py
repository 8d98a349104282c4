"""Independent truth about the parts of procedural objects: equations, hand-made scenes, marching.

Nothing here reads the package's intersection, normal or support code: a body is the set where its
equation is at most 0, and what a ray meets is found by walking along it in small steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrecon.data.bounds import ABSENT, Bodies
from fastrecon.data.primitives import PRIMITIVES
from fastrecon.data.scene import Scene

NAMES = [primitive.name for primitive in PRIMITIVES]
Array = np.ndarray


def _ring(u: Array) -> Array:
    return np.sqrt(u[..., 0] ** 2 + u[..., 1] ** 2)


def _largest(*terms: Array) -> Array:
    return np.max(np.stack(terms), axis=0)


# u (..., 3) in the body's own frame, shape (...) -> (...), at most 0 inside.
EQUATIONS: dict[str, Callable[[Array, Array], Array]] = {
    "ellipsoid": lambda u, shape: np.linalg.norm(u, axis=-1) - 1,
    "box": lambda u, shape: np.abs(u).max(axis=-1) - 1,
    "cylinder": lambda u, shape: _largest(_ring(u) - 1, np.abs(u[..., 2]) - 1),
    "cone": lambda u, shape: _largest(
        _ring(u) - (1 - (1 - shape) * (u[..., 2] + 1) / 2), np.abs(u[..., 2]) - 1
    ),
    "dome": lambda u, shape: _largest(np.linalg.norm(u, axis=-1) - 1, -u[..., 2]),
    "wedge": lambda u, shape: _largest(
        np.abs(u[..., 0]) - 1, -1 - u[..., 2], np.abs(u[..., 1]) - (1 - u[..., 2]) / 2
    ),
}


def level(scene: Scene, points: Array) -> Array:
    """Smallest of the parts' equations at world points (B, ..., 3): (B, ...), <= 0 inside."""
    bodies, lowest = scene.bodies, np.full(points.shape[:-1], np.inf)
    for b, k in zip(*np.nonzero(bodies.kinds != ABSENT), strict=True):
        u = (points[b] - bodies.centres[b, k]) @ np.linalg.inv(bodies.linear[b, k]).T
        value = EQUATIONS[NAMES[bodies.kinds[b, k]]](u, bodies.shapes[b, k])
        lowest[b] = np.minimum(lowest[b], value)
    return lowest


def march(scene: Scene, rays_o: Tensor, rays_d: Tensor, ts: Array) -> Array:
    """First of the ts (S,) at which rays (B, N, 3) are inside the union; inf where none is."""
    o, d = rays_o.double().numpy(), rays_d.double().numpy()
    inside = level(scene, o[:, :, None] + ts[:, None] * d[:, :, None]) <= 0
    return np.where(inside.any(-1), ts[inside.argmax(-1)], np.inf)


def slopes(scene: Scene, points: Array, h: float = 1e-5) -> Array:
    """Unit gradients of ``level`` by central differences: outward normals (B, N, 3)."""
    steps = h * np.eye(3)
    parts = [level(scene, points + s) - level(scene, points - s) for s in steps]
    gradient = np.stack(parts, axis=-1)
    return gradient / np.linalg.norm(gradient, axis=-1, keepdims=True)


def make_scene(
    parts: Sequence[Sequence[dict[str, Any]]],
    ambient: float = 1.0,
    lights: Sequence[Sequence[float]] = ((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)),
) -> Scene:
    """A scene from objects, each a list of parts.

    A part is a dict of ``kind`` and, as wanted, ``size`` (3 half sizes), ``rotation`` (3, 3),
    ``centre``, ``shape``, ``pattern``, ``rows`` (3, 3), ``phases``, ``fold`` and ``colours``.
    """
    n_slots = max(len(own) for own in parts)

    def table(name: str, default: Any) -> Array:
        rows = [[part.get(name, default) for part in own] for own in parts]
        return np.array([row + [default] * (n_slots - len(row)) for row in rows])

    kinds = [[NAMES.index(part["kind"]) for part in own] for own in parts]
    padded = np.array([row + [ABSENT] * (n_slots - len(row)) for row in kinds])
    linear = table("rotation", np.eye(3)) * table("size", (1.0, 1.0, 1.0))[..., None, :]
    bodies = Bodies(padded, table("shape", 0.0), linear, table("centre", (0.0, 0.0, 0.0)))
    return Scene(
        bodies=bodies,
        patterns=table("pattern", 0),
        phase_rows=table("rows", np.eye(3)),
        phases=table("phases", (0.0, 0.0, 0.0)),
        folds=table("fold", False),
        colours=table("colours", ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))),
        ambient=np.full(len(parts), ambient),
        lights=np.broadcast_to(np.array(lights), (len(parts), 2, 3)),
    )


def rotations(rng: np.random.Generator, n: int) -> Array:
    """Random orthogonal matrices (n, 3, 3), about half of them mirroring."""
    return np.linalg.qr(rng.normal(size=(n, 3, 3)))[0]


def inward_rays(seed: int, n_objects: int, n_rays: int, radius: float = 3.0):
    """Rays (B, N, 3) from a sphere about the origin toward random points of the cube [-1, 1]^3."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n_objects, n_rays, 3)
    rays_o = radius * torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=-1)
    aims = torch.rand(shape, generator=generator) * 2 - 1
    return rays_o, torch.nn.functional.normalize(aims - rays_o, dim=-1)
