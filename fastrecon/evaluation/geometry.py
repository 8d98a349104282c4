"""Surfaces compared: Chamfer distance and F-score of points spread evenly over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ..errors import MeshError

Points = NDArray[np.floating]

TOLERANCE = 0.05
"""Points nearer than this share of the true object's longest side count as right (F-score)."""
UNIT_SIDE = 2.0
"""Length that Real3D's protocol scales the true object's longest side to."""


@dataclass(frozen=True, eq=False)
class Surface:
    """Triangles in world axes, scene units."""

    vertices: Points  # (N, 3)
    faces: NDArray[np.integer]  # (M, 3)

    @property
    def longest_side(self) -> float:
        """Of the bounding box."""
        used = self.vertices[np.unique(self.faces)]
        return float((used.max(0) - used.min(0)).max())

    def sample(self, count: int, seed: int) -> Points:
        """``count`` random points (count, 3), uniform in area.

        Raises:
            MeshError: the faces have no area.
        """
        import trimesh

        mesh = trimesh.Trimesh(self.vertices, self.faces, process=False, validate=False)
        if not len(mesh.faces) or not mesh.area > 0:
            raise MeshError("the surface has no area, so no points can be drawn from it")
        return np.asarray(trimesh.sample.sample_surface(mesh, count, seed=seed)[0])


class ShapeScores(NamedTuple):
    """How near a surface comes to the true one; both are sampled in equal numbers."""

    chamfer: float
    """Mean distance from our points to the nearest true one, plus the mean distance back; plain
    (not squared) Euclidean distances, scene units."""
    chamfer_scaled: float
    """The same, after scaling the world so that the true object's longest side is 2 (Real3D)."""
    fscore: float
    """Harmonic mean of the shares of our points and of true points that lie within ``TOLERANCE``
    of the other surface's."""


def compare(points: Points, truth: Points, longest_side: float) -> ShapeScores:
    """Compare points ``(N, 3)`` with points of the true surface ``(M, 3)``, in place: no alignment.

    Args:
        longest_side: of the true object's bounding box, scene units.
    """
    from scipy.spatial import KDTree

    if not len(points) or not len(truth):
        raise ValueError(f"both surfaces need points, got {len(points)} and {len(truth)}")
    there = KDTree(truth).query(points)[0]
    back = KDTree(points).query(truth)[0]
    chamfer = float(there.mean() + back.mean())
    near = TOLERANCE * longest_side
    precision, recall = float((there <= near).mean()), float((back <= near).mean())
    both = precision + recall
    fscore = 2.0 * precision * recall / both if both else 0.0
    return ShapeScores(chamfer, chamfer * UNIT_SIDE / longest_side, fscore)


class Lattice(NamedTuple):
    """A regular grid over a box."""

    points: NDArray[np.float32]  # (X Y Z, 3), index order [x, y, z]
    shape: tuple[int, int, int]
    low: NDArray[np.float64]
    step: float


def lattice(low: Points, high: Points, resolution: int) -> Lattice:
    """A grid of cubes over the box low..high ``(3,)``, ``resolution`` points along its longest
    side; the other sides reach a little beyond the box."""
    step = float((high - low).max()) / (resolution - 1)
    counts = [max(2, int(np.ceil(side / step - 1e-9)) + 1) for side in high - low]
    ticks = [start + step * np.arange(n) for start, n in zip(low, counts, strict=True)]
    points = np.stack(np.meshgrid(*ticks, indexing="ij"), -1).reshape(-1, 3)
    shape = (counts[0], counts[1], counts[2])
    return Lattice(points.astype(np.float32), shape, np.asarray(low, np.float64), step)


def isosurface(values: Points, level: float, grid: Lattice) -> Surface:
    """Where ``values`` on a lattice cross ``level`` (inside is above).

    Raises:
        MeshError: nowhere.
    """
    from skimage.measure import marching_cubes

    if not values.min() < level < values.max():
        raise MeshError(f"no surface: the values nowhere cross {level:g}")
    corners, faces, _, _ = marching_cubes(values, level, allow_degenerate=False)
    if not len(faces):
        raise MeshError(f"no surface: what crosses {level:g} has no area")
    return Surface(grid.low + corners * grid.step, faces)
