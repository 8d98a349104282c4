"""The convex bodies that procedural objects are made of, each in its own unit frame.

A body answers three questions: over which stretch of a ray are you (``interval``), what is your
outward normal at a point of your surface (``normal``), and which of your points lies farthest in a
direction (``support``: bounds, placement and contact points come from it). A new kind of part is
one more class here and one more entry in ``PRIMITIVES``.

Conventions: vectors of rays and surface points are triples of component arrays, float32, that
broadcast against each other (the rays of one camera share a single origin, so ``o`` may be three
plain floats). Directions have any length and ``t`` counts in units of it, hence ``t`` is the same
in the world and in the body's frame. Every body contains the origin of its frame, fits in
[-1, 1]^3 and is its own mirror image under x -> -x (which symmetric objects rely on).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Number = Array | float
Vec3 = tuple[Number, Number, Number]
Interval = tuple[Array, Array]

TINY = 1e-12
HUGE = 1e9


class Primitive(Protocol):
    """One kind of body; ``shape`` is a number in [0, 1] that only some kinds read."""

    name: str

    def interval(self, o: Vec3, d: Vec3, shape: Number) -> Interval:
        """Ray parameters (t_near, t_far) inside the body; t_near > t_far or NaN on a miss.

        Cones divide by zero where a ray touches their apex: call it under ``np.errstate``.
        """
        ...

    def normal(self, p: Vec3, shape: Number) -> Vec3:
        """Outward normals, not normalised, at surface points."""
        ...

    def support(self, n: Array, shape: Array) -> Array:
        """The body's farthest points (..., 3) in directions n (..., 3); shape (...)."""
        ...


def _inverse(d: Number) -> Array:
    """1 / d, huge but finite for a ray that is exactly parallel to a face (TINY is lost else)."""
    return 1.0 / np.asarray(d + TINY)


def _slab(o: Number, d: Number, half: float = 1.0) -> Interval:
    """Where |o + t d| <= half."""
    inverse = _inverse(d)
    middle = inverse * -o
    reach = np.abs(inverse)
    if half != 1.0:
        reach *= half
    return middle - reach, middle + reach


def _both(a: Interval, b: Interval) -> Interval:
    """Intersection of two intervals, written over the first."""
    return np.maximum(a[0], b[0], out=a[0]), np.minimum(a[1], b[1], out=a[1])


def _below(o: Number, d: Number, interval: Interval) -> Interval:
    """``interval`` cut to where o + t d <= 0."""
    inverse = _inverse(d)
    t = inverse * -o
    # The inverse's sign, which a parallel ray has too: it then leaves far away if it is inside.
    leaving = inverse > 0
    near, far = interval
    np.minimum(far, t, out=far, where=leaving)
    np.maximum(near, t, out=near, where=~leaving)
    return near, far


def _quadratic(a: Number, b: Number, c: Number) -> Interval:
    """Where a t^2 + 2 b t + c <= 0 for a > 0; ends swapped (a miss) where there is no root."""
    discriminant = np.asarray(b * b - a * c)
    root = np.sqrt(np.abs(discriminant))
    np.copysign(root, discriminant, out=root)
    inverse = 1.0 / np.asarray(a)
    middle = inverse * -b
    root = root * inverse
    return middle - root, middle + root


def _dot(a: Vec3, b: Vec3) -> Number:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _stack(like: Array, x: Number, y: Number, z: Number) -> Array:
    points = np.empty(like.shape)
    points[..., 0], points[..., 1], points[..., 2] = x, y, z
    return points


def _radial(n: Array) -> tuple[Array, Array, Array]:
    """Unit x, y of the part of n in the xy plane, and its length; (0, 0) where it vanishes."""
    length = np.hypot(n[..., 0], n[..., 1])
    scale = 1.0 / np.maximum(length, TINY)
    return n[..., 0] * scale, n[..., 1] * scale, length


class Ellipsoid:
    """The unit ball."""

    name = "ellipsoid"

    def interval(self, o: Vec3, d: Vec3, shape: Number) -> Interval:
        return _quadratic(_dot(d, d), _dot(o, d), _dot(o, o) - 1.0)

    def normal(self, p: Vec3, shape: Number) -> Vec3:
        return p

    def support(self, n: Array, shape: Array) -> Array:
        return n / np.maximum(np.sqrt((n * n).sum(-1, keepdims=True)), TINY)


class Box:
    """The cube [-1, 1]^3."""

    name = "box"

    def interval(self, o: Vec3, d: Vec3, shape: Number) -> Interval:
        cut = _both(_slab(o[0], d[0]), _slab(o[1], d[1]))
        return _both(cut, _slab(o[2], d[2]))

    def normal(self, p: Vec3, shape: Number) -> Vec3:
        x, y, z = (np.abs(c) for c in p)
        on_x = (x >= y) & (x >= z)
        on_y = ~on_x & (y >= z)
        return p[0] * on_x, p[1] * on_y, p[2] * ~(on_x | on_y)

    def support(self, n: Array, shape: Array) -> Array:
        return np.sign(n)


class Cylinder:
    """x^2 + y^2 <= 1, |z| <= 1."""

    name = "cylinder"

    def interval(self, o: Vec3, d: Vec3, shape: Number) -> Interval:
        # TINY keeps a ray along the axis finite: its interval becomes (nearly) everything.
        side = _quadratic(
            d[0] * d[0] + d[1] * d[1] + TINY,
            o[0] * d[0] + o[1] * d[1],
            o[0] * o[0] + o[1] * o[1] - 1.0,
        )
        return _both(side, _slab(o[2], d[2]))

    def normal(self, p: Vec3, shape: Number) -> Vec3:
        side = p[0] * p[0] + p[1] * p[1] >= p[2] * p[2]
        return p[0] * side, p[1] * side, p[2] * ~np.asarray(side)

    def support(self, n: Array, shape: Array) -> Array:
        x, y, _ = _radial(n)
        return _stack(n, x, y, np.sign(n[..., 2]))


class Cone:
    """A capped cone: radius 1 at z = -1 narrowing to ``shape`` at z = 1 (0: a point)."""

    name = "cone"

    def interval(self, o: Vec3, d: Vec3, shape: Number) -> Interval:
        middle, slope = 0.5 * (1.0 + shape), 0.5 * (shape - 1.0)
        radius_o, radius_d = middle + slope * o[2], slope * d[2]
        a = d[0] * d[0] + d[1] * d[1] - radius_d * radius_d + TINY
        b = o[0] * d[0] + o[1] * d[1] - radius_o * radius_d
        c = o[0] * o[0] + o[1] * o[1] - radius_o * radius_o
        discriminant = np.asarray(b * b - a * c)
        # Roots in the form that does not cancel as a crosses zero (rays along the surface).
        q = -(b + np.copysign(np.sqrt(np.abs(discriminant)), b))
        first, second = q / a, c / q
        near, far = np.minimum(first, second), np.maximum(first, second)
        # Steeper than the surface: inside both nappes of the double cone, and the body's nappe is
        # the one where the radius is positive, beyond the roots on one side.
        steep = np.asarray(a < 0)
        if steep.any():
            widening = np.broadcast_to(np.asarray(radius_d) > 0, near.shape)
            near, far = (
                np.where(steep, np.where(widening, far, -HUGE), near),
                np.where(steep, np.where(widening, HUGE, near), far),
            )
        far = np.where(discriminant < 0, -HUGE, far)
        return _both((near, far), _slab(o[2], d[2]))

    def normal(self, p: Vec3, shape: Number) -> Vec3:
        middle, slope = 0.5 * (1.0 + shape), 0.5 * (shape - 1.0)
        radius = np.sqrt(p[0] * p[0] + p[1] * p[1])
        # On the axis a side has no direction: an apex (shape 0) points along it, as a cap does.
        side = (radius - (middle + slope * p[2]) >= np.abs(p[2]) - 1.0) & (radius > 0.0)
        return p[0] * side, p[1] * side, np.where(side, -slope * radius, p[2])

    def support(self, n: Array, shape: Array) -> Array:
        x, y, length = _radial(n)
        top = n[..., 2] + shape * length >= length - n[..., 2]
        radius = np.where(top, shape, 1.0)
        return _stack(n, x * radius, y * radius, np.where(top, 1.0, -1.0))


class Dome:
    """The upper half of the unit ball."""

    name = "dome"

    def interval(self, o: Vec3, d: Vec3, shape: Number) -> Interval:
        ball = _quadratic(_dot(d, d), _dot(o, d), _dot(o, o) - 1.0)
        return _both(ball, _slab(o[2] - 0.5, d[2], 0.5))

    def normal(self, p: Vec3, shape: Number) -> Vec3:
        x, y, z = p
        round_side = np.sqrt(_dot(p, p)) - 1.0 >= -z
        return x * round_side, y * round_side, np.where(round_side, z, -1.0)

    def support(self, n: Array, shape: Array) -> Array:
        x, y, length = _radial(n)
        norm = np.maximum(np.hypot(length, n[..., 2]), TINY)
        up = n[..., 2] > 0
        radius = np.where(up, length / norm, 1.0)
        return _stack(n, x * radius, y * radius, np.where(up, n[..., 2] / norm, 0.0))


class Wedge:
    """A roof: |x| <= 1, flat at z = -1 where |y| <= 1, its ridge at y = 0, z = 1."""

    name = "wedge"

    def interval(self, o: Vec3, d: Vec3, shape: Number) -> Interval:
        cut = _both(_slab(o[0], d[0]), _slab(o[2], d[2]))
        for side in (2.0, -2.0):
            cut = _below(o[2] + side * o[1] - 1.0, d[2] + side * d[1], cut)
        return cut

    def normal(self, p: Vec3, shape: Number) -> Vec3:
        x, y, z = p
        roof = (2.0 * np.abs(y) + z - 1.0) * (1.0 / 5.0**0.5)
        gable, floor = np.abs(x) - 1.0, -1.0 - z
        on_gable = (gable >= roof) & (gable >= floor)
        on_roof = ~on_gable & (roof >= floor)
        nz = np.where(on_roof, 1.0, -1.0) * ~on_gable
        return x * on_gable, 2.0 * np.sign(y) * on_roof, nz

    def support(self, n: Array, shape: Array) -> Array:
        ridge = n[..., 2] >= np.abs(n[..., 1]) - n[..., 2]
        return _stack(
            n,
            np.sign(n[..., 0]),
            np.where(ridge, 0.0, np.sign(n[..., 1])),
            np.where(ridge, 1.0, -1.0),
        )


PRIMITIVES: tuple[Primitive, ...] = (Ellipsoid(), Box(), Cylinder(), Cone(), Dome(), Wedge())
