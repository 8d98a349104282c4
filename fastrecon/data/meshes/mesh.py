"""Meshes from files, checked and brought into one form: what the mesh renderers read.

`load_mesh` reads GLB, OBJ and PLY through trimesh, bakes a scene's transforms, turns the axes into
this package's world (x toward the input camera, y right, z up) and centres and scales the object.
A file that cannot be used ends in a `MeshError` that says what to do.
"""

from __future__ import annotations

import io
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ...errors import MeshError
from .colours import texels, texture_label
from .files import Assets, check_count, check_file, count_obj, decoded, read_glb, read_ply
from .normals import Array, Indices, face_normals
from .parts import Part, parse, scene_parts, silent, with_only_picture

__all__ = ["MAX_FACES", "Mesh", "MeshError", "load_mesh"]

MAX_FACES = 2_000_000
"""Default of ``max_faces``: 1.4 GB of memory at the 700 bytes per face that were measured on a mesh
of 330,000 faces without normals (OBJ, PLY and GLB alike; 350 with normals in the file)."""
TO_WORLD = {"y": [2, 0, 1], "z": [0, 1, 2]}
"""File axes to world axes. y up: x right, y up, z to the viewer (glTF, most OBJ); z up: as is."""
Fit = Literal["sphere", "box", "none"]
Up = Literal["y", "z"]
MissingTexture = Literal["error", "colour"]


@dataclass(frozen=True, eq=False)
class Mesh:
    """A triangle mesh; a point's colour is its interpolated vertex colour times its texel."""

    vertices: Array  # (N, 3) float32, world axes
    faces: Indices  # (M, 3) int32, counter-clockwise as their normals see them
    normals: Array  # (N, 3) float32, unit
    colours: Array  # (N, 3) float32 in [0, 1]; white where a texture says it all
    uvs: Array | None  # (N, 2) float32, v up; None without textures
    textures: tuple[Array, ...]  # (H, W, 4) uint8, top row first; alpha 0 is a hole
    face_textures: Array  # (M,) int32, ascending: index into textures, -1 for none
    transform: Array  # (4, 4) float64, file coordinates to these
    notes: tuple[str, ...] = ()
    """What was replaced or left out on reading, as sentences."""

    @property
    def radius(self) -> float:
        """Distance of the farthest vertex from the origin."""
        return float(np.linalg.norm(self.vertices, axis=-1).max())

    def scaled(self, factor: float) -> Mesh:
        """The mesh, scaled about the origin."""
        if not 0 < factor < np.inf:
            raise ValueError(f"factor must be positive, got {factor}")
        matrix = np.diag([factor, factor, factor, 1.0]) @ self.transform
        return replace(self, vertices=self.vertices * np.float32(factor), transform=matrix)


def load_mesh(
    path: str | os.PathLike[str],
    *,
    up: Up = "y",
    fit: Fit = "sphere",
    max_faces: int = MAX_FACES,
    missing_texture: MissingTexture = "error",
) -> Mesh:
    """A GLB, OBJ or PLY file as a `Mesh`.

    Args:
        up: which of the file's axes points up: "y" (glTF, most OBJ) or "z" (CAD, robotics).
        fit: "sphere": the bounding box is centred at the origin and the farthest vertex has
            distance 1; "box": the longest side of the bounding box reaches from -1 to 1; "none":
            file coordinates, only the axes are turned.
        max_faces: refuse more; checked on the header before anything is read.
        missing_texture: what a texture or material file that is not there means; "colour" goes on
            with the material's plain colour and says so in ``notes``.

    Scenes become one mesh. Surfaces are two-sided; transparency is not drawn, except that texels
    of a glTF material that masks or blends are holes where their alpha is below its cutoff.
    Nothing outside the file's own folder is read. An OBJ or PLY
    that has texture coordinates but names no material takes the picture beside it as its texture,
    if the folder holds just the two (``notes`` says so).

    Raises:
        MeshError: the file is missing, damaged, of another format, too large, or has no surface.
    """
    path = Path(path)
    if up not in TO_WORLD:
        raise ValueError(f'up must be "y" or "z", got {up!r}')
    if fit not in ("sphere", "box", "none"):
        raise ValueError(f'fit must be "sphere", "box" or "none", got {fit!r}')
    if missing_texture not in ("error", "colour"):
        raise ValueError(f'missing_texture must be "error" or "colour", got {missing_texture!r}')
    if max_faces < 1:
        raise ValueError(f"max_faces must be at least 1, got {max_faces}")
    try:
        kind = check_file(path, max_faces)
        assets = Assets(path)
        materials: list[dict[str, Any]] = []
        if kind == "glb":
            header, source = read_glb(path, max_faces)
            materials = header.get("materials", [])
        elif kind == "obj":
            check_count(path, count_obj(path), max_faces)
            source = io.StringIO(decoded(path.read_bytes()))
        else:
            source = read_ply(path, max_faces)
        with silent():
            scene = parse(path, kind, source, assets)
            parts = list(scene_parts(path, scene, materials, assets))
        if not parts:
            raise MeshError(f"{path} has no faces (points or lines at most); export a surface")
        check_count(path, sum(len(part.faces) for part in parts), max_faces)
        notes = _missing(path, parts, assets, missing_texture)
        if kind != "glb" and not assets.found and not assets.missing:
            parts, notes = with_only_picture(path, parts)
        return _assemble(path, parts, TO_WORLD[up], fit, notes)
    except OSError as error:
        raise MeshError(f"{path} cannot be read ({error}); check its permissions") from error
    except MemoryError as error:
        raise MeshError(f"{path} does not fit into memory; decimate it") from error


def _missing(
    path: Path, parts: list[Part], assets: Assets, missing_texture: MissingTexture
) -> tuple[str, ...]:
    """Names of what the file refers to in vain: an error, or notes."""
    names = assets.missing or [part.paint.missing for part in parts if part.paint.missing]
    if names and missing_texture == "error":
        raise MeshError(texture_label(path, names[0]))
    return tuple(
        f"{name!r} is missing: drawn in plain colour" for name in dict.fromkeys(map(str, names))
    )


def _assemble(
    path: Path, parts: list[Part], axes: list[int], fit: Fit, notes: tuple[str, ...]
) -> Mesh:
    """All parts as one mesh in world axes, faces ordered by texture, placed as ``fit`` says."""
    textures: list[Array] = []
    index: dict[tuple[int, float | None], int] = {}
    owners = []
    for part in parts:
        owner = -1
        if part.paint.texture is not None:
            key = (id(part.paint.texture), part.paint.cutoff)
            if key not in index:
                index[key] = len(textures)
                name = f"a texture of {path}"
                textures.append(texels(part.paint.texture, part.paint.cutoff, name))
            owner = index[key]
        owners.append(np.full(len(part.faces), owner, np.int32))
    starts = np.cumsum([0, *(len(part.vertices) for part in parts)])
    vertices = np.concatenate([part.vertices for part in parts])[:, axes]
    faces = np.concatenate([p.faces + start for p, start in zip(parts, starts, strict=False)])
    # A turn of the axes is a rotation: windings stay.
    vertices, transform = _placed(path, vertices, faces, axes, fit)
    face_textures = np.concatenate(owners)
    with_area = np.flatnonzero(face_normals(vertices, faces).any(1))
    if not len(with_area):
        raise MeshError(f"{path} has no face with an area, only points and lines; export it again")
    order = with_area[np.argsort(face_textures[with_area], kind="stable")]
    used, faces = np.unique(faces[order], return_inverse=True)
    normals = np.concatenate([part.normals for part in parts])[used][:, axes]
    colours = np.concatenate([part.paint.colours for part in parts])[used]
    uvs = None
    if textures:
        filled = [
            np.zeros((len(p.vertices), 2)) if p.paint.uvs is None else p.paint.uvs for p in parts
        ]
        uvs = np.concatenate(filled)[used].astype(np.float32)
    return Mesh(
        vertices[used].astype(np.float32),
        faces.reshape(-1, 3).astype(np.int32),
        normals.astype(np.float32),
        colours.astype(np.float32),
        uvs,
        tuple(textures),
        face_textures[order],
        transform,
        notes,
    )


def _placed(
    path: Path, vertices: Array, faces: Indices, axes: list[int], fit: Fit
) -> tuple[Array, Array]:
    """Vertices centred and scaled, and the matrix from file coordinates to theirs."""
    used = np.zeros(len(vertices), bool)
    used[faces] = True
    low, high = vertices[used].min(0), vertices[used].max(0)
    centre = low + (high - low) / 2
    reach = np.linalg.norm(vertices[used] - centre, axis=-1).max()
    if not 0 < reach < np.inf:
        raise MeshError(f"{path} has no extent: all its vertices are in one place; export it again")
    scale = {"sphere": 1 / reach, "box": 2 / (high - low).max(), "none": 1.0}[fit]
    if fit == "none":
        centre = np.zeros(3)
    matrix = np.eye(4)
    matrix[:3, :3] = scale * np.eye(3)[axes]
    matrix[:3, 3] = -scale * centre
    return (vertices - centre) * scale, matrix
