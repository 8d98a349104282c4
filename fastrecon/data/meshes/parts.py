"""What trimesh makes of a mesh file, as checked arrays with transforms baked in."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from ...errors import MeshError
from .colours import Paint, read_paint, texture_label
from .files import Assets, only_picture
from .normals import Array, Indices, corner_normals, unit, usable, wind_by

if TYPE_CHECKING:
    from trimesh import Scene, Trimesh

LARGEST = 1e100
"""Coordinates beyond this overflow when they are squared."""


class Part(NamedTuple):
    """One geometry of a file in file coordinates, float64."""

    vertices: Array
    faces: Indices
    normals: Array
    paint: Paint


def parse(path: Path, kind: str, source: IO[Any], assets: Assets) -> Scene:
    """What trimesh makes of a file; whatever goes wrong in there is the file's fault."""
    import trimesh

    resolver: Any = assets
    try:
        with source:
            return trimesh.load_scene(source, kind, resolver=resolver, process=False)
    except MemoryError:
        raise
    except IndexError as error:
        raise MeshError(
            f"{path} is damaged: something refers to a vertex or entry that is not there "
            f"({error}); export it again"
        ) from error
    except Exception as error:
        if assets.missing:
            raise MeshError(texture_label(path, assets.missing[0])) from error
        raise MeshError(
            f"{path} is damaged or not {kind.upper()} ({type(error).__name__}: {error}); "
            "export it again"
        ) from error


@contextmanager
def silent() -> Iterator[None]:
    """Keep trimesh from printing the tracebacks of what is reported here in one sentence."""
    logger = logging.getLogger("trimesh")
    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def scene_parts(
    path: Path, scene: Scene, materials: list[dict[str, Any]], assets: Assets
) -> Iterable[Part]:
    """The surfaces of a scene, in the graph's order; points and lines are left out."""
    import trimesh

    for node in scene.graph.nodes_geometry:
        matrix, name = scene.graph[node]
        geometry = scene.geometry[name]
        if isinstance(geometry, trimesh.Trimesh) and len(geometry.faces):
            yield _part(path, geometry, np.asarray(matrix), read_paint(geometry, materials, assets))


def _part(path: Path, geometry: Trimesh, matrix: Array, paint: Paint) -> Part:
    """One geometry, checked, its transform baked in."""
    faces = np.asarray(geometry.faces, np.int64)
    local = np.asarray(geometry.vertices, np.float64)
    if local.shape[1:] != (3,) or faces.shape[1:] != (3,):
        raise MeshError(f"{path} has vertices without three coordinates; export it again")
    if faces.min() < 0 or faces.max() >= len(local):
        raise MeshError(
            f"{path} has faces of vertex {int(faces.max())} where there are {len(local)} vertices; "
            "export it again"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        vertices = local @ matrix[:3, :3].T + matrix[:3, 3]
    if not np.isfinite(vertices).all():
        bad = int((~np.isfinite(vertices)).any(1).sum())
        raise MeshError(f"{path} has {bad} vertices that are NaN or infinite; export it again")
    if np.abs(vertices).max() > LARGEST:
        raise MeshError(f"{path} has coordinates beyond {LARGEST:g}; export it in other units")
    if _mirrors(matrix):
        faces = faces[:, ::-1]
    # trimesh computes normals when asked; only those in its cache come from the file
    given = geometry._cache.cache.get("vertex_normals")
    normals = _turned(given, matrix)
    if paint.per_face or not usable(normals, len(vertices)):
        vertices, normals, paint, faces = _unwelded(vertices, faces, paint)
    else:
        assert normals is not None
        normals = unit(normals)
        faces = wind_by(normals, vertices, faces)
    return Part(vertices, faces, normals, paint)


def _turned(normals: Array | None, matrix: Array) -> Array | None:
    """Normals under a transform: by its cofactors, so that squashed axes are no exception."""
    if normals is None:
        return None
    a, b, c = matrix[:3, :3]
    cofactors = np.array([np.cross(b, c), np.cross(c, a), np.cross(a, b)])
    if _mirrors(matrix):
        cofactors = -cofactors
    # scaled first: the product of tiny scales is still a direction
    size = np.abs(cofactors).max()
    return np.asarray(normals, np.float64) @ (cofactors / size if size > 0 else cofactors).T


def _mirrors(matrix: Array) -> bool:
    """Whether a transform turns left hands into right ones."""
    return bool(np.linalg.det(matrix[:3, :3]) < 0)


def _unwelded(vertices: Array, faces: Indices, paint: Paint) -> tuple[Array, Array, Paint, Indices]:
    """Every face with three vertices of its own, with normals computed from the faces."""
    normals = corner_normals(vertices, faces).reshape(-1, 3)
    flat = faces.reshape(-1)
    colours = np.repeat(paint.colours, 3, axis=0) if paint.per_face else paint.colours[flat]
    uvs = None if paint.uvs is None else paint.uvs[flat]
    paint = paint._replace(colours=colours, per_face=False, uvs=uvs)
    return vertices[flat], normals, paint, np.arange(len(flat)).reshape(-1, 3)


def with_only_picture(path: Path, parts: list[Part]) -> tuple[list[Part], tuple[str, ...]]:
    """Give a mesh with texture coordinates, but no material, the only picture beside it."""
    plain = [p.paint.uvs is not None and p.paint.texture is None for p in parts]
    picture = only_picture(path) if any(plain) else None
    if picture is None:
        return parts, ()
    try:
        image = Image.open(picture)
    except (OSError, Image.DecompressionBombError):
        return parts, ()
    textured = [
        p._replace(paint=p.paint._replace(texture=image, colours=np.ones_like(p.paint.colours)))
        if without
        else p
        for p, without in zip(parts, plain, strict=True)
    ]
    return textured, (f"no material is named: {picture.name!r}, beside it, taken as its texture",)
