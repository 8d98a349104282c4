"""Nearest hits of rays with one object's parts, and their colours: the arithmetic under ``Scene``.

Parts are visited one at a time: a part's matrix is applied to the rays once, a depth buffer keeps
the nearest part, and only visible points get a normal, a texture and light. On a processor this is
several times faster than one batched expression over all parts, because a part's arrays stay in
the cache and nothing is computed for parts that a ray cannot meet. Arrays are float32, constants
plain Python numbers, so nothing is promoted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from .primitives import PRIMITIVES, Array, Number, Vec3
from .textures import PATTERNS, lambert

# Rows of the outputs: colour before MASK, the three parts of the normal from NORMAL on.
MASK, DEPTH, NORMAL, CHANNELS = 3, 4, 5, 8


class Frame(NamedTuple):
    """Where a part is: plain numbers, or columns (n, 1) for n parts of one kind at once."""

    kind: int
    shape: Number
    inverse: tuple[Vec3, Vec3, Vec3]  # rows of the world-to-local matrix
    centre: Vec3

    def direction(self, v: Vec3) -> Vec3:
        """A world direction in the part's frame."""
        x, y, z = (r[0] * v[0] + r[1] * v[1] + r[2] * v[2] for r in self.inverse)
        return x, y, z

    def position(self, o: Vec3) -> Vec3:
        """A world position in the part's frame."""
        c = self.centre
        return self.direction((o[0] - c[0], o[1] - c[1], o[2] - c[2]))

    def entry(self, o: Vec3, d: Vec3) -> tuple[Array, Array]:
        """Where local rays enter the part, and whether they do so at t > 0."""
        near, far = PRIMITIVES[self.kind].interval(o, d, self.shape)
        hit = near <= far
        hit &= near > 0.0
        return near, hit


class Part(NamedTuple):
    """One part's constants, plain numbers.

    Parts are stretched along their own axes and then rotated (or mirrored), never sheared. So the
    rows of the inverse matrix are orthogonal: normals are lit in the frame of the unit ``axes``,
    where the inverse transpose is just three ``gains``.
    """

    frame: Frame
    pattern: int
    phase_rows: tuple[Vec3, Vec3, Vec3]
    phases: Vec3
    fold: bool
    colours: tuple[Vec3, Vec3]
    gains: Vec3  # lengths of the rows of frame.inverse
    axes: tuple[Vec3, Vec3, Vec3]  # those rows as unit vectors
    ambient: float
    lights: list[Vec3]  # along the axes

    def paint(self, out: Array, where: Array, p: Vec3, depth: Array) -> None:
        """Colour visible surface points of the part's frame.

        Args:
            out: (C, N) rows of colour and coverage and, for C = 8, depth and world normal.
            where: the points' columns.
            p, depth: the points and their depths.
        """
        n = PRIMITIVES[self.frame.kind].normal(p, self.frame.shape)
        x, y, z = (component * gain for component, gain in zip(n, self.gains, strict=True))
        scale = 1.0 / np.sqrt(x * x + y * y + z * z)
        light = lambert((x, y, z), scale, self.ambient, self.lights)
        u = (np.abs(p[0]), p[1], p[2]) if self.fold else p
        mix = PATTERNS[self.pattern](u, self.phase_rows, self.phases)
        for row, first, second in zip(out[:MASK], *self.colours, strict=True):
            row[where] = light * (first + mix * (second - first))
        out[MASK, where] = 1.0
        if len(out) == CHANNELS:
            out[DEPTH, where] = depth
            for row, a, b, c in zip(out[NORMAL:], *self.axes, strict=True):
                row[where] = (x * a + y * b + z * c) * scale


def trace_rays(
    objects: list[list[Part]],
    groups: list[tuple[Frame, Array, Array]],
    o: Array,
    d: Array,
    out: Array,
) -> None:
    """Nearest hits of any rays.

    Args:
        objects: B objects' parts.
        groups: for every kind that occurs, the frames of its n parts as columns, and which object
            (n,) and which of its parts (n,) each one is. Rays are few beside the pixels of a
            picture, so all parts of a kind are met at once.
        o, d: (3, B, N) origins and directions.
        out: (B, 8, N), all zeros before.
    """
    n_slots = max(len(parts) for parts in objects)
    times = np.full((n_slots, *d.shape[1:]), np.inf, np.float32)
    for frame, b, k in groups:
        near, hit = frame.entry(frame.position(tuple(o[:, b])), frame.direction(tuple(d[:, b])))
        times[k, b] = np.where(hit, near, np.inf)
    nearest = times.min(axis=0)
    owner = np.where(np.isfinite(nearest), times.argmin(axis=0), -1)
    for b, parts in enumerate(objects):
        for k, part in enumerate(parts):
            where = np.flatnonzero(owner[b] == k)
            if where.size:
                t = nearest[b, where]
                x, y, z = (o[i, b, where] + t * d[i, b, where] for i in range(3))
                part.paint(out[b], where, part.frame.position((x, y, z)), t)


def rasterise(
    parts: list[Part], camera: Array, windows: list[list[int]], step: float, out: Array
) -> None:
    """Trace one camera's picture into out (C, S, S), C of 4 or 8; what it held is lost.

    Args:
        parts: the object.
        camera: (4, 4) camera-to-world, rigid.
        windows: for each part, the pixels [left, right, top, bottom) outside which it is not seen.
        step: distance of neighbouring pixels as a tangent.
        out: premultiplied colour, coverage and, for C = 8, depth and normal at pixel centres.
    """
    side = out.shape[-1]
    tangents = ((np.arange(side) - 0.5 * (side - 1)) * step).astype(np.float32)
    right, up, back, eye = (tuple(column) for column in camera[:3].T.tolist())
    nearest = np.full((side, side), np.inf, np.float32)
    owner = np.full((side, side), -1, np.int8)
    local = []
    for k, part in enumerate(parts):
        left, stop, top, bottom = windows[k]
        # Directions (x, y, -1) in the camera's frame: a row plus a column in any frame.
        xs, ys = tangents[left:stop], -tangents[top:bottom, None]
        frame = part.frame
        across, upward, behind = (frame.direction(axis) for axis in (right, up, back))
        x, y, z = (xs * a + (ys * b - c) for a, b, c in zip(across, upward, behind, strict=True))
        window = slice(top, bottom), slice(left, stop)
        o_local = frame.position(eye)
        near, hit = frame.entry(o_local, (x, y, z))
        hit &= near < nearest[window]
        np.copyto(nearest[window], near, where=hit)
        np.copyto(owner[window], np.int8(k), where=hit)
        local.append((o_local, (x, y, z), near))
    out.fill(0.0)
    flat = out.reshape(len(out), -1)
    for k, (part, (o_local, d_local, near)) in enumerate(zip(parts, local, strict=True)):
        left, stop, top, bottom = windows[k]
        inside = np.flatnonzero(owner[top:bottom, left:stop] == k)
        if not inside.size:
            continue
        t = near.ravel()[inside]
        x, y, z = (a + t * b.ravel()[inside] for a, b in zip(o_local, d_local, strict=True))
        rows = inside // (stop - left)
        where = inside + (rows * (side - stop + left) + (top * side + left))
        depth = t
        if len(out) == CHANNELS:
            depth = t * np.sqrt(1.0 + tangents[where % side] ** 2 + tangents[rows + top] ** 2)
        part.paint(flat, where, (x, y, z), depth)


def box_filter(samples: Array, factor: int, out: Array) -> None:
    """Means over factor x factor blocks: samples (C, factor S, factor S) into out (C, S, S)."""
    rows = samples[:, ::factor]
    for i in range(1, factor):
        rows = rows + samples[:, i::factor]
    np.multiply(rows[:, :, ::factor], 1.0 / factor**2, out=out)
    for i in range(1, factor):
        out += rows[:, :, i::factor] * (1.0 / factor**2)
