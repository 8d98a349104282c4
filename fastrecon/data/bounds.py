"""Exact bounds of scaled, rotated and shifted convex bodies: in space, in pictures, and fitting.

Everything here comes from the bodies' support points: the farthest point in a direction. The
largest image coordinate of a body is the largest ratio of two linear functions over a convex set,
which Dinkelbach's iteration (Management Science 13, 1967) finds from support points with quadratic
convergence.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .primitives import PRIMITIVES, Array

ABSENT = -1
CORNERS = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)]) / 3**0.5
BOX_SIDES = np.concatenate([-np.eye(3), np.eye(3)])
OUTWARD = np.array([-1.0, 1.0, -1.0, 1.0])  # left, right, bottom, top


@dataclass(frozen=True, eq=False)
class Bodies:
    """B objects of at most P parts; a part is the image of its unit body, x = linear u + centre.

    An object's parts come first, padding (kind ABSENT) after them; arrays are float64.
    """

    kinds: Array  # (B, P) int, index into PRIMITIVES; ABSENT pads
    shapes: Array  # (B, P) the kind's own parameter in [0, 1]
    linear: Array  # (B, P, 3, 3)
    centres: Array  # (B, P, 3) scene units

    def support(self, directions: Array) -> Array:
        """Each part's farthest point in world directions (B, P, K, 3), same shape; NaN pads."""
        local = directions @ self.linear
        points = np.full(local.shape, np.nan)
        for kind, primitive in enumerate(PRIMITIVES):
            chosen = self.kinds == kind
            if chosen.any():
                points[chosen] = primitive.support(local[chosen], self.shapes[chosen][:, None])
        return points @ self.linear.swapaxes(-1, -2) + self.centres[:, :, None]

    def moved(self, scale: Array, shift: Array) -> Bodies:
        """Scaled about the origin by (B,), then shifted by (B, 3)."""
        s = scale[:, None, None]
        linear, centres = self.linear * s[..., None], self.centres * s + shift[:, None]
        return Bodies(self.kinds, self.shapes, linear, centres)

    def rectangles(self, cameras: Array, steps: int = 5) -> Array:
        """Image rectangles of every part, seen by cameras (B, V, 4, 4).

        Returns:
            (B, V, P, 4): left, right, bottom, top as tangents (x right, y up, at distance 1 from
            the camera); NaN for padding, infinite for a part that reaches the camera's plane.
        """
        n_views = cameras.shape[1]
        flat = Bodies(*(np.repeat(x, n_views, axis=0) for x in vars(self).values()))
        c2w = cameras.reshape(-1, 1, 1, 4, 4)
        position, forward, axes = c2w[..., :3, 3], -c2w[..., :3, 2], _image_axes(c2w)
        ratio = np.zeros((len(c2w), self.kinds.shape[1], 4))
        with np.errstate(divide="ignore", invalid="ignore"):
            for _ in range(steps):
                offset = flat.support(axes - ratio[..., None] * forward) - position
                ratio = (axes * offset).sum(-1) / (forward * offset).sum(-1)
        backward = np.broadcast_to(-forward, (*ratio.shape[:2], 1, 3))
        behind = (forward * (flat.support(backward) - position)).sum(-1) <= 0
        ratio = np.where(behind, np.inf, ratio) * OUTWARD
        return ratio.reshape(len(cameras), n_views, -1, 4)

    def box(self) -> tuple[Array, Array]:
        """Corners (B, 3) of every object's axis-aligned bounding box."""
        points = self.support(np.broadcast_to(BOX_SIDES, (*self.kinds.shape, 6, 3)))
        outward = np.fmax.reduce((points * BOX_SIDES).sum(-1), axis=1)
        return -outward[:, :3], outward[:, 3:]

    def reach(self, steps: int = 4) -> Array:
        """(B,) distance of each object's farthest point from the origin.

        Support points are followed outward from eight directions for every part; the distance
        never decreases, so few steps suffice. They may end in a local maximum: of 2000 objects
        0.5 % reach over 1 % farther, the worst 5 %.
        """
        points = np.broadcast_to(CORNERS, (*self.kinds.shape, 8, 3))
        for _ in range(steps):
            points = self.support(points)
        return np.fmax.reduce(np.linalg.norm(points, axis=-1), axis=(1, 2))


def _image_axes(c2w: Array) -> Array:
    """Directions left, right, down, up of cameras (..., 1, 1, 4, 4) -> (..., 1, 4, 3)."""
    right, up = c2w[..., 0, :3, 0], c2w[..., 0, :3, 1]
    return np.stack([-right, right, -up, up], axis=-2)


def unit_sphere(bodies: Bodies) -> tuple[Array, Array]:
    """Scale (B,) and shift (B, 3) that centre an object's box and let it touch the unit sphere."""
    low, high = bodies.box()
    middle = 0.5 * (low + high)
    scale = 1.0 / bodies.moved(np.ones(len(middle)), -middle).reach()
    return scale, -middle * scale[:, None]


def fit_to_view(
    bodies: Bodies,
    distance: float,
    half_side: Array,
    offset: Array,
    max_reach: float,
    steps: int = 8,
) -> tuple[Array, Array]:
    """Scale and shift that put each object where a prepared photograph would have it.

    Args:
        bodies: objects of any size and place.
        distance: of the canonical camera from the origin.
        half_side: (B,) half the wanted side of the silhouette's bounding square, as a tangent.
        offset: (B, 2) where that square's centre goes (right, up), as tangents.
        max_reach: objects stay within this distance of the origin, and become smaller than wanted
            where that needs it.
        steps: of a fixed-point iteration over scale, place and support points at once. A step
            leaves about size / distance of the error, because of perspective.

    Returns:
        scale (B,), shift (B, 3) for ``Bodies.moved``. Along the view the object's middle is at the
        origin.
    """
    low, high = bodies.box()
    scale = 2.0 * half_side * distance / (high - low)[:, 1:].max(axis=1)
    shift = -0.5 * (low + high) * scale[:, None]
    goal = np.concatenate([np.zeros((len(scale), 1)), distance * offset], axis=1)
    forward = np.array([-1.0, 0.0, 0.0])
    axes = np.array([[0.0, -1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]])  # left, right, down, up
    eye = -distance * forward
    size = bodies.kinds.shape
    sight = np.broadcast_to(axes, (*size, 4, 3))
    outward = np.broadcast_to(CORNERS, (*size, 8, 3))
    middle_x = 0.5 * (low + high)[:, 0]
    for _ in range(steps):
        # Scaling and shifting turn no direction, so support points of the original bodies serve.
        points = bodies.support(np.concatenate([sight, outward], axis=2))
        points = points * scale[:, None, None, None] + shift[:, None, None]
        offsets = points[:, :, :4] - eye
        ratio = (axes * offsets).sum(-1) / (forward * offsets).sum(-1)
        sight, outward = axes - ratio[..., None] * forward, points[:, :, 4:]
        sides = np.fmax.reduce(ratio, axis=1)
        reach = np.fmax.reduce(np.linalg.norm(outward, axis=-1), axis=(1, 2))
        side = (sides[:, ::2] + sides[:, 1::2]).max(axis=1)
        grow = np.minimum(2.0 * half_side / side, max_reach / reach)[:, None]
        centre = np.stack(
            [
                middle_x * scale + shift[:, 0],
                0.5 * distance * (sides[:, 1] - sides[:, 0]),
                0.5 * distance * (sides[:, 3] - sides[:, 2]),
            ],
            axis=1,
        )
        scale, shift = scale * grow[:, 0], (shift - centre) * grow + goal
    return scale, shift
