"""A surface from a density field: marching cubes with colours at the vertices.

The grid covers the box that the planes span and is queried slab by slab, so that memory beyond the
grid itself (4 bytes per cell, 0.5 GB at 512^3) does not grow with the resolution.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..errors import MeshError
from ..models.lrm import LRM

if TYPE_CHECKING:
    from trimesh import Trimesh

SLAB_POINTS = 1 << 18
"""Points per query."""
FORMATS = ("glb", "obj", "ply")
LEAST_DENSITY = 1e-6
TO_GLTF = [1, 2, 0]
"""World (x to the viewer, y right, z up) to glTF (x right, y up, z to the viewer)."""


@torch.no_grad()
def density_grid(lrm: LRM, planes: Tensor, resolution: int, progress: bool = False) -> Tensor:
    """Densities ``(R, R, R)``, index order [x, y, z], at points from -radius to radius inclusive.

    Args:
        planes: ``(1, 3, C, P, P)``, one object's.
    """
    side = torch.linspace(-1, 1, resolution, device=planes.device) * lrm.config.render.radius
    grid = torch.empty(resolution, resolution, resolution)
    rows = max(1, SLAB_POINTS // resolution**2)
    bar = tqdm(side.split(rows), desc="density", leave=False, disable=not progress)
    for k, xs in enumerate(bar):
        lattice = torch.stack(torch.meshgrid(xs, side, side, indexing="ij"), -1)
        sigmas, _ = lrm.query(planes, lattice[None])
        grid[k * rows : k * rows + len(xs)] = sigmas[0].float().cpu()
    return grid


@torch.no_grad()
def extract_mesh(
    lrm: LRM,
    planes: Tensor,
    *,
    resolution: int = 128,
    level: float | None = None,
    progress: bool = False,
) -> Trimesh:
    """The surface where the density crosses ``level``, closed at the box, with vertex colours.

    Args:
        planes: ``(1, 3, C, P, P)``, one object's.
        resolution: grid points along a side.
        level: activated density; ``lrm.config.mesh_level`` if None.

    Returns:
        A mesh in scene units and glTF's axes: x right, y up, z toward the input camera.

    Raises:
        MeshError: no surface at this level, or densities that are not finite.
    """
    import trimesh
    from skimage.measure import marching_cubes

    if planes.shape[0] != 1:
        raise ValueError(
            f"planes must be of one object, (1, 3, C, P, P), got {tuple(planes.shape)}"
        )
    if resolution < 4:
        raise ValueError(f"resolution must be at least 4, got {resolution}")
    level = lrm.config.mesh_level if level is None else level
    if level <= LEAST_DENSITY:
        raise ValueError(f"level must exceed {LEAST_DENSITY}, got {level}")
    grid = density_grid(lrm, planes, resolution, progress)
    low, high = float(grid.min()), float(grid.max())
    if not np.isfinite(low + high):
        raise MeshError(
            "the densities are not finite: the planes hold NaN or infinity; check the weights and "
            "the picture"
        )
    if high <= level:
        raise MeshError(
            f"no surface: the densities reach {high:.3g}, below the level of {level:.3g}; "
            "try a lower level, or a picture with a clearer object"
        )
    # Densities are exponentials of a smooth field, so their logarithm interpolates without steps.
    # The border of empty cells closes surfaces that reach the box.
    field = grid.clamp_(min=LEAST_DENSITY).log_().numpy()
    field = np.pad(field, 1, constant_values=np.log(LEAST_DENSITY))
    corners, faces, _, _ = marching_cubes(field, float(np.log(level)), allow_degenerate=False)
    radius = lrm.config.render.radius
    vertices = ((corners - 1) * (2 / (resolution - 1)) - 1) * radius
    colours = vertex_colours(lrm, planes, vertices)
    mesh = trimesh.Trimesh(
        vertices[:, TO_GLTF], faces, vertex_colors=colours, process=False, validate=False
    )
    if mesh.volume < 0:  # outward normals, whichever way the grid was walked
        mesh.invert()
    return mesh


def vertex_colours(lrm: LRM, planes: Tensor, vertices: NDArray[np.floating]) -> NDArray[np.uint8]:
    """RGBA ``(V, 4)`` of points ``(V, 3)`` in world axes."""
    points = torch.from_numpy(np.ascontiguousarray(vertices, dtype=np.float32)).to(planes.device)
    parts = [lrm.query(planes, part[None])[1][0] for part in points.split(SLAB_POINTS)]
    rgb = torch.cat(parts).clamp(0, 1).mul(255).round().byte().cpu().numpy()
    return np.concatenate([rgb, np.full((len(rgb), 1), 255, np.uint8)], 1)


def mesh_bytes(mesh: Trimesh, kind: str) -> bytes:
    """The mesh as a GLB, OBJ or PLY file with vertex colours."""
    if kind not in FORMATS:
        raise ValueError(f"a mesh can be written as {', '.join(FORMATS)}; got {kind!r}")
    data = mesh.export(file_type=kind)
    return data.encode() if isinstance(data, str) else bytes(data)
