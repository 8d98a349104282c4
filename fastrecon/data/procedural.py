"""Procedural objects: random compositions of primitives, with texture and light, from a seed.

Such data trains reconstruction models nearly as well as scanned or modelled collections (LRM-Zero,
Xie et al. 2024), needs no download and never ends. Object i is a function of (seed, i) alone: its
random numbers come from the counter-based generator Philox with that key, so objects do not depend
on the batch, on the order or on the machine they are made on.

An object is a tree of 1 to ``max_parts`` overlapping convex parts, so it is connected. About half
of the objects are their own mirror image about a vertical plane (texture included, light not),
because then a single view says something about the far side.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .bounds import ABSENT, Bodies, unit_sphere
from .primitives import PRIMITIVES, Array
from .scene import Pictures, Scene, Trace
from .textures import PATTERNS, checker, hsv_to_rgb

__all__ = ["Pictures", "ProceduralObjects", "Scene", "Trace", "uniforms"]

PER_OBJECT = 12
PER_PART = 40
MIRROR = np.array([-1.0, 1.0, 1.0])
SOLID_SHARE = 0.3  # the other patterns share the rest evenly
TURN = 2.0 * np.pi


def uniforms(seed: int, index: int, n: int) -> Array:
    """``n`` numbers uniform on [0, 1), a function of (seed, index): Philox with that key."""
    if not 0 <= seed < 2**64 or not 0 <= index < 2**64:
        raise ValueError(
            f"seed and index must be whole numbers in [0, 2**64), got {seed} and {index}"
        )
    key = np.array([seed, index], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).random(n)


class _Draws:
    """Hands out the columns of a table (B, ..., n) of uniform numbers, each once."""

    def __init__(self, table: Array) -> None:
        self.table = table
        self.used = 0

    def take(self, n: int, low: float = 0.0, high: float = 1.0) -> Array:
        """(..., n) numbers uniform on [low, high)."""
        if self.used + n > self.table.shape[-1]:
            raise ValueError(f"only {self.table.shape[-1]} numbers were drawn; draw more")
        u = self.table[..., self.used : self.used + n]
        self.used += n
        return low + (high - low) * u

    def one(self, low: float = 0.0, high: float = 1.0) -> Array:
        """(...) numbers uniform on [low, high)."""
        return self.take(1, low, high)[..., 0]

    def unit_vectors(self) -> Array:
        """(..., 3) uniform on the sphere."""
        z, angle = self.one(-1.0, 1.0), self.one(0.0, TURN)
        ring = np.sqrt(1.0 - z * z)
        return np.stack([ring * np.cos(angle), ring * np.sin(angle), z], axis=-1)


class ProceduralObjects:
    """An endless, indexed collection.

    Args:
        seed: of the collection.
        max_parts: the most parts that an object has.
        device: where the scenes put their pictures; the tracing itself runs on the processor.
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
        whole = _Draws(table[:, :PER_OBJECT])
        parts = _Draws(table[:, PER_OBJECT:].reshape(len(chosen), self.max_parts, PER_PART))
        roles = _Roles(whole, self.max_parts)
        bodies, sizes = _bodies(roles, parts)
        patterns, rows, phases, colours = _materials(roles, parts, sizes)
        yaw = whole.one(0.0, TURN)
        ambient, lights = _light(whole)
        turned = _rotation(np.stack([np.cos(yaw / 2), 0 * yaw, 0 * yaw, np.sin(yaw / 2)], -1))
        bodies = Bodies(
            bodies.kinds,
            bodies.shapes,
            turned[:, None] @ bodies.linear,
            (turned[:, None] @ bodies.centres[..., None])[..., 0],
        )
        scene = Scene(
            bodies,
            patterns,
            rows,
            phases,
            roles.on_plane,
            colours,
            ambient,
            lights,
            self.device,
        )
        return scene.moved(*unit_sphere(bodies))


class _Roles:
    """Which slots of an object hold a part, and which of them mirror each other.

    In a symmetric object slots 0, 3, 6, ... lie on the mirror plane x = 0, and 1 and 2, 4 and 5,
    ... are each other's mirror images; a last slot without a partner lies on the plane.
    """

    def __init__(self, draws: _Draws, max_parts: int) -> None:
        slot = np.arange(max_parts)
        count = 1 + np.floor(draws.one() * max_parts)[:, None]
        symmetric = (draws.one() < 0.5)[:, None]
        self.present = slot < count
        paired = symmetric & (slot % 3 == 1) & (slot + 1 < count)
        self.mirrored = symmetric & (slot % 3 == 2) & self.present
        self.on_plane = symmetric & ~paired & ~self.mirrored & self.present

    def copy_partner(self, array: Array) -> Array:
        """``array`` (B, P, ...) with the second part of every pair taking the first's values."""
        keep = self.mirrored.reshape(self.mirrored.shape + (1,) * (array.ndim - 2))
        return np.where(keep, np.roll(array, 1, axis=1), array)


def _rotation(q: Array) -> Array:
    """Unit quaternions (..., 4), real part first, to matrices (..., 3, 3)."""
    w, x, y, z = np.moveaxis(q, -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def _orientation(roles: _Roles, draws: _Draws) -> Array:
    """Half of the parts stand upright, the others point anywhere their role allows."""
    upright = draws.one() < 0.5
    half_yaw, half_pitch = draws.one(0.0, TURN / 2), draws.one(0.0, TURN / 2)
    u, zero = draws.take(3), np.zeros(upright.shape)
    # Uniform rotations: Shoemake, Graphics Gems III (1992).
    a, b = np.sqrt(1 - u[..., 0]), np.sqrt(u[..., 0])
    anywhere = np.stack(
        [
            a * np.sin(TURN * u[..., 1]),
            a * np.cos(TURN * u[..., 1]),
            b * np.sin(TURN * u[..., 2]),
            b * np.cos(TURN * u[..., 2]),
        ],
        axis=-1,
    )
    yawed = np.stack([np.cos(half_yaw), zero, zero, np.sin(half_yaw)], axis=-1)
    half_pitch = np.where(upright, 0.0, half_pitch)
    pitched = np.stack([np.cos(half_pitch), np.sin(half_pitch), zero, zero], axis=-1)
    free = np.where(upright[..., None], yawed, anywhere)
    return _rotation(np.where(roles.on_plane[..., None], pitched, free))


def _bodies(roles: _Roles, draws: _Draws) -> tuple[Bodies, Array]:
    """Kinds, sizes, rotations and places of the parts; also the half sizes (B, P, 3)."""
    kinds = roles.copy_partner(np.floor(draws.one() * len(PRIMITIVES)).astype(np.int64))
    kinds = np.where(roles.present, kinds, ABSENT)
    shapes = roles.copy_partner(draws.one(0.0, 0.7))
    overall = np.where(np.arange(kinds.shape[1]) == 0, 1.0, draws.one(0.35, 0.85))
    sizes = roles.copy_partner(overall[..., None] * np.exp(draws.take(3, -0.7, 0.4)))
    linear = _orientation(roles, draws) * sizes[..., None, :]
    linear = np.where(
        roles.mirrored[..., None, None], MIRROR[:, None] * np.roll(linear, 1, axis=1), linear
    )
    outward, overlap = draws.unit_vectors(), draws.one(0.0, 0.7)
    flat = outward * np.array([0.0, 1.0, 1.0])
    flat /= np.maximum(np.linalg.norm(flat, axis=-1, keepdims=True), 1e-12)
    outward = np.where(roles.on_plane[..., None], flat, outward)
    choice = draws.one()
    centres = np.zeros(sizes.shape)
    bodies = Bodies(kinds, shapes, linear, centres)
    objects = np.arange(len(kinds))
    for k in range(1, kinds.shape[1]):
        # Parts on the mirror plane grow from slot 0, which lies on it; others from any before.
        parent = np.where(roles.on_plane[:, k], 0, np.floor(choice[:, k] * k).astype(np.int64))
        direction = outward[:, k, None, None]
        both = np.broadcast_to(direction, (*kinds.shape, 1, 3))
        contact = bodies.support(both)[objects, parent, 0]
        # The contact point lies between the part's own centre and its surface: they overlap.
        own = bodies.support(-both)[objects, k, 0]
        place = contact - overlap[:, k, None] * own
        centres[:, k] = np.where(roles.mirrored[:, k, None], MIRROR * centres[:, k - 1], place)
    return Bodies(kinds, shapes, linear, np.nan_to_num(centres)), sizes


def _materials(roles: _Roles, draws: _Draws, sizes: Array) -> tuple[Array, Array, Array, Array]:
    """Patterns (B, P), phase rows (B, P, 3, 3), phases (B, P, 3), colours (B, P, 2, 3)."""
    u = draws.one()
    textured = 1 + np.floor((u - SOLID_SHARE) / (1 - SOLID_SHARE) * (len(PATTERNS) - 1))
    patterns = roles.copy_partner(np.where(u < SOLID_SHARE, 0, textured).astype(np.int64))
    axes = np.stack([draws.unit_vectors() for _ in range(3)], axis=-2)
    is_checker = patterns == PATTERNS.index(checker)
    axes = np.where(is_checker[..., None, None], np.eye(3), axes)
    # Periods per unit of length: cells of a third of the first part's typical half size, or more.
    rows = axes * draws.one(1.0, 3.0)[..., None, None] * sizes[..., None, :]
    phases = draws.take(3)
    hue = np.stack([draws.one(), draws.one()], axis=-1)
    # From greys and whites to strong colours, as things are.
    hsv = np.stack([hue, draws.take(2, 0.0, 0.9), draws.take(2, 0.3, 1.0)], axis=-1)
    colours = hsv_to_rgb(hsv)
    rows, phases, colours = (roles.copy_partner(x) for x in (rows, phases, colours))
    return patterns, rows, phases, colours


def _light(draws: _Draws) -> tuple[Array, Array]:
    """Ambient light, a lamp above and, for half of the objects, a weaker one anywhere."""
    above, anywhere = draws.unit_vectors(), draws.unit_vectors()
    above[..., 2] = np.abs(above[..., 2])
    ambient, key = draws.one(0.5, 0.9), draws.one(0.2, 0.6)
    fill = np.maximum(draws.one(-0.3, 0.3), 0.0)
    # Strengths that add up to 1 leave every colour below 1: nothing is clipped.
    total = ambient + key + fill
    lights = np.stack([above * key[:, None], anywhere * fill[:, None]], axis=1)
    return ambient / total, lights / total[:, None, None]
