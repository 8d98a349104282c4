"""Meshes by ray casting with Embree (embreex): needs no graphics driver; the other's oracle."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fastrecon.cameras import focal_length

from .mesh import Mesh
from .normals import Array, unit

if TYPE_CHECKING:
    from .render import Lighting

CHUNK = 1 << 18
"""Rays at once; bounds memory at some 100 MB."""
LAYERS = 16
"""Holes that a ray may pass before it counts as a miss."""
SOLID = 0.5


class Hits(NamedTuple):
    """Where n rays meet a mesh; ``rays`` says which they are."""

    rays: Array  # (n,)
    faces: Array  # (n,)
    weights: Array  # (n, 3) of the face's vertices
    distance: Array  # (n,)
    back: Array  # (n,) bool: seen from behind


class RayBackend:
    """Casts one ray per sample; see ``mesh_render.MeshBackend``."""

    name = "rays"

    def close(self) -> None:
        """Nothing is held between calls."""

    def draw(
        self, mesh: Mesh, cameras: Array, side: int, fov_deg: float, factor: int, light: Lighting
    ) -> Array:
        """Means over covered samples, (V, side, side, 8); see ``MeshBackend.draw``."""
        scene = _scene(mesh)
        vectors = light.vectors()
        tangents = (np.arange(side * factor) + 0.5 - side * factor / 2) / focal_length(
            side * factor, fov_deg
        )
        out = np.zeros((len(cameras), side, side, 8), np.float32)
        rows = max(1, CHUNK // (side * factor**2))
        for camera, picture in zip(cameras, out, strict=True):
            for top in range(0, side, rows):
                ys = -tangents[top * factor : (top + rows) * factor]
                local = np.stack(np.broadcast_arrays(tangents, ys[:, None], -1.0), -1)
                directions = unit(local.reshape(-1, 3)) @ camera[:3, :3].T
                samples = np.zeros((len(directions), 8), np.float32)
                hits, colours = trace(scene, mesh, camera[:3, 3], directions)
                normals = unit(_interpolated(mesh.normals, mesh, hits))
                normals[hits.back] *= -1
                brightness = light.ambient + np.maximum(normals @ vectors.T, 0).sum(-1)
                samples[hits.rays, :3] = colours * brightness[:, None]
                samples[hits.rays, 3] = 1.0
                samples[hits.rays, 4:7] = normals
                samples[hits.rays, 7] = hits.distance
                blocks = samples.reshape(-1, factor, side, factor, 8).sum((1, 3))
                covered = blocks[..., 3:4].copy()
                blocks /= np.maximum(covered, 1)
                blocks[..., 3:4] = covered / factor**2
                blocks[..., 4:7] = unit(blocks[..., 4:7])
                picture[top : top + rows] = blocks
        return out


def _scene(mesh: Mesh):
    from embreex.mesh_construction import TriangleMesh
    from embreex.rtcore_scene import EmbreeScene

    # robust: rays do not slip through the edge that two faces share
    scene = EmbreeScene(robust=True)
    TriangleMesh(scene, mesh.vertices, mesh.faces)
    return scene


def trace(scene, mesh: Mesh, origin: Array, directions: Array) -> tuple[Hits, Array]:
    """Nearest surfaces along rays from one point, and their colours (n, 3) before light."""
    rays = np.arange(len(directions))
    start = np.zeros(len(directions))
    found: list[tuple[Hits, Array]] = []
    for _ in range(LAYERS):
        origins = origin + start[rays, None] * directions[rays]
        answer = scene.run(
            origins.astype(np.float32), directions[rays].astype(np.float32), output=1
        )
        hit = answer["primID"] >= 0
        rays = rays[hit]
        u, v = answer["u"][hit, None], answer["v"][hit, None]
        back = (answer["Ng"][hit] * directions[rays]).sum(-1) > 0
        distance = start[rays] + answer["tfar"][hit]
        hits = Hits(
            rays, answer["primID"][hit], np.concatenate([1 - u - v, u, v], 1), distance, back
        )
        colours, solid = _colours(mesh, hits)
        found.append((Hits(*(part[solid] for part in hits)), colours[solid]))
        rays = rays[~solid]
        if not len(rays):
            break
        start[rays] = distance[~solid] + 1e-5 * mesh.radius  # past the hole
    columns = zip(*(hits for hits, _ in found), strict=True)
    hits = Hits(*(np.concatenate(column) for column in columns))
    return hits, np.concatenate([colours for _, colours in found])


def _interpolated(values: Array, mesh: Mesh, hits: Hits) -> Array:
    return np.einsum("nk,nkc->nc", hits.weights, values[mesh.faces[hits.faces]])


def _colours(mesh: Mesh, hits: Hits) -> tuple[Array, Array]:
    """Colours (n, 3), and whether there is a surface rather than a hole of its texture."""
    colours = _interpolated(mesh.colours, mesh, hits)
    solid = np.ones(len(colours), bool)
    if not mesh.textures:
        return colours, solid
    assert mesh.uvs is not None
    uvs = _interpolated(mesh.uvs, mesh, hits)
    for k, texture in enumerate(mesh.textures):
        mine = np.flatnonzero(mesh.face_textures[hits.faces] == k)
        texel = bilinear(texture, uvs[mine])
        colours[mine] *= texel[:, :3]
        solid[mine] = texel[:, 3] >= SOLID
    return colours, solid


def bilinear(texture: Array, uvs: Array) -> Array:
    """Texture (H, W, 4) uint8 at (n, 2) coordinates, v up, repeating: (n, 4) in [0, 1]."""
    height, width = texture.shape[:2]
    x, y = uvs[:, 0] * width - 0.5, (1.0 - uvs[:, 1]) * height - 0.5
    left, top = np.floor(x), np.floor(y)
    fx, fy = (x - left)[:, None], (y - top)[:, None]
    columns = [np.mod(left + k, width).astype(np.int64) for k in range(2)]
    rows = [np.mod(top + k, height).astype(np.int64) for k in range(2)]
    upper = texture[rows[0], columns[0]] * (1 - fx) + texture[rows[0], columns[1]] * fx
    lower = texture[rows[1], columns[0]] * (1 - fx) + texture[rows[1], columns[1]] * fx
    return (upper * (1 - fy) + lower * fy) / 255
