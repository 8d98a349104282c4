"""Independent truth about procedural objects: who is inside, hand-made scenes, brute force.

The inside tests are written from the solids' descriptions, in float64, without any distance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastrecon.data.procedural.field import ABSENT, JOIN, Parts
from fastrecon.data.procedural.scene import Scene
from fastrecon.data.procedural.solids import SOLIDS
from fastrecon.data.procedural.surface import Lights, Materials

Array = Any
NAMES = [solid.name for solid in SOLIDS]


def _ring(p: Array) -> Array:
    return np.hypot(p[..., 0], p[..., 1])


def _whole(low: int, high: int, trait: float) -> int:
    return min(low + int(trait * (high - low + 0.999)), high)


def _ellipsoid(p: Array, h: Array, u: float, v: float) -> Array:
    return ((p / h) ** 2).sum(-1) < 1


def _box(p: Array, h: Array, u: float, v: float) -> Array:
    edge = max(u - 0.5, 0.0) * h.min()
    if not edge:
        return (np.abs(p) < h).all(-1)
    return np.linalg.norm(np.maximum(np.abs(p) - (h - edge), 0.0), axis=-1) < edge


def _cylinder(p: Array, h: Array, u: float, v: float) -> Array:
    edge = max(u - 0.5, 0.0) * min(h[0], h[2])
    section = np.stack([_ring(p), np.abs(p[..., 2])], axis=-1)
    if not edge:
        return (section < h[[0, 2]]).all(-1)
    return np.linalg.norm(np.maximum(section - (h[[0, 2]] - edge), 0.0), axis=-1) < edge


def _cone(p: Array, h: Array, u: float, v: float) -> Array:
    share = (p[..., 2] / h[2] + 1) / 2  # 0 at the base, 1 at the cut
    return (_ring(p) < h[0] * (1 + share * (u - 1))) & (np.abs(p[..., 2]) < h[2])


def _capsule(p: Array, h: Array, u: float, v: float) -> Array:
    radius = min(h[0], h[2])
    nearest = np.clip(p[..., 2], -(h[2] - radius), h[2] - radius)
    return _ring(p) ** 2 + (p[..., 2] - nearest) ** 2 < radius**2


def _torus(p: Array, h: Array, u: float, v: float) -> Array:
    tube = min(h[2], 0.45 * h[0])
    return (_ring(p) - (h[0] - tube)) ** 2 + p[..., 2] ** 2 < tube**2


def _dome(p: Array, h: Array, u: float, v: float) -> Array:
    up = p[..., 2] + h[2]
    whole = (p[..., 0] / h[0]) ** 2 + (p[..., 1] / h[1]) ** 2 + (up / h[2] / 2) ** 2
    return (whole < 1) & (up > 0)


def _prism(p: Array, h: Array, u: float, v: float) -> Array:
    n = _whole(3, 8, u)
    angles = 2 * math.pi * np.arange(n) / n
    across = p[..., :2] @ np.stack([np.cos(angles), np.sin(angles)])
    return (across.max(-1) < h[0] * math.cos(math.pi / n)) & (np.abs(p[..., 2]) < h[2])


def _star(p: Array, h: Array, u: float, v: float) -> Array:
    depth, angle = 0.06 + 0.2 * u, np.arctan2(p[..., 1], p[..., 0])
    radius = h[0] * (1 - depth + depth * np.cos(_whole(3, 9, v) * angle))
    return (_ring(p) < radius) & (np.abs(p[..., 2]) < h[2])


def _lathe(p: Array, h: Array, u: float, v: float) -> Array:
    periods = (0.5 + 2 * v) / 2
    swing = np.cos(2 * math.pi * (periods * p[..., 2] / h[2] + u + v))
    depth = 0.12 + 0.33 * u
    return (_ring(p) < h[0] * (1 - depth + depth * swing)) & (np.abs(p[..., 2]) < h[2])


def _relief(p: Array, h: Array, u: float, v: float) -> Array:
    x, y = p[..., 0] / h[0], p[..., 1] / h[1]
    first = np.sin(math.pi * (0.6 + 1.6 * u) * x + 6 * v)
    second = np.sin(math.pi * (0.6 + 1.6 * v) * y + 6 * u)
    return (p[..., 2] < h[2] * (0.4 + 0.3 * (first + second))) & (np.abs(p) < h).all(-1)


def _octahedron(p: Array, h: Array, u: float, v: float) -> Array:
    return np.abs(p / h).sum(-1) < 1


def _pyramid(p: Array, h: Array, u: float, v: float) -> Array:
    height = (p[..., 2] / h[2] + 1) / 2
    return (np.abs(p[..., :2] / h[:2]).sum(-1) < 1 - height) & (height > 0)


def _tube(p: Array, h: Array, u: float, v: float) -> Array:
    inner = h[0] * (1 - 2 * (0.06 + 0.2 * u))
    return (_ring(p) < h[0]) & (_ring(p) > inner) & (np.abs(p[..., 2]) < h[2])


def _bowl(p: Array, h: Array, u: float, v: float) -> Array:
    """Where hz is half of hx: a spherical shell cut at its middle."""
    wall = h[2] * (0.08 + 0.17 * u)
    far = np.linalg.norm(p - [0, 0, h[2]], axis=-1)
    return (far < h[0]) & (far > h[0] - 2 * wall) & (p[..., 2] < h[2])


def _box_frame(p: Array, h: Array, u: float, v: float) -> Array:
    beam = 2 * h.min() * (0.1 + 0.15 * u)
    return (np.abs(p) < h).all(-1) & ((np.abs(p) > h - beam).sum(-1) >= 2)


def _cage(p: Array, h: Array, u: float, v: float) -> Array:
    wire, n = min(h[0], h[2]) * (0.08 + 0.1 * u), _whole(3, 8, v)
    rim, top = h[0] - wire, h[2] - wire
    hoops = np.hypot(_ring(p) - rim, np.abs(p[..., 2]) - top) < wire
    bars = np.zeros(hoops.shape, dtype=bool)
    for k in range(n):
        angle = 2 * math.pi * k / n
        foot = np.array([rim * math.cos(angle), rim * math.sin(angle)])
        beyond = np.maximum(np.abs(p[..., 2]) - top, 0.0)
        bars |= ((p[..., :2] - foot) ** 2).sum(-1) + beyond**2 < wire**2
    return hoops | bars


INSIDE: dict[str, Callable[[Array, Array, float, float], Array]] = {
    "ellipsoid": _ellipsoid,
    "box": _box,
    "cylinder": _cylinder,
    "cone": _cone,
    "capsule": _capsule,
    "torus": _torus,
    "dome": _dome,
    "prism": _prism,
    "star": _star,
    "lathe": _lathe,
    "relief": _relief,
    "octahedron": _octahedron,
    "pyramid": _pyramid,
    "tube": _tube,
    "bowl": _bowl,
    "box_frame": _box_frame,
    "cage": _cage,
}
"""Points (..., 3) of a solid's frame, half sizes (3,), traits u and v: who is inside."""


def make_parts(objects: Sequence[Sequence[dict[str, Any]]], folds: Sequence[int] = ()) -> Parts:
    """Objects from lists of parts.

    A part is a dict of ``kind`` and, as wanted, ``size`` (3 half sizes), ``traits`` (2),
    ``centre``, ``axes`` (3, 3) rows, ``way`` and ``fillet``.
    """
    n_slots = max(len(own) for own in objects)

    def table(name: str, default: Any, dtype: torch.dtype = torch.float32) -> Tensor:
        rows = [[part.get(name, default) for part in own] for own in objects]
        rows = [row + [default] * (n_slots - len(row)) for row in rows]
        return torch.from_numpy(np.array(rows)).to(dtype)

    kinds = [[NAMES.index(part["kind"]) for part in own] for own in objects]
    return Parts(
        torch.tensor([row + [ABSENT] * (n_slots - len(row)) for row in kinds]),
        table("way", JOIN, torch.int64),
        table("fillet", 0.0),
        table("axes", np.eye(3)),
        table("centre", (0.0, 0.0, 0.0)),
        table("size", (1.0, 1.0, 1.0)),
        table("traits", (0.0, 0.0)),
        torch.tensor(list(folds) or [0] * len(objects)),
    )


def even_light(n_objects: int, **changes: Any) -> Lights:
    """Light that shows colours as they are; ``changes`` are of one object's light."""
    black = torch.zeros(1, 3)
    light = {
        "up": torch.tensor([0.0, 0.0, 1.0]),
        "sky": torch.ones(3),
        "ground": torch.ones(3),
        "towards": torch.tensor([[1.0, 0.0, 0.0]]),
        "lamps": black,
        "occlusion": torch.zeros(()),
    } | {name: torch.tensor(value) for name, value in changes.items()}
    return Lights(**{k: v.expand(n_objects, *v.shape).clone() for k, v in light.items()})


def make_scene(
    objects: Sequence[Sequence[dict[str, Any]]],
    folds: Sequence[int] = (),
    lights: Lights | None = None,
    pictures: Tensor | None = None,
) -> Scene:
    """A scene of ``make_parts``; parts may have ``pattern``, ``rows``, ``phases`` and ``colours``.

    Its surface points are the corners of boxes that hold the parts.
    """
    parts = make_parts(objects, folds)
    shape = parts.kinds.shape
    absent = parts.kinds == ABSENT

    def table(name: str, default: Any) -> Tensor:
        rows = [[part.get(name, default) for part in own] for own in objects]
        rows = [row + [default] * (shape[1] - len(row)) for row in rows]
        return torch.from_numpy(np.array(rows))

    materials = Materials(
        table("pattern", 0),
        table("rows", np.eye(3)).float(),
        table("phases", (0.0, 0.0, 0.0)).float(),
        table("colours", ((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))).float(),
        torch.zeros(0, 3, 24, 24) if pictures is None else pictures,
        torch.zeros(shape, dtype=torch.int64),
    )
    reach = parts.centres.norm(dim=-1) + parts.halves.norm(dim=-1)
    radius = torch.where(absent, 0.0, reach).amax(1)
    corners = torch.cat([torch.eye(3), -torch.eye(3)])
    return Scene(
        parts,
        materials,
        even_light(shape[0]) if lights is None else lights,
        torch.eye(3).expand(shape[0], 3, 3),
        torch.ones(shape[0]),
        torch.zeros(shape[0], 3),
        radius[:, None, None] * corners,
    )


class DenseScene(Scene):
    """A scene that is computed on the processor in the way that GPUs compute it."""

    @property
    def dense(self) -> bool:
        return True

    @classmethod
    def of(cls, scene: Scene) -> DenseScene:
        return cls(*(getattr(scene, name) for name in scene.__dataclass_fields__))


def rotations(seed: int, n: int) -> Tensor:
    """Random rotations (n, 3, 3)."""
    made = np.linalg.qr(np.random.default_rng(seed).normal(size=(n, 3, 3)))[0]
    made *= np.sign(np.linalg.det(made))[:, None, None]
    return torch.from_numpy(made).float()


def inward_rays(
    seed: int, n_objects: int, n_rays: int, radius: float = 3.0, spread: float = 1.0
) -> tuple[Tensor, Tensor]:
    """Rays (B, N, 3) from a sphere about the origin toward random points of a cube around it."""
    generator = torch.Generator().manual_seed(seed)
    shape = (n_objects, n_rays, 3)
    rays_o = radius * torch.nn.functional.normalize(torch.randn(shape, generator=generator), dim=-1)
    aims = spread * (torch.rand(shape, generator=generator) * 2 - 1)
    return rays_o, torch.nn.functional.normalize(aims - rays_o, dim=-1)
