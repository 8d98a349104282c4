"""Points on surfaces, and objects put where a prepared photograph would show them."""

from __future__ import annotations

import math

import pytest
import torch

from fastrecon.cameras import orbit_c2w
from fastrecon.data.procedural import ProceduralObjects
from fastrecon.data.procedural.bounds import POINTS, fit_to_view, project, surface_points
from fastrecon.data.procedural.field import Field
from tests.data.procedural.solids import make_parts, make_scene

DISTANCE, FOV, SIZE = 1.9, 40.0, 96
TANGENT = math.tan(math.radians(FOV) / 2)


@pytest.mark.parametrize("dense", [False, True])
def test_surface_points_are_on_the_surface_and_all_around_it(dense: bool) -> None:
    ball = make_parts([[{"kind": "ellipsoid", "size": (0.5,) * 3, "centre": (0.2, 0.0, 0.0)}]])
    corner = torch.tensor([[0.55, 0.55, 0.55]])
    centre = torch.tensor([[0.2, 0.0, 0.0]])
    points = surface_points(Field(ball, dense), centre - corner, centre + corner)
    assert points.shape == (1, POINTS, 3)
    radius = (points - centre).norm(dim=-1)
    torch.testing.assert_close(radius, torch.full_like(radius, 0.5), atol=1e-3, rtol=0)
    for axis in range(3):
        middle = float(centre[0, axis])
        assert float(points[..., axis].amax()) == pytest.approx(middle + 0.5, abs=0.01)
        assert float(points[..., axis].amin()) == pytest.approx(middle - 0.5, abs=0.01)


def test_points_are_projected_like_pixels() -> None:
    c2w = orbit_c2w(0.0, 0.0, 2.0)[None, None]
    seen = project(torch.tensor([[[0.0, 0.5, 1.0], [1.0, 0.5, -1.0], [3.0, 0.0, 0.0]]]), c2w)
    assert seen[0, 0, 0].tolist() == pytest.approx([0.25, 0.5])
    assert seen[0, 0, 1].tolist() == pytest.approx([0.5, -1.0])
    assert bool(torch.isinf(seen[0, 0, 2]).all()), "behind the camera"


def test_a_ball_is_fitted_by_hand() -> None:
    """A ball of radius r at distance d fills the tangent r / sqrt(d^2 - r^2)."""
    directions = torch.nn.functional.normalize(torch.randn(1, 20000, 3), dim=-1)
    points = 7 * directions + torch.tensor([10.0, -3.0, 5.0])
    half = torch.tensor([0.25])
    scale, shift = fit_to_view(points, 2.0, half, torch.zeros(1, 2), max_reach=1.0)
    radius = 2 * 0.25 / math.sqrt(1 + 0.25**2)
    assert float(7 * scale) == pytest.approx(radius, rel=5e-3)
    placed = points * scale + shift
    assert placed.mean(1)[0].tolist() == pytest.approx([0.0] * 3, abs=0.01)
    _, moved = fit_to_view(points, 2.0, half, torch.tensor([[0.05, -0.1]]), max_reach=1.0)
    assert (moved - shift)[0].tolist() == pytest.approx([0.0, 0.1, -0.2], abs=0.02)
    small, _ = fit_to_view(points, 2.0, half, torch.zeros(1, 2), max_reach=0.3)
    assert float(7 * small) == pytest.approx(0.3, abs=2e-3)


def test_fitted_silhouettes_fill_the_wanted_square() -> None:
    n, max_reach = 64, 0.69
    generator = torch.Generator().manual_seed(0)
    half = (0.75 + 0.15 * torch.rand(n, generator=generator)) * TANGENT
    offset = 0.04 * TANGENT * (2 * torch.rand(n, 2, generator=generator) - 1)
    scene = ProceduralObjects(seed=9, max_parts=6).batch(range(n))
    scene = scene.fitted(DISTANCE, half, offset, max_reach)
    c2w = orbit_c2w(0.0, 0.0, DISTANCE).expand(n, 1, 4, 4)
    alpha = scene.render(c2w, SIZE, FOV).rgba[:, 0, 3] > 0
    sides, centres = [], []
    for picture in alpha:
        y, x = torch.nonzero(picture, as_tuple=True)
        sides.append(max(float(i.max() - i.min() + 1) for i in (x, y)))
        centres.append([float(i.min() + i.max() + 1) / 2 - SIZE / 2 for i in (x, y)])
    focal = SIZE / 2 / TANGENT
    off = torch.tensor(sides) - 2 * half * focal
    reach = scene.points.norm(dim=-1).amax(1)
    free = reach < 0.98 * max_reach
    assert 0.2 < float(free.float().mean()) < 0.98
    assert float(off[free].abs().mean()) < 2
    assert float((off[free].abs() <= 3).float().mean()) > 0.8
    assert float(off.max()) < 8
    wanted = offset * torch.tensor([1.0, -1.0]) * focal
    away = (torch.tensor(centres) - wanted).abs()
    assert float(away.mean()) < 1
    assert float((away <= 2).float().mean()) > 0.9
    # Nothing solid lies beyond the limit, give or take what the points underestimate.
    directions = torch.nn.functional.normalize(torch.randn(1, 2000, 3, generator=generator), dim=-1)
    assert not bool((scene.distance(1.03 * max_reach * directions.expand(n, -1, 3)) < 0).any())
    assert float(reach.max()) <= 1.001 * max_reach


def test_moving_scales_about_the_origin_then_shifts() -> None:
    scene = make_scene([[{"kind": "ellipsoid", "size": (0.5, 0.5, 0.5), "centre": (1.0, 0, 0)}]])
    moved = scene.moved(torch.tensor([2.0]), torch.tensor([[0.0, 0.0, 3.0]]))
    rays_o, rays_d = torch.tensor([[[9.0, 0.0, 3.0]]]), torch.tensor([[[-1.0, 0.0, 0.0]]])
    assert float(moved.trace(rays_o, rays_d).depth) == pytest.approx(9 - 3, abs=2e-3)
    point = torch.tensor([[[4.0, 0.0, 3.0]]])
    assert float(moved.distance(point)) == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(moved.points, 2 * scene.points + torch.tensor([0.0, 0.0, 3.0]))
