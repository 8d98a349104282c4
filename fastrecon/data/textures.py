"""Surface colour of procedural parts: patterns that mix two colours, and the light on them.

A pattern maps a point of the part's own frame to a mixing weight in [0, 1] between the part's two
colours. It reads three phases, affine functions of the point, ``rows[i] . u + phases[i]``, counted
in periods. A new pattern is one more function here and one more entry in ``PATTERNS``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from .primitives import Array, Number, Vec3

TURN = 2.0 * math.pi
Rows = tuple[Vec3, Vec3, Vec3]


def _phase(u: Vec3, rows: Rows, phases: Vec3, i: int) -> Number:
    row = rows[i]
    return u[0] * row[0] + u[1] * row[1] + u[2] * row[2] + phases[i]


def _odd(whole: Number) -> Number:
    """1 where a whole number is odd, else 0."""
    return whole - 2.0 * np.floor(whole * 0.5)


def solid(u: Vec3, rows: Rows, phases: Vec3) -> Number:
    """The first colour everywhere."""
    return 0.0


def checker(u: Vec3, rows: Rows, phases: Vec3) -> Number:
    """A chessboard in three dimensions along the part's own axes; reads rows[i][i] alone."""
    return _odd(sum(np.floor(u[i] * rows[i][i] + phases[i]) for i in range(3)))


def stripes(u: Vec3, rows: Rows, phases: Vec3) -> Number:
    """Layers one period thick across the first phase."""
    return _odd(np.floor(_phase(u, rows, phases, 0)))


def waves(u: Vec3, rows: Rows, phases: Vec3) -> Number:
    """Smooth blotches: the mean of three sinusoids, one along each phase."""
    total = sum(np.sin(_phase(u, rows, phases, i) * TURN) for i in range(3))
    return total * (1.0 / 6.0) + 0.5


PATTERNS: tuple[Callable[[Vec3, Rows, Vec3], Number], ...] = (solid, checker, stripes, waves)


def lambert(normal: Vec3, scale: Array, ambient: float, lights: Sequence[Vec3]) -> Number:
    """Brightness of a matt white surface: ambient + sum over lights of max(0, n . l).

    Args:
        normal: normals, in any orthonormal frame.
        scale: what makes them unit vectors.
        ambient: light from everywhere.
        lights: unit vectors toward the lights in the same frame, times their strengths.

    Returns:
        At most 1 where ambient and strengths add up to no more. Light stays with the world, not
        with the camera, and casts no shadows.
    """
    total: Number = ambient
    for light in lights:
        towards = normal[0] * light[0] + normal[1] * light[1] + normal[2] * light[2]
        total = total + np.maximum(towards, 0.0) * scale
    return total


def hsv_to_rgb(hsv: Array) -> Array:
    """(..., 3) hue (one turn is 1), saturation and value -> (..., 3) red, green and blue."""
    hue, saturation, value = hsv[..., 0:1], hsv[..., 1:2], hsv[..., 2:3]
    k = (np.array([5.0, 3.0, 1.0]) + 6.0 * hue) % 6.0
    return value * (1.0 - saturation * np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0))
