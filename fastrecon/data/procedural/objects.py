"""Procedural objects: random compositions of solids, with texture and light, from a seed.

Such data trains reconstruction models nearly as well as scanned or modelled collections (LRM-Zero,
Xie et al. 2024), needs no download and never ends. Object i is a function of (seed, i) alone: its
random numbers come from the counter-based generator Philox with that key, so objects do not depend
on the batch, on the order or on the machine they are made on.

An object is a tree of 1 to ``max_parts`` solids that touch, joined or carved, sharply or with
fillets. About half of the objects are symmetric (texture included, light not): their own mirror
image, or turned onto themselves by a fraction of a turn. Then a single view says something about
the far side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .bounds import surface_points
from .composition import Composition, compose
from .draws import Draws, uniforms
from .field import ABSENT
from .paint import illuminate, paint
from .scene import Scene

PER_OBJECT = 32
PER_PART = 120
Array = NDArray[np.float64]


class ProceduralObjects:
    """An endless, indexed collection.

    Args:
        seed: of the collection.
        max_parts: the most parts that an object has.
        device: where the scenes live, and are traced.
    """

    def __init__(self, seed: int, max_parts: int = 4, device: torch.device | str = "cpu") -> None:
        if max_parts < 1:
            raise ValueError(f"max_parts must be at least 1, got {max_parts}")
        self.seed = seed
        self.max_parts = max_parts
        self.device = torch.device(device)

    def batch(self, indices: Sequence[int] | Tensor) -> Scene:
        """The objects with these indices (any in [0, 2**64)), as one scene.

        Each is centred (its bounding box) and touches the unit sphere.
        """
        chosen = indices.tolist() if isinstance(indices, Tensor) else [int(i) for i in indices]
        if not chosen:
            raise ValueError("indices must name at least one object, got none")
        n = PER_OBJECT + PER_PART * self.max_parts
        table = np.stack([uniforms(self.seed, i, n) for i in chosen])
        whole = Draws(table[:, :PER_OBJECT])
        parts = Draws(table[:, PER_OBJECT:].reshape(len(chosen), self.max_parts, PER_PART))
        made = compose(whole, parts)
        yaw = whole.one(0.0, 2.0 * np.pi)
        materials, lights = paint(whole, parts, made), illuminate(whole)
        scene = Scene(
            made.parts.to(self.device),
            materials.to(self.device),
            lights.to(self.device),
            _about_z(yaw).to(self.device),
            torch.ones(len(chosen), device=self.device),
            torch.zeros(len(chosen), 3, device=self.device),
            torch.zeros(len(chosen), 1, 3, device=self.device),
        )
        return _normalised(scene, made)


def _about_z(angle: Array) -> Tensor:
    """Rotations (B, 3, 3) by angles (B,)."""
    cos, sin, zero = np.cos(angle), np.sin(angle), np.zeros(len(angle))
    rows = [[cos, -sin, zero], [sin, cos, zero], [zero, zero, zero + 1.0]]
    stacked = np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)
    return torch.from_numpy(stacked.astype(np.float32))


def _surface(scene: Scene, corners: Tensor) -> Tensor:
    """Points (B, K, 3) on the surfaces of objects in boxes (B, 2, 3)."""
    with torch.inference_mode():
        found = [
            surface_points(piece.field, *box.unbind(1)) for piece, box in scene._split(corners)
        ]
        surface = torch.cat(found)
    return surface.clone()


def _normalised(scene: Scene, made: Composition) -> Scene:
    """The scene with its surfaces known, every object centred and as large as the unit sphere."""
    corners = torch.stack([made.low, made.high], dim=1).to(scene.device)
    surface = _surface(scene, corners)
    empty = (surface.amin(1) == surface.amax(1)).all(1)
    if bool(empty.any()):  # one in thousands: its parts have nothing in common, so the first stays
        kinds = scene.parts.kinds.clone()
        kinds[empty, 1:] = ABSENT
        scene = replace(scene, parts=replace(scene.parts, kinds=kinds))
        surface = _surface(scene, corners)
    scene = replace(scene, surface=surface)
    points = scene.points
    middle = 0.5 * (points.amin(1) + points.amax(1))
    scale = 1.0 / (points - middle[:, None]).norm(dim=-1).amax(1)
    return scene.moved(scale, -middle * scale[:, None])
