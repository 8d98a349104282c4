"""Pictures: cameras, anti-aliased edges, shared ways of tiles, and the same on a GPU's path."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastrecon.cameras import camera_rays, orbit_c2w, sample_orbits
from fastrecon.data.procedural import ProceduralObjects
from fastrecon.data.procedural.scene import TILE, Scene
from tests.data.procedural.solids import DenseScene, make_scene

WAYS = pytest.mark.parametrize("kind_of_scene", [Scene, DenseScene])


def of_kind(scene: Scene, kind_of_scene: type[Scene]) -> Scene:
    return scene if kind_of_scene is Scene else DenseScene.of(scene)


def one_view(azimuth: float, elevation: float, distance: float, n: int = 1) -> Tensor:
    return orbit_c2w(azimuth, elevation, distance).expand(n, 1, 4, 4)


@WAYS
@pytest.mark.parametrize("size", [24, 21, 5])
def test_pictures_agree_with_rays(size: int, kind_of_scene) -> None:
    """Every pixel's centre sees what its ray meets: tiles pass nothing, whole or cut."""
    assert TILE == 8
    scene = of_kind(ProceduralObjects(seed=1).batch(range(6)), kind_of_scene)
    azimuth, elevation = sample_orbits(torch.Generator().manual_seed(0), 6)
    c2w = orbit_c2w(azimuth, elevation, 2.2).reshape(6, 1, 4, 4)
    pictures = scene.render(c2w, size, 50.0)
    rays_o, rays_d = camera_rays(c2w, size, size, 50.0)
    found = scene.trace(rays_o.reshape(6, -1, 3), rays_d.reshape(6, -1, 3))
    mask = found.mask.reshape(6, 1, size, size)
    same = mask == pictures.rgba[:, :, 3]
    assert float(same.float().mean()) > 0.995  # grazing rays may round either way
    both = same & (mask == 1)
    off = (pictures.depth[both] - found.depth.reshape(6, 1, size, size)[both]).abs()
    assert float((off < 2e-3).float().mean()) > 0.99
    assert float((off > 0.05).float().mean()) < 2e-3  # one at an edge, perhaps
    for picture, flat in ((pictures.rgba[:, :, :3], found.rgb), (pictures.normal, found.normal)):
        difference = (picture.movedim(2, -1) - flat.reshape(6, 1, size, size, 3)).abs().amax(-1)
        assert float((difference[both] < 0.03).float().mean()) > 0.97  # others: edges of patterns


def test_all_objects_at_once_are_those_one_by_one() -> None:
    """The way of GPUs, on this processor."""
    scene = ProceduralObjects(seed=6).batch(range(5))
    c2w = orbit_c2w(torch.linspace(0, 5, 10), 0.3, 2.3).reshape(5, 2, 4, 4)
    for supersample in (1, 2):
        one, all_ = (s.render(c2w, 20, 50.0, supersample) for s in (scene, DenseScene.of(scene)))
        for a, b, limit in zip(one, all_, (0.02, 2e-3, 0.03), strict=True):
            assert float(((a - b).abs() <= limit).float().mean()) > 0.985
        on_grey = DenseScene.of(scene).render_on(0.5, c2w, 20, 50.0, supersample)
        expected = all_.rgba[:, :, :3] * all_.rgba[:, :, 3:] + 0.5 * (1 - all_.rgba[:, :, 3:])
        torch.testing.assert_close(on_grey, expected, atol=1e-5, rtol=0)


@WAYS
def test_a_sphere_s_picture_is_a_disc(kind_of_scene) -> None:
    """Seen from 2 with radius 1 the silhouette's tangent is 1 / sqrt(2^2 - 1)."""
    scene = of_kind(make_scene([[{"kind": "ellipsoid"}]]), kind_of_scene)
    c2w = one_view(0.7, 0.3, 2.0)
    picture = scene.render(c2w, 48, 90.0, supersample=3)
    alpha, radius = picture.rgba[0, 0, 3], 24 / math.sqrt(3.0)
    assert float(alpha.sum()) == pytest.approx(math.pi * radius**2, rel=0.02)
    assert 20 < int(((alpha > 0) & (alpha < 1)).sum()) < 200
    # Depth is distance, not depth along the view; normals point from the centre to the surface.
    rays_o, rays_d = (x[0, 0] for x in camera_rays(c2w, 48, 48, 90.0))
    b = (rays_o * rays_d).sum(-1)
    expected = -b - (b * b - 3.0).clamp(min=0).sqrt()
    clear = b * b - 3.0 > 0.05
    depth = picture.depth[0, 0][clear]
    torch.testing.assert_close(depth, expected[clear], atol=0.01, rtol=0)  # means over pixels
    assert float(((depth - expected[clear]).abs() < 1e-3).float().mean()) > 0.9
    points = rays_o + expected[..., None] * rays_d
    normal = picture.normal[0, 0].movedim(0, -1)
    torch.testing.assert_close(normal[clear], points[clear], atol=0.02, rtol=0)
    outside = alpha == 0
    assert bool((picture.depth[0, 0][outside] == 0).all())
    assert bool((picture.rgba[0, 0][:, outside] == 0).all())


def test_supersampling_averages_at_edges_alone() -> None:
    scene = ProceduralObjects(seed=1).batch([4])
    c2w = one_view(0.4, 0.2, 2.2)
    fine, coarse = scene.render(c2w, 48, 50.0), scene.render(c2w, 16, 50.0, supersample=3)
    sharp = scene.render(c2w, 16, 50.0)
    alpha = torch.nn.functional.avg_pool2d(fine.rgba[0, :, 3:], 3)
    edges = (alpha > 0) & (alpha < 1)
    assert 20 < int(edges.sum()) < 200
    assert float((coarse.rgba[0, :, 3:] - alpha).abs().max()) < 0.12  # thin things slip through
    assert float(((coarse.rgba[0, :, 3:] - alpha).abs() < 1e-6).float().mean()) > 0.95
    even = (coarse.rgba == sharp.rgba).all(2)
    assert 0.3 < float(even.float().mean()) < 0.99
    premultiplied = coarse.rgba[:, :, :3] * coarse.rgba[:, :, 3:]
    torch.testing.assert_close(
        scene.render_on(0.5, c2w, 16, 50.0, 3), premultiplied + 0.5 * (1 - coarse.rgba[:, :, 3:])
    )


@WAYS
def test_large_boxes_have_no_holes(kind_of_scene) -> None:
    """Every pixel that looks at a face not quite edge-on is covered, and none beyond."""
    boxes = [(0.9, 0.9, 0.9), (1.0, 0.4, 0.7), (0.3, 1.0, 1.0), (1.0, 1.0, 0.15)]
    scene = make_scene([[{"kind": "box", "size": size}] for size in boxes])
    azimuth, elevation = sample_orbits(torch.Generator().manual_seed(1), 12)
    c2w = orbit_c2w(azimuth, elevation, 4.0).reshape(4, 3, 4, 4)
    alpha = of_kind(scene, kind_of_scene).render(c2w, 40, 45.0).rgba[:, :, 3]
    for b, size in enumerate(boxes):
        half = torch.tensor(size)
        rays_o, rays_d = camera_rays(c2w[b], 40, 40, 45.0)
        near, face = ((-half * rays_d.sign() - rays_o) / rays_d).max(-1)
        far = ((half * rays_d.sign() - rays_o) / rays_d).amin(-1)
        steep = rays_d.abs().gather(-1, face[..., None])[..., 0] > 0.1
        assert bool((alpha[b][steep & (far > near)] == 1).all())
        assert bool((alpha[b][far < near - 0.05] == 0).all())


def test_squares_bound_the_silhouette() -> None:
    size, fov = 64, 50.0
    scene = ProceduralObjects(seed=2).batch(range(6))
    c2w = orbit_c2w(torch.linspace(0, 5, 6), 0.4, 2.5)[:, None]
    squares = scene.squares(c2w)[:, 0] * size / 2 / math.tan(math.radians(fov) / 2)
    alpha = scene.render(c2w, size, fov).rgba[:, 0, 3]
    for picture, (x, y, half) in zip(alpha, squares.tolist(), strict=True):
        rows, columns = (torch.nonzero(picture.sum(d)).flatten() for d in (1, 0))
        height, width = (float(i.max() - i.min() + 1) for i in (rows, columns))
        assert max(height, width) == pytest.approx(2 * half, abs=3)
        assert float(columns.min() + columns.max() + 1) / 2 == pytest.approx(size / 2 + x, abs=2)
        assert float(rows.min() + rows.max() + 1) / 2 == pytest.approx(size / 2 - y, abs=2)


def test_a_picture_does_not_depend_on_other_views() -> None:
    scene = ProceduralObjects(seed=2).batch([3])
    c2w = orbit_c2w(torch.tensor([0.2, 1.7]), 0.1, 2.4)[None]
    both = scene.render(c2w, 16, 50.0)
    for v in range(2):
        alone = scene.render(c2w[:, v : v + 1], 16, 50.0)
        assert torch.equal(alone.rgba[:, 0], both.rgba[:, v])


def test_cameras_of_wrong_shapes_are_refused() -> None:
    scene = make_scene([[{"kind": "box"}]])
    c2w = orbit_c2w(0.0, 0.0, 3.0)
    for bad in (c2w, c2w[None], c2w.expand(2, 1, 4, 4)):
        with pytest.raises(ValueError, match=r"c2w must be \(1, V, 4, 4\)"):
            scene.render(bad, 4, 40.0)
    with pytest.raises(ValueError, match="supersample must be at least 1, got 0"):
        scene.render(c2w[None, None], 4, 40.0, supersample=0)
    with pytest.raises(ValueError, match="at least one pixel"):
        scene.render(c2w[None, None], 0, 40.0)
