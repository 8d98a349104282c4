"""Normals of triangle meshes, where a file has none or useless ones."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Indices = NDArray[np.integer]

CREASE = math.radians(30.0)
"""A corner whose smooth normal leaves its face's own by more than this keeps the face's."""

THIN = 1e-6
"""Sine of a face's angle below which it is a line; float32 vertices on a line have some 1e-7."""


def unit(vectors: Array) -> Array:
    """Vectors (..., 3) scaled to length one; zeros stay zeros."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)


def face_normals(vertices: Array, faces: Indices) -> Array:
    """Unit normals (M, 3) by winding, counter-clockwise outside; zeros for faces without area."""
    a, b, c = (vertices[faces[:, k]] for k in range(3))
    # of unit edges, so that faces of every size are judged alike
    normals = np.cross(unit(b - a), unit(c - a))
    normals[np.linalg.norm(normals, axis=-1) < THIN] = 0.0
    return unit(normals)


def corner_normals(vertices: Array, faces: Indices) -> Array:
    """Normals (M, 3, 3) at every face's corners: smooth, but sharp across creases.

    A vertex's smooth normal is the mean of its faces' normals weighted by their angles there
    (Thürmer and Wüthrich 1998), vertices at one place counting as one. Where it is further than
    ``CREASE`` from the face's own normal, as on every corner of a cube, the face's own is taken.
    """
    own = face_normals(vertices, faces)
    _, places = np.unique(vertices, axis=0, return_inverse=True)
    places = places.reshape(-1)[faces]
    corners = vertices[faces]
    sums = np.zeros((int(places.max()) + 1, 3))
    for k in range(3):
        to_next = unit(corners[:, (k + 1) % 3] - corners[:, k])
        to_last = unit(corners[:, (k + 2) % 3] - corners[:, k])
        angles = np.arccos(np.clip((to_next * to_last).sum(-1), -1.0, 1.0))
        for axis in range(3):
            sums[:, axis] += np.bincount(
                places[:, k], weights=own[:, axis] * angles, minlength=len(sums)
            )
    smooth = unit(sums)[places]
    near = (smooth * own[:, None]).sum(-1) >= math.cos(CREASE)
    return np.where(near[..., None], smooth, own[:, None])


def usable(normals: Array | None, count: int) -> bool:
    """Whether a file's vertex normals can be taken: one per vertex, finite, none without length."""
    if normals is None or normals.shape != (count, 3) or not np.isfinite(normals).all():
        return False
    return bool((np.linalg.norm(normals, axis=-1) > 1e-6).all())


def wind_by(normals: Array, vertices: Array, faces: Indices) -> Indices:
    """Faces turned so that their winding agrees with their vertices' normals (N, 3).

    What renders can then tell front from back by winding alone.
    """
    agreement = (face_normals(vertices, faces) * normals[faces].sum(1)).sum(-1)
    return np.where((agreement < 0)[:, None], faces[:, ::-1], faces)
