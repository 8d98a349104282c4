"""Distances between surfaces that a person can work out."""

from __future__ import annotations

import numpy as np
import pytest
import trimesh

from fastrecon.errors import MeshError
from fastrecon.evaluation.geometry import Surface, compare, isosurface, lattice


def ball(radius: float) -> Surface:
    mesh = trimesh.creation.icosphere(subdivisions=4, radius=radius)
    return Surface(np.asarray(mesh.vertices), np.asarray(mesh.faces))


def test_two_points_and_one() -> None:
    ours = np.array([[0.0, 0, 0], [0.0, 0, 4]])
    truth = np.array([[0.0, 3, 0]])
    scores = compare(ours, truth, longest_side=60.0)
    # there: (3 + 5) / 2, back: 3
    assert scores.chamfer == pytest.approx(7.0)
    assert scores.chamfer_scaled == pytest.approx(7.0 * 2 / 60)
    # within 5% of 60 = 3: half of ours, all of the truth
    assert scores.fscore == pytest.approx(2 * 0.5 / 1.5)


def test_far_apart_is_an_fscore_of_zero() -> None:
    assert compare(np.zeros((1, 3)), np.ones((1, 3)), 1.0).fscore == 0.0


def test_concentric_balls_are_their_radii_apart() -> None:
    small, large = ball(1.0).sample(20_000, 0), ball(1.2).sample(20_000, 1)
    scores = compare(small, large, 2.4)
    assert scores.chamfer == pytest.approx(2 * 0.2, abs=0.005)
    assert scores.fscore < 0.01  # tolerance 0.12
    assert compare(small, ball(1.1).sample(20_000, 1), 2.2).fscore > 0.99


def test_samples_are_uniform_in_area_and_seeded() -> None:
    # one face has three times the area of the other
    corners = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [5, 0, 0], [8, 0, 0], [5, 1, 0]])
    surface = Surface(corners, np.array([[0, 1, 2], [3, 4, 5]]))
    points = surface.sample(4000, 0)
    assert (points[:, 0] > 4).mean() == pytest.approx(0.75, abs=0.03)
    assert np.array_equal(points, surface.sample(4000, 0))
    assert not np.array_equal(points, surface.sample(4000, 1))


def test_the_longest_side_is_that_of_the_faces() -> None:
    unused = np.array([[0.0, 0, 0], [2, 0, 0], [0, 1, 0], [99, 99, 99]])
    assert Surface(unused, np.array([[0, 1, 2]])).longest_side == 2.0


def test_a_lattice_is_made_of_cubes_and_covers_its_box() -> None:
    low, high = np.array([-1.0, 0, 2]), np.array([1.0, 0.5, 2.2])
    grid = lattice(low, high, 11)
    points = grid.points.reshape(*grid.shape, 3)
    assert grid.step == pytest.approx(0.2)
    assert grid.shape[0] == 11
    assert np.allclose(points[0, 0, 0], low)
    assert (points[-1, -1, -1] >= high - 1e-6).all()
    assert np.allclose(np.diff(points[:, 0, 0, 0]), 0.2, atol=1e-6)


def test_the_isosurface_of_a_ball_lies_on_it() -> None:
    grid = lattice(np.full(3, -1.0), np.full(3, 1.0), 40)
    surface = isosurface(0.7 - np.linalg.norm(grid.points, axis=-1).reshape(grid.shape), 0.0, grid)
    radii = np.linalg.norm(surface.vertices, axis=-1)
    assert radii.min() == pytest.approx(0.7, abs=2e-3)
    assert radii.max() == pytest.approx(0.7, abs=2e-3)


def test_nothing_to_compare() -> None:
    grid = lattice(np.full(3, -1.0), np.full(3, 1.0), 4)
    with pytest.raises(MeshError, match="no surface"):
        isosurface(np.zeros(grid.shape), 0.5, grid)
    with pytest.raises(MeshError, match="no area"):
        Surface(np.zeros((3, 3)), np.array([[0, 1, 2]])).sample(10, 0)
    with pytest.raises(ValueError, match="need points, got 0 and 1"):
        compare(np.zeros((0, 3)), np.zeros((1, 3)), 1.0)
