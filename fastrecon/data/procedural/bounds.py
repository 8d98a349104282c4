"""Where objects are, from points on their surfaces: bounds in space and in pictures, fitting."""

from __future__ import annotations

import torch
from torch import Tensor

from .field import Field

GRID = 20
"""Samples along each side of the box in which a surface is looked for."""
POINTS = 2048
"""Surface points kept per object."""
CLOSE = 0.02
"""A point counts as on the surface if it is nearer than this share of the box's half diagonal."""


def surface_points(field: Field, low: Tensor, high: Tensor) -> Tensor:
    """Points (B, POINTS, 3) spread over the surfaces of objects that lie in boxes low..high (B, 3).

    The samples of a grid nearest to the surface, moved onto it along the gradient. Features
    thinner than the grid are found because it is distances that are sampled; extremes are
    underestimated by up to about a hundredth of the object's size.
    """
    n_objects = low.shape[0]
    ticks = (torch.arange(GRID, device=low.device) + 0.5) / GRID
    grid = torch.stack(torch.meshgrid(ticks, ticks, ticks, indexing="ij")).flatten(1)  # (3, G)
    points = low.T[..., None] + grid[:, None] * (high - low).T[..., None]  # (3, B, G)
    nearest = field.distance(points).abs().topk(POINTS, dim=1, largest=False, sorted=True)
    points = points.gather(2, nearest.indices.expand(3, -1, -1))
    size = 0.5 * (high - low).norm(dim=1)[:, None]
    step = 1e-3 * float(size.max())
    for _ in range(2):
        normals, distance = field.normal(points, step)
        points = points - distance * normals
    off = field.distance(points).abs() > CLOSE * size
    # Those that did not get there (they were farthest) repeat the one that began nearest.
    points = torch.where(off, points[..., :1], points)
    return points.permute(1, 2, 0).reshape(n_objects, POINTS, 3)


def project(points: Tensor, c2w: Tensor) -> Tensor:
    """Points (B, K, 3) seen by cameras (B, V, 4, 4): tangents (B, V, K, 2), x right and y up.

    Infinite for points that are not in front of the camera.
    """
    local = (points[:, None] - c2w[..., None, :3, 3]) @ c2w[..., :3, :3]
    ahead = -local[..., 2:]
    return torch.where(ahead > 0, local[..., :2] / ahead, torch.inf)


def fit_to_view(
    points: Tensor,
    distance: float,
    half_side: Tensor,
    offset: Tensor,
    max_reach: float,
    steps: int = 8,
) -> tuple[Tensor, Tensor]:
    """Scale and shift that put each object where a prepared photograph would have it.

    Args:
        points: (B, K, 3) on the surfaces of objects of any size and place.
        distance: of the canonical camera from the origin.
        half_side: (B,) half the wanted side of the silhouette's bounding square, as a tangent.
        offset: (B, 2) where that square's centre goes (right, up), as tangents.
        max_reach: objects stay within this distance of the origin, and become smaller than wanted
            where that needs it.
        steps: of a fixed-point iteration over scale and place at once. A step leaves about
            size / distance of the error, because of perspective.

    Returns:
        scale (B,), shift (B, 3): a point x goes to scale x + shift. Along the view the object's
        middle is at the origin.
    """
    low, high = points.amin(1), points.amax(1)
    scale = 2.0 * half_side * distance / (high - low)[:, 1:].amax(1)
    shift = -0.5 * (low + high) * scale[:, None]
    goal = torch.cat([torch.zeros_like(offset[:, :1]), distance * offset], dim=1)
    for _ in range(steps):
        placed = points * scale[:, None, None] + shift[:, None]
        seen = placed[..., 1:] / (distance - placed[..., :1])
        left, right = seen.amin(1), seen.amax(1)
        reach = placed.norm(dim=-1).amax(1)
        grow = torch.minimum(2.0 * half_side / (right - left).amax(1), max_reach / reach)
        middle = 0.5 * (placed[..., :1].amin(1) + placed[..., :1].amax(1))
        centre = torch.cat([middle, 0.5 * distance * (left + right)], dim=1)
        scale, shift = scale * grow, (shift - centre) * grow[:, None] + goal
    return scale, shift
