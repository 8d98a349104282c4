"""Meshes of fields whose surface is known."""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
import torch
import trimesh
from torch import Tensor
from trimesh.visual import ColorVisuals

from fastrecon.errors import MeshError
from fastrecon.export.mesh import density_grid, extract_mesh, mesh_bytes
from fastrecon.models.lrm import LRM
from tests.micro import micro_config

RADIUS = 0.5


class Ball(LRM):
    """A model whose field is a ball: density e^(20 (r - |x - c|)) times 5, coloured by position."""

    centre = torch.tensor([0.1, 0.0, 0.05])
    peak = 1e4

    def query(self, planes: Tensor, points: Tensor, **kwargs: object) -> tuple[Tensor, Tensor]:
        distance = (points - self.centre).norm(dim=-1)
        density = 5.0 * (20.0 * (RADIUS - distance)).exp()
        return density.clamp(max=self.peak), (points / 1.5 + 0.5).clamp(0, 1)


@pytest.fixture(scope="module")
def ball() -> Ball:
    return Ball(micro_config()).eval()


def colours(mesh: trimesh.Trimesh) -> np.ndarray:
    """(V, 4) vertex colours, 0 to 255."""
    assert isinstance(mesh.visual, ColorVisuals)
    return np.asarray(mesh.visual.vertex_colors, dtype=float)


PLANES = torch.zeros(1, 3, 4, 4, 4)


def test_a_ball_is_round_closed_and_in_place(ball: Ball) -> None:
    mesh = extract_mesh(ball, PLANES, resolution=40)
    assert mesh.is_watertight
    # 5 is the micro model's level, so the surface lies where |x - c| = r. The density's logarithm
    # is linear across it: marching cubes puts vertices there to a small part of a cell.
    x, y, z = ball.centre.tolist()
    distance = np.linalg.norm(mesh.vertices - [y, z, x], axis=1)  # glTF axes: right, up, viewer
    np.testing.assert_allclose(distance, RADIUS, atol=2e-3)
    assert math.isclose(mesh.volume, 4 / 3 * math.pi * RADIUS**3, rel_tol=0.01)  # outward: > 0
    assert (np.einsum("ij,ij->i", mesh.vertex_normals, mesh.vertices - [y, z, x]) > 0).all()


def test_colours_are_those_of_the_vertices(ball: Ball) -> None:
    mesh = extract_mesh(ball, PLANES, resolution=24)
    right, up, viewer = mesh.vertices.T
    world = np.stack([viewer, right, up], 1)
    expected = np.round((world / 1.5 + 0.5).clip(0, 1) * 255)
    np.testing.assert_allclose(colours(mesh)[:, :3], expected, atol=1)


def test_slabs_do_not_change_the_grid(ball: Ball, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = density_grid(ball, PLANES, 12)
    monkeypatch.setattr("fastrecon.export.mesh.SLAB_POINTS", 5 * 144)
    torch.testing.assert_close(density_grid(ball, PLANES, 12), whole)
    assert whole[-1, 6, 6] == whole[-1].max()  # index order [x, y, z]: the far face in x


def test_surfaces_that_reach_the_box_are_closed(
    ball: Ball, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ball, "centre", torch.tensor([0.7, 0.0, 0.0]))
    assert extract_mesh(ball, PLANES, resolution=24).is_watertight


def test_no_surface_and_nan(ball: Ball, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(MeshError, match=r"densities reach 1e\+04, below the level of 1e\+05"):
        extract_mesh(ball, PLANES, resolution=16, level=1e5)
    with pytest.raises(ValueError, match="level must exceed"):
        extract_mesh(ball, PLANES, resolution=16, level=0.0)
    with pytest.raises(ValueError, match="one object"):
        extract_mesh(ball, PLANES.expand(2, -1, -1, -1, -1), resolution=16)
    real = LRM(micro_config()).eval()
    with pytest.raises(MeshError, match="not finite"):
        extract_mesh(real, torch.full_like(PLANES, torch.nan), resolution=8)


@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
def test_files_can_be_read_back_with_colours(ball: Ball, kind: str) -> None:
    mesh = extract_mesh(ball, PLANES, resolution=16)
    loaded = trimesh.load(io.BytesIO(mesh_bytes(mesh, kind)), file_type=kind, force="mesh")
    assert isinstance(loaded, trimesh.Trimesh)
    assert len(loaded.faces) == len(mesh.faces)
    np.testing.assert_allclose(loaded.bounds, mesh.bounds, atol=1e-4)
    np.testing.assert_allclose(colours(loaded).mean(0), colours(mesh).mean(0), atol=2)


def test_unknown_format(ball: Ball) -> None:
    with pytest.raises(ValueError, match="glb, obj, ply; got 'stl'"):
        mesh_bytes(trimesh.Trimesh(), "stl")
