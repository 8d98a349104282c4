"""A surface from a density field: marching cubes with colours at the vertices.

The grid covers the box that the planes span and is queried slab by slab, so that memory beyond the
grid itself (4 bytes per cell, 0.5 GB at 512^3) does not grow with the resolution.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from fastrecon_kernels import RenderSettings
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ..errors import MeshError

if TYPE_CHECKING:
    from trimesh import Trimesh

SLAB_POINTS = 1 << 18
"""Points per query."""
FORMATS = ("glb", "obj", "ply")
LEAST_DENSITY = 1e-6

Planes = Tensor | Sequence[Tensor]
"""One object's planes ``(1, 3, C, P, P)``; also their levels, for a model that takes them."""


class FieldConfig(Protocol):
    """What a mesh needs of a model's configuration."""

    @property
    def render(self) -> RenderSettings:
        """The field fills ``[-radius, radius]^3``."""
        ...

    @property
    def mesh_level(self) -> float:
        """Density at which to cut, unless another is asked for."""
        ...


class Field(Protocol):
    """A model whose planes hold a density, such as `LRM` or `TriGen`."""

    @property
    def config(self) -> FieldConfig:
        """Its configuration."""
        ...

    @property
    def world_to_gltf(self) -> Sequence[Sequence[int]]:
        """Rotation, 3x3, of the model's world to glTF's: x right, y up, z to the viewer."""
        ...

    def query(self, planes: Any, points: Tensor) -> tuple[Tensor, Tensor]:
        """Densities ``(1, ...)`` and colours ``(1, ..., 3)`` at points ``(1, ..., 3)``."""
        ...


@torch.no_grad()
def density_grid(model: Field, planes: Planes, resolution: int, progress: bool = False) -> Tensor:
    """Densities ``(R, R, R)``, index order [x, y, z], at points from -radius to radius inclusive.

    Args:
        planes: ``(1, 3, C, P, P)``, one object's, or its levels.
    """
    device = _finest(planes).device
    side = torch.linspace(-1, 1, resolution, device=device) * model.config.render.radius
    grid = torch.empty(resolution, resolution, resolution)
    rows = max(1, SLAB_POINTS // resolution**2)
    bar = tqdm(side.split(rows), desc="density", leave=False, disable=not progress)
    for k, xs in enumerate(bar):
        lattice = torch.stack(torch.meshgrid(xs, side, side, indexing="ij"), -1)
        sigmas, _ = model.query(planes, lattice[None])
        grid[k * rows : k * rows + len(xs)] = sigmas[0].float().cpu()
    return grid


@torch.no_grad()
def extract_mesh(
    model: Field,
    planes: Planes,
    *,
    resolution: int = 128,
    level: float | None = None,
    progress: bool = False,
) -> Trimesh:
    """The surface where the density crosses ``level``, closed at the box, with vertex colours.

    Args:
        model: an `LRM` or a `TriGen`.
        planes: ``(1, 3, C, P, P)``, one object's; of a `TriGen` rather its ``pyramid``, which is
            otherwise built again for every slab.
        resolution: grid points along a side.
        level: activated density; ``model.config.mesh_level`` if None.

    Returns:
        A mesh in scene units and glTF's axes: x right, y up, z toward the input camera.

    Raises:
        MeshError: no surface at this level, or densities that are not finite.
    """
    import trimesh
    from skimage.measure import marching_cubes

    shape = tuple(_finest(planes).shape)
    if shape[0] != 1:
        raise ValueError(f"planes must be of one object, (1, 3, C, P, P), got {shape}")
    if resolution < 4:
        raise ValueError(f"resolution must be at least 4, got {resolution}")
    level = model.config.mesh_level if level is None else level
    if level <= LEAST_DENSITY:
        raise ValueError(f"level must exceed {LEAST_DENSITY}, got {level}")
    grid = density_grid(model, planes, resolution, progress)
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
    # Densities are exponentials of a smooth field (softplus: where they are small), so their
    # logarithm interpolates without steps.
    # The border of empty cells closes surfaces that reach the box.
    field = grid.clamp_(min=LEAST_DENSITY).log_().numpy()
    field = np.pad(field, 1, constant_values=np.log(LEAST_DENSITY))
    corners, faces, _, _ = marching_cubes(field, float(np.log(level)), allow_degenerate=False)
    radius = model.config.render.radius
    vertices = ((corners - 1) * (2 / (resolution - 1)) - 1) * radius
    colours = vertex_colours(model, planes, vertices)
    turned = vertices @ np.array(model.world_to_gltf, dtype=vertices.dtype).T
    mesh = trimesh.Trimesh(turned, faces, vertex_colors=colours, process=False, validate=False)
    if mesh.volume < 0:  # outward normals, whichever way the grid was walked
        mesh.invert()
    return mesh


def _finest(planes: Planes) -> Tensor:
    return planes if isinstance(planes, Tensor) else planes[0]


def vertex_colours(
    model: Field, planes: Planes, vertices: NDArray[np.floating]
) -> NDArray[np.uint8]:
    """RGBA ``(V, 4)`` of points ``(V, 3)`` in world axes."""
    points = torch.from_numpy(np.ascontiguousarray(vertices, dtype=np.float32))
    points = points.to(_finest(planes).device)
    parts = [model.query(planes, part[None])[1][0] for part in points.split(SLAB_POINTS)]
    rgb = torch.cat(parts).clamp(0, 1).mul(255).round().byte().cpu().numpy()
    return np.concatenate([rgb, np.full((len(rgb), 1), 255, np.uint8)], 1)


def mesh_bytes(mesh: Trimesh, kind: str) -> bytes:
    """The mesh as a GLB, OBJ or PLY file with vertex colours."""
    if kind not in FORMATS:
        raise ValueError(f"a mesh can be written as {', '.join(FORMATS)}; got {kind!r}")
    data = mesh.export(file_type=kind)
    return data.encode() if isinstance(data, str) else bytes(data)
