"""Signed distances of the solids that procedural objects are made of, each in its own frame.

A solid lies within the box |x| <= hx, |y| <= hy, |z| <= hz of its frame, z being its axis. Where
two half sizes of a turned body must agree, the smaller one counts. Two traits in [0, 1], ``u``
and ``v``, vary it: rounding, number of sides, thickness, ... A distance is negative inside and
never larger than the true one (up to the curvature of very flat ellipsoids), so spheres of that
radius are free: that is what tracing needs. A new solid is one more function and one more entry in
``SOLIDS``.

Everything is elementwise: coordinates ``(n, N)`` with sizes and traits ``(n, 1)``, n solids of one
kind at N points each, on any device.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from .arrays import Array, maths

TINY = 1e-12


class Solid(NamedTuple):
    """One kind of part."""

    name: str
    distance: Callable[[Array, Array, Array, Sizes], Array]
    round: bool
    """Turned about z: hx and hy agree."""
    ring: bool
    """Empty around its centre: other parts touch it at its rim."""


class Sizes(NamedTuple):
    """Half sizes and traits, ``(n, 1)`` each."""

    hx: Array
    hy: Array
    hz: Array
    u: Array
    v: Array


def _ring(x: Array, y: Array) -> Array:
    return maths(x).sqrt(x * x + y * y)


def _corner(a: Array, b: Array) -> Array:
    """Both a <= 0 and b <= 0, for distances whose gradients are perpendicular."""
    m = maths(a)
    outside = _ring(m.positive(a), m.positive(b))
    return outside + m.negative(m.maximum(a, b))


def _sides(low: int, high: int, u: Array) -> Array:
    """A whole number from low to high, by the trait u."""
    return maths(u).floor(low + u * (high - low + 0.999))


def ellipsoid(x: Array, y: Array, z: Array, s: Sizes) -> Array:
    """First-order distance: k (k - 1) / |grad k|, k = |p / h|."""
    m = maths(x)
    ux, uy, uz = x / s.hx, y / s.hy, z / s.hz
    k = m.sqrt(ux * ux + uy * uy + uz * uz + TINY)  # TINY: the very centre is inside, too
    ux, uy, uz = ux / s.hx, uy / s.hy, uz / s.hz
    slope = m.sqrt(ux * ux + uy * uy + uz * uz + TINY)
    return k * (k - 1.0) / slope


def box(x: Array, y: Array, z: Array, s: Sizes) -> Array:
    """A box; u above a half rounds its edges."""
    m = maths(x)
    edge = m.positive(s.u - 0.5) * m.minimum(m.minimum(s.hx, s.hy), s.hz)
    a, b, c = abs(x) - (s.hx - edge), abs(y) - (s.hy - edge), abs(z) - (s.hz - edge)
    inside = m.negative(m.maximum(m.maximum(a, b), c))
    a, b, c = m.positive(a), m.positive(b), m.positive(c)
    return m.sqrt(a * a + b * b + c * c) + inside - edge


def cylinder(x: Array, y: Array, z: Array, s: Sizes) -> Array:
    """A cylinder; u above a half rounds its edges."""
    m = maths(x)
    edge = m.positive(s.u - 0.5) * m.minimum(s.hx, s.hz)
    return _corner(_ring(x, y) - (s.hx - edge), abs(z) - (s.hz - edge)) - edge


def cone(x: Array, y: Array, z: Array, s: Sizes) -> Array:
    """A cone cut at u of its base's radius: 0 is a point, 1 a cylinder."""
    m = maths(x)
    slope = 0.5 * s.hx * (1.0 - s.u) / s.hz
    side = _ring(x, y) - 0.5 * s.hx * (1.0 + s.u) + slope * z
    return m.maximum(side / m.sqrt(1.0 + slope * slope), abs(z) - s.hz)


def capsule(x: Array, y: Array, z: Array, s: Sizes) -> Array:
    """A cylinder with hemispherical ends."""
    m = maths(x)
    radius = m.minimum(s.hx, s.hz)
    beyond = m.positive(abs(z) - (s.hz - radius))
    return m.sqrt(x * x + y * y + beyond * beyond) - radius


def torus(x: Array, y: Array, z: Array, s: Sizes) -> Array:
    """A ring of round section."""
    m = maths(x)
    tube = m.minimum(s.hz, 0.45 * s.hx)
    return _ring(_ring(x, y) - (s.hx - tube), z) - tube


def dome(x: Array, y: Array, z: Array, s: Sizes) -> Array:
    """The upper half of an ellipsoid."""
    m = maths(x)
    up = z + s.hz
    return m.maximum(ellipsoid(x, y, up, s._replace(hz=2.0 * s.hz)), -up)


def prism(x: Array, y: Array, z: Array, s: Sizes) -> Array:
    """An extruded regular polygon of 3 to 8 sides (by u)."""
    m = maths(x)
    sector = 2.0 * math.pi / _sides(3, 8, s.u)
    angle = m.atan2(y, x)
    angle = angle - sector * m.nearest(angle / sector)
    side = _ring(x, y) * m.cos(angle) - s.hx * m.cos(0.5 * sector)
    return _corner(side, abs(z) - s.hz)


def star(x: Array, y: Array, z: Array, s: Sizes) -> Array:
    """An extruded flower or gear of 3 to 9 petals (by v), as deep as u says."""
    m = maths(x)
    petals, depth = _sides(3, 9, s.v), 0.06 + 0.2 * s.u
    radius = s.hx * (1.0 - depth * (1.0 - m.cos(petals * m.atan2(y, x))))
    steep = petals * depth / (1.0 - depth)
    side = (_ring(x, y) - radius) / m.sqrt(1.0 + steep * steep)
    return _corner(side, abs(z) - s.hz)


def lathe(x: Array, y: Array, z: Array, s: Sizes) -> Array:
    """A turned vase or spindle: the radius swings by u, half a period to two and a half (by v)."""
    m = maths(x)
    depth, turns = 0.12 + 0.33 * s.u, math.pi * (0.5 + 2.0 * s.v) / s.hz
    # The phase follows from both traits, so that either end may be wide.
    swing = m.cos(turns * z + 2.0 * math.pi * (s.u + s.v))
    slope = s.hx * depth * turns
    side = _ring(x, y) - s.hx * (1.0 - depth * (1.0 - swing))
    return m.maximum(side / m.sqrt(1.0 + slope * slope), abs(z) - s.hz)


def relief(x: Array, y: Array, z: Array, s: Sizes) -> Array:
    """A height field over a rectangle: two crossing waves, as steep as u and v say."""
    m = maths(x)
    kx, ky = math.pi * (0.6 + 1.6 * s.u) / s.hx, math.pi * (0.6 + 1.6 * s.v) / s.hy
    height = m.sin(kx * x + 6.0 * s.v) * 0.3 + m.sin(ky * y + 6.0 * s.u) * 0.3
    steep = 0.3 * s.hz * m.sqrt(kx * kx + ky * ky)
    top = (z - s.hz * (0.4 + height)) / m.sqrt(1.0 + steep * steep)
    return m.maximum(top, box(x, y, z, s._replace(u=0.0 * s.u)))


def octahedron(x: Array, y: Array, z: Array, s: Sizes) -> Array:
    """Two pyramids base to base."""
    m = maths(x)
    scale = 1.0 / m.sqrt(s.hx**-2 + s.hy**-2 + s.hz**-2)
    return (abs(x) / s.hx + abs(y) / s.hy + abs(z) / s.hz - 1.0) * scale


def pyramid(x: Array, y: Array, z: Array, s: Sizes) -> Array:
    """A four-sided pyramid standing on its base."""
    m = maths(x)
    up = z + s.hz
    scale = 1.0 / m.sqrt(s.hx**-2 + s.hy**-2 + 0.25 * s.hz**-2)
    sides = (abs(x) / s.hx + abs(y) / s.hy + 0.5 * up / s.hz - 1.0) * scale
    return m.maximum(sides, -up)


def tube(x: Array, y: Array, z: Array, s: Sizes) -> Array:
    """A hollow cylinder, open at both ends, its wall as thick as u says."""
    wall = s.hx * (0.06 + 0.2 * s.u)
    return _corner(abs(_ring(x, y) - (s.hx - wall)) - wall, abs(z) - s.hz)


def bowl(x: Array, y: Array, z: Array, s: Sizes) -> Array:
    """A hemispherical shell, open above (a cup where it is tall)."""
    m = maths(x)
    wall = m.minimum(s.hx, s.hz) * (0.08 + 0.17 * s.u)
    outer = s._replace(hx=s.hx - wall, hy=s.hy - wall, hz=2.0 * s.hz - wall)
    return m.maximum(abs(ellipsoid(x, y, z - s.hz, outer)) - wall, z - s.hz)


def box_frame(x: Array, y: Array, z: Array, s: Sizes) -> Array:
    """The twelve edges of a box, square beams."""
    m = maths(x)
    beam = m.minimum(m.minimum(s.hx, s.hy), s.hz) * (0.1 + 0.15 * s.u)
    a, b, c = abs(x) - s.hx, abs(y) - s.hy, abs(z) - s.hz
    p, q, r = abs(a + beam) - beam, abs(b + beam) - beam, abs(c + beam) - beam

    def beams(a: Array, b: Array, c: Array) -> Array:
        inside = m.negative(m.maximum(a, m.maximum(b, c)))
        a, b, c = m.positive(a), m.positive(b), m.positive(c)
        return m.sqrt(a * a + b * b + c * c) + inside

    return m.minimum(m.minimum(beams(a, q, r), beams(p, b, r)), beams(p, q, c))


def cage(x: Array, y: Array, z: Array, s: Sizes) -> Array:
    """Two hoops joined by 3 to 8 bars (by v), all round wires."""
    m = maths(x)
    wire = m.minimum(s.hx, s.hz) * (0.08 + 0.1 * s.u)
    rim, ring, height = s.hx - wire, _ring(x, y), abs(z)
    hoops = _ring(ring - rim, height - (s.hz - wire))
    sector = 2.0 * math.pi / _sides(3, 8, s.v)
    angle = m.atan2(y, x)
    angle = angle - sector * m.nearest(angle / sector)
    across, along = ring * m.cos(angle) - rim, ring * m.sin(angle)
    above = m.positive(height - (s.hz - wire))
    bars = m.sqrt(across * across + along * along + above * above)
    return m.minimum(hoops, bars) - wire


SOLIDS: tuple[Solid, ...] = (
    Solid("ellipsoid", ellipsoid, round=False, ring=False),
    Solid("box", box, round=False, ring=False),
    Solid("cylinder", cylinder, round=True, ring=False),
    Solid("cone", cone, round=True, ring=False),
    Solid("capsule", capsule, round=True, ring=False),
    Solid("torus", torus, round=True, ring=True),
    Solid("dome", dome, round=False, ring=False),
    Solid("prism", prism, round=True, ring=False),
    Solid("star", star, round=True, ring=False),
    Solid("lathe", lathe, round=True, ring=False),
    Solid("relief", relief, round=False, ring=False),
    Solid("octahedron", octahedron, round=False, ring=False),
    Solid("pyramid", pyramid, round=False, ring=False),
    Solid("tube", tube, round=True, ring=True),
    Solid("bowl", bowl, round=True, ring=True),
    Solid("box_frame", box_frame, round=False, ring=True),
    Solid("cage", cage, round=True, ring=True),
)
