"""What rays meet, against equations of the bodies and brute-force marching; pictures; surfaces."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from fastrecon.cameras import camera_rays, orbit_c2w, sample_orbits
from fastrecon.data.primitives import PRIMITIVES
from fastrecon.data.procedural import ProceduralObjects
from fastrecon.data.scene import Scene
from tests.data.solids import (
    EQUATIONS,
    NAMES,
    inward_rays,
    level,
    make_scene,
    march,
    rotations,
    slopes,
)

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)


def ray(origin: tuple[float, ...], direction: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    return torch.tensor([[origin]]), torch.tensor([[direction]])


def single(kind: str, **part) -> Scene:
    return make_scene([[{"kind": kind, **part}]])


def assert_traced_like_marching(scene: Scene, rays_o: Tensor, rays_d: Tensor, limit: float) -> None:
    """Hits lie on the surface, nothing solid comes before them, and no ray misses a body."""
    found = scene.trace(rays_o, rays_d)
    hit, depth = found.mask.numpy() > 0, found.depth.double().numpy()
    ts = np.linspace(0.0, limit, 400)
    step = ts[1]
    first = march(scene, rays_o, rays_d, ts)
    assert 0.05 < hit.mean() < 0.99
    # A step may jump over a grazed edge, so marching may miss or be late, but never be early.
    assert bool(hit[np.isfinite(first)].all())
    assert bool((depth <= first + 1e-4)[hit].all())
    assert np.mean(depth[hit] < first[hit] - step - 1e-4) < 0.03
    points = rays_o.double().numpy() + depth[..., None] * rays_d.double().numpy()
    assert np.abs(level(scene, points)[hit]).max() < 2e-4

    normal = found.normal.double().numpy()
    assert np.abs(np.linalg.norm(normal, axis=-1)[hit] - 1).max() < 1e-5
    along = (normal * slopes(scene, points)).sum(-1)[hit]
    assert np.mean(along > 0.999) > 0.97  # the others sit on an edge, where two faces meet
    assert ((normal * rays_d.numpy()).sum(-1)[hit] < 1e-3).mean() > 0.998

    for values in (found.rgb, found.depth[..., None], found.normal):
        assert bool((values[~torch.from_numpy(hit)] == 0).all()), "a miss is all zeros"
    assert float(found.rgb.min()) >= 0
    assert float(found.rgb.max()) <= 1 + 1e-6


# ------------------------------------------------------------------------------------------ depths


@pytest.mark.parametrize(
    ("kind", "seen_from", "surface"),
    [
        ("ellipsoid", (1, 0, 0), 1.0),
        ("box", (1, 0, 0), 1.0),
        ("box", (0, 0, -1), 1.0),
        ("cylinder", (0, 0, 1), 1.0),
        ("cylinder", (0, -1, 0), 1.0),
        ("cone", (0, 0, 1), 1.0),
        ("cone", (0, 0, -1), 1.0),
        ("cone", (1, 0, 0), 0.65),  # half-way up: the mean of the radii 1 and 0.3
        ("dome", (0, 0, 1), 1.0),
        ("dome", (0, 0, -1), 0.0),  # the flat side goes through the origin
        ("dome", (1, 0, 0), 1.0),
        ("wedge", (1, 0, 0), 1.0),
        ("wedge", (0, 1, 0), 0.5),  # half-way up the roof
        ("wedge", (0, 0, 1), 1.0),
        ("wedge", (0, 0, -1), 1.0),
    ],
)
def test_depth_straight_ahead(kind: str, seen_from: tuple[int, ...], surface: float) -> None:
    """Bodies 0.5 times their unit size, seen along an axis from 3 away: 3 - surface / 2."""
    scene = single(kind, size=(0.5, 0.5, 0.5), shape=0.3)
    origin = torch.tensor(seen_from, dtype=torch.float32) * 3
    found = scene.trace(origin[None, None], -origin[None, None] / 3)
    assert float(found.mask) == 1
    assert float(found.depth) == pytest.approx(3 - surface / 2, abs=2e-5)
    assert float(found.normal.norm()) == pytest.approx(1, abs=1e-5)


def test_an_ellipsoid_s_half_axes_are_seen_along_its_axes() -> None:
    scene = single("ellipsoid", size=(0.2, 0.5, 0.9))
    for axis, half in enumerate((0.2, 0.5, 0.9)):
        origin = 2 * torch.eye(3)[axis]
        found = scene.trace(origin[None, None], -origin[None, None] / 2)
        assert float(found.depth) == pytest.approx(2 - half, abs=1e-5)
        assert found.normal[0, 0].tolist() == pytest.approx(torch.eye(3)[axis].tolist(), abs=1e-5)


def test_the_apex_of_a_pointed_cone_has_a_normal() -> None:
    found = single("cone", shape=0.0).trace(*ray((0.0, 0.0, 3.0), (0.0, 0.0, -1.0)))
    assert float(found.depth) == pytest.approx(2.0, abs=1e-6)
    assert found.normal[0, 0].tolist() == [0.0, 0.0, 1.0]


def test_depth_counts_in_units_of_the_direction() -> None:
    rays_o, rays_d = ray((3.0, 0.0, 0.0), (-2.0, 0.0, 0.0))
    assert float(single("ellipsoid").trace(rays_o, rays_d).depth) == pytest.approx(1.0, abs=1e-6)


def test_nothing_behind_or_around_a_ray_is_seen() -> None:
    scene = single("box")
    for origin, direction in (
        ((3.0, 0.0, 0.0), (1.0, 0.0, 0.0)),  # the box is behind
        ((0.0, 0.0, 0.0), (1.0, 0.0, 0.0)),  # the ray starts inside: that part is not seen
        ((3.0, 2.0, 0.0), (-1.0, 0.0, 0.0)),  # parallel to a face, outside
    ):
        found = scene.trace(*ray(origin, direction))
        assert float(found.mask) == float(found.depth) == 0
        assert float(found.rgb.abs().sum() + found.normal.abs().sum()) == 0


def test_the_nearest_part_is_seen_whatever_the_order() -> None:
    near = {"kind": "box", "size": (0.1, 0.5, 0.5), "centre": (1.0, 0, 0), "colours": (RED, RED)}
    far = {"kind": "ellipsoid", "size": (0.9, 0.9, 0.9), "colours": (BLUE, BLUE)}
    scene = make_scene([[near, far], [far, near], [far]])
    rays_o, rays_d = ray((3.0, 0.0, 0.0), (-1.0, 0.0, 0.0))
    found = scene.trace(rays_o.expand(3, 1, 3), rays_d.expand(3, 1, 3))
    assert found.depth[:, 0].tolist() == pytest.approx([1.9, 1.9, 2.1], abs=1e-5)
    torch.testing.assert_close(found.rgb[:, 0], torch.tensor([RED, RED, BLUE]))


@pytest.mark.parametrize("kind", NAMES)
def test_every_kind_against_its_equation(kind: str) -> None:
    rng = np.random.default_rng(NAMES.index(kind))
    scene = make_scene(
        [
            [
                {
                    "kind": kind,
                    "size": rng.uniform(0.3, 0.9, 3),
                    "rotation": rotation,
                    "centre": rng.uniform(-0.3, 0.3, 3),
                    "shape": shape,
                }
            ]
            for rotation, shape in zip(rotations(rng, 6), np.linspace(0, 0.7, 6), strict=True)
        ]
    )
    assert_traced_like_marching(scene, *inward_rays(1, 6, 300), limit=6.0)


@pytest.mark.parametrize("kind", NAMES)
def test_rays_parallel_to_a_body_s_axes(kind: str) -> None:
    """Exact zeros in the direction, as a canonical camera's middle row and column have."""
    scene = make_scene([[{"kind": kind, "size": (0.5, 0.7, 0.9), "shape": 0.2}]] * 6)
    axes = torch.cat([torch.eye(3), -torch.eye(3)])[:, None]
    offsets = torch.rand((6, 100, 3), generator=torch.Generator().manual_seed(0)) * 2 - 1
    rays_d = -axes.expand(6, 100, 3)
    assert_traced_like_marching(scene, torch.where(axes != 0, 3 * axes, offsets), rays_d, limit=6.0)


def test_unions_against_marching() -> None:
    scene = ProceduralObjects(seed=3, max_parts=5).batch(range(10))
    assert int((scene.bodies.kinds >= 0).sum(1).max()) == 5
    assert_traced_like_marching(scene, *inward_rays(2, 10, 250), limit=6.0)


@pytest.mark.parametrize("name", NAMES)
def test_support_points_are_the_farthest(name: str) -> None:
    """On the surface, and no point of the body lies farther in that direction."""
    primitive, equation = PRIMITIVES[NAMES.index(name)], EQUATIONS[name]
    rng = np.random.default_rng(0)
    cube = rng.uniform(-1, 1, (20000, 3))
    n = rng.normal(size=(200, 3))
    n /= np.linalg.norm(n, axis=-1, keepdims=True)
    for shape in (0.0, 0.5):
        found = primitive.support(n, np.full(len(n), shape))
        assert np.abs(equation(found, np.full(len(n), shape))).max() < 1e-9
        inside = cube[equation(cube, np.full(len(cube), shape)) <= 0]
        beyond = (inside @ n.T).max(axis=0) - (found * n).sum(-1)
        assert beyond.max() <= 1e-9
        assert beyond.min() > -0.5  # and the sampled points come near it


# ----------------------------------------------------------------------------------------- errors


def test_rays_of_wrong_shapes_are_refused() -> None:
    scene = make_scene([[{"kind": "box"}]] * 2)
    good = torch.ones(2, 4, 3)
    for bad in (good[0], good[:1], good[..., :2]):
        with pytest.raises(ValueError, match=r"rays_o must be \(2, N, 3\)"):
            scene.trace(bad, good)
        with pytest.raises(ValueError, match=r"rays_d must be \(2, N, 3\)"):
            scene.trace(good, bad)
    with pytest.raises(ValueError, match="expand the origins"):
        scene.trace(good[:, :1], good)


def test_no_rays_are_no_hits() -> None:
    found = single("box").trace(torch.zeros(1, 0, 3), torch.zeros(1, 0, 3))
    assert found.rgb.shape == found.normal.shape == (1, 0, 3)
    assert found.mask.shape == found.depth.shape == (1, 0)


# ---------------------------------------------------------------------------------------- pictures


def test_pictures_agree_with_rays() -> None:
    """Every pixel's centre sees what its ray meets: windows around parts cut nothing off."""
    scene = ProceduralObjects(seed=1).batch(range(6))
    azimuth, elevation = sample_orbits(torch.Generator().manual_seed(0), 12)
    c2w = orbit_c2w(azimuth, elevation, 2.2).reshape(6, 2, 4, 4)
    pictures = scene.render(c2w, 24, 50.0)
    rays_o, rays_d = camera_rays(c2w, 24, 24, 50.0)
    found = scene.trace(rays_o.reshape(6, -1, 3), rays_d.reshape(6, -1, 3))
    mask = found.mask.reshape(6, 2, 24, 24)
    same = mask == pictures.rgba[:, :, 3]
    assert same.float().mean() > 0.999  # grazing rays may round either way
    both = same & (mask == 1)
    torch.testing.assert_close(
        pictures.depth[both], found.depth.reshape(6, 2, 24, 24)[both], atol=1e-4, rtol=0
    )
    for picture, flat in ((pictures.rgba[:, :, :3], found.rgb), (pictures.normal, found.normal)):
        difference = (picture.movedim(2, -1) - flat.reshape(6, 2, 24, 24, 3)).abs().amax(-1)
        assert (difference[both] < 1e-3).float().mean() > 0.99  # the others: edges of patterns


def test_supersampling_averages_coverage_and_covered_colour() -> None:
    scene = ProceduralObjects(seed=1).batch([4])
    c2w = orbit_c2w(0.4, 0.2, 2.2).expand(1, 1, 4, 4)
    fine, coarse = scene.render(c2w, 48, 50.0), scene.render(c2w, 16, 50.0, supersample=3)

    def blocks(x: Tensor) -> Tensor:
        return torch.nn.functional.avg_pool2d(x.flatten(0, 1), 3)[None]

    alpha = blocks(fine.rgba[:, :, 3:])
    torch.testing.assert_close(coarse.rgba[:, :, 3:], alpha)
    assert bool(((alpha > 0) & (alpha < 1)).any())
    covered = alpha.clamp_min(1e-9)
    premultiplied = blocks(fine.rgba[:, :, :3] * fine.rgba[:, :, 3:])
    torch.testing.assert_close(coarse.rgba[:, :, :3], premultiplied / covered)
    torch.testing.assert_close(coarse.depth[:, :, None], blocks(fine.depth[:, :, None]) / covered)
    empty = alpha[:, :, 0] == 0
    assert bool((coarse.depth[empty] == 0).all())
    assert bool((coarse.rgba.movedim(2, -1)[empty] == 0).all())
    # Over grey: the covered share of the object, the rest of the background.
    torch.testing.assert_close(
        scene.render_on(0.5, c2w, 16, 50.0, 3), premultiplied + 0.5 * (1 - alpha)
    )


def test_a_sphere_s_picture_is_a_disc() -> None:
    """Seen from 2 with radius 1 the silhouette's tangent is 1 / sqrt(2^2 - 1)."""
    scene = single("ellipsoid")
    c2w = orbit_c2w(0.7, 0.3, 2.0).expand(1, 1, 4, 4)
    alpha = scene.render(c2w, 64, 90.0, supersample=2).rgba[0, 0, 3]
    radius = 32 / math.sqrt(3.0)
    assert float(alpha.sum()) == pytest.approx(math.pi * radius**2, rel=5e-3)
    square = scene.squares(c2w)[0, 0]
    assert square.tolist() == pytest.approx([0.0, 0.0, 1 / math.sqrt(3.0)], abs=1e-6)


def test_squares_bound_the_silhouette_tightly() -> None:
    size, fov = 96, 50.0
    scene = ProceduralObjects(seed=2).batch(range(5))
    c2w = orbit_c2w(torch.linspace(0, 5, 5), 0.4, 2.5)[:, None]
    squares = scene.squares(c2w)[:, 0] * size / 2 / math.tan(math.radians(fov) / 2)
    alpha = scene.render(c2w, size, fov).rgba[:, 0, 3]
    for picture, (x, y, half) in zip(alpha, squares.tolist(), strict=True):
        rows, columns = (torch.nonzero(picture.sum(d)).flatten() for d in (1, 0))
        height, width = (float(i.max() - i.min() + 1) for i in (rows, columns))
        assert max(height, width) == pytest.approx(2 * half, abs=1.5)
        assert float(columns.min() + columns.max() + 1) / 2 == pytest.approx(size / 2 + x, abs=1.5)
        assert float(rows.min() + rows.max() + 1) / 2 == pytest.approx(size / 2 - y, abs=1.5)


def test_a_camera_amid_the_parts_sees_what_lies_ahead() -> None:
    behind = {"kind": "box", "size": (0.2, 0.2, 0.2), "centre": (2.0, 0.0, 0.0)}
    around = {"kind": "ellipsoid", "size": (0.5, 0.5, 0.5), "centre": (1.0, 0.0, 0.0)}
    ahead = {"kind": "ellipsoid", "size": (0.3, 0.3, 0.3)}
    c2w = orbit_c2w(0.0, 0.0, 1.0).expand(1, 1, 4, 4)
    picture = make_scene([[behind, around, ahead]]).render(c2w, 9, 60.0)
    assert float(picture.depth[0, 0, 4, 4]) == pytest.approx(0.7, abs=1e-5)
    alone = make_scene([[ahead]]).render(c2w, 9, 60.0)
    assert torch.equal(picture.rgba, alone.rgba)


def test_cameras_of_wrong_shapes_are_refused() -> None:
    scene = single("box")
    c2w = orbit_c2w(0.0, 0.0, 3.0)
    for bad in (c2w, c2w[None], c2w.expand(2, 1, 4, 4)):
        with pytest.raises(ValueError, match=r"c2w must be \(1, V, 4, 4\)"):
            scene.render(bad, 4, 40.0)
    with pytest.raises(ValueError, match="supersample must be at least 1, got 0"):
        scene.render(c2w[None, None], 4, 40.0, supersample=0)
    with pytest.raises(ValueError, match="at least one pixel"):
        scene.render(c2w[None, None], 0, 40.0)
