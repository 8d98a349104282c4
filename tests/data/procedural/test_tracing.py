"""Where rays meet surfaces: by hand, against walking along them, and with rays shared by tiles."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastrecon.data.procedural import ProceduralObjects, tracing
from fastrecon.data.procedural.field import CARVE, Field
from fastrecon.data.procedural.scene import Scene
from fastrecon.data.procedural.tracing import march, sphere_interval
from tests.data.procedural.solids import DenseScene, inward_rays, make_parts, make_scene, rotations

RED, BLUE = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
WAYS = pytest.mark.parametrize("kind_of_scene", [Scene, DenseScene])


def ray(origin: tuple[float, ...], direction: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    return torch.tensor([[origin]]), torch.tensor([[direction]])


def single(kind: str, kind_of_scene: type[Scene] = Scene, **part) -> Scene:
    scene = make_scene([[{"kind": kind, **part}]])
    return scene if kind_of_scene is Scene else DenseScene.of(scene)


def first_inside(scene: Scene, rays_o: Tensor, rays_d: Tensor, ts: Tensor) -> Tensor:
    """First of the ts at which rays (B, N, 3) are inside by the sign of the field; inf if none."""
    first = torch.full(rays_o.shape[:2], torch.inf)
    for chunk in ts.split(50):
        points = rays_o[:, :, None] + chunk[:, None] * rays_d[:, :, None]
        inside = (scene.distance(points.flatten(1, 2)) < 0).unflatten(1, points.shape[1:3])
        found = torch.where(inside.any(-1), chunk[inside.float().argmax(-1)], torch.inf)
        first = torch.minimum(first, found)
    return first


# ------------------------------------------------------------------------------------------- depths


@WAYS
@pytest.mark.parametrize(
    ("kind", "seen_from", "surface"),
    [
        ("ellipsoid", (1, 0, 0), 0.5),
        ("box", (1, 0, 0), 0.5),
        ("box", (0, 0, -1), 0.5),
        ("cylinder", (0, 0, 1), 0.5),
        ("cylinder", (0, -1, 0), 0.5),
        ("cone", (1, 0, 0), 0.25),  # half-way up to the point
        ("cone", (0, 0, -1), 0.5),
        ("dome", (0, 0, 1), 0.5),
        ("torus", (1, 0, 0), 0.5),
        ("pyramid", (1, 0, 0), 0.25),
        ("bowl", (0, 0, -1), 0.5),
        ("bowl", (0, 0, 1), -0.42),  # its wall is 0.08 thick
    ],
)
def test_depth_straight_ahead(kind: str, seen_from, surface: float, kind_of_scene) -> None:
    """Solids of half size 0.5, seen along an axis from 3 away."""
    scene = single(kind, kind_of_scene, size=(0.5, 0.5, 0.5))
    origin = torch.tensor(seen_from, dtype=torch.float32)[None, None] * 3
    found = scene.trace(origin, -origin / 3)
    assert float(found.mask) == 1
    assert float(found.depth) == pytest.approx(3 - surface, abs=1e-3)


@WAYS
def test_a_sphere_seen_obliquely(kind_of_scene) -> None:
    """Normals are those of the sphere, depths the roots of its quadratic."""
    radius, centre = 0.6, torch.tensor([0.2, -0.1, 0.3])
    part = {"size": (radius,) * 3, "centre": centre.tolist(), "axes": rotations(0, 1)[0].tolist()}
    rays_o, rays_d = inward_rays(0, 1, 500)
    found = single("ellipsoid", kind_of_scene, **part).trace(rays_o, rays_d)
    b = ((rays_o - centre) * rays_d).sum(-1)
    root = b * b - (rays_o - centre).square().sum(-1) + radius**2
    clear = root.abs() > 0.02
    assert bool(((found.mask == 1) == (root > 0))[clear].all())
    hit = clear & (root > 0)
    expected = -b - root.clamp(min=0).sqrt()
    torch.testing.assert_close(found.depth[hit], expected[hit], atol=1e-3, rtol=0)
    normals = (rays_o + expected[..., None] * rays_d - centre) / radius
    torch.testing.assert_close(found.normal[hit], normals[hit], atol=0.01, rtol=0)


@WAYS
def test_a_turned_box_seen_obliquely(kind_of_scene) -> None:
    half, axes = torch.tensor([0.3, 0.5, 0.7]), rotations(1, 1)[0]
    part = {"size": half.tolist(), "axes": axes.tolist(), "centre": (0.1, 0.2, 0.0)}
    rays_o, rays_d = inward_rays(1, 1, 500, spread=0.7)
    found = single("box", kind_of_scene, **part).trace(rays_o, rays_d)
    o, d = (rays_o - torch.tensor([0.1, 0.2, 0.0])) @ axes.T, rays_d @ axes.T
    near = ((-half * d.sign() - o) / d).amax(-1)
    far = ((half * d.sign() - o) / d).amin(-1)
    clear = (far - near).abs() > 0.02
    assert bool(((found.mask == 1) == (far > near))[clear].all())
    hit = clear & (far > near)
    assert 50 < int(hit.sum()) < 450
    error = (found.depth - near)[hit].abs()
    assert float((error < 1e-3).float().mean()) > 0.98
    assert float(error.max()) < 0.02  # at edges, where normals are neither face's


@WAYS
def test_depth_counts_in_units_of_the_direction(kind_of_scene) -> None:
    rays_o, rays_d = ray((3.0, 0.0, 0.0), (-2.0, 0.0, 0.0))
    assert float(single("ellipsoid", kind_of_scene).trace(rays_o, rays_d).depth) == pytest.approx(
        1.0, abs=1e-4
    )


@WAYS
def test_nothing_behind_or_around_a_ray_is_seen(kind_of_scene) -> None:
    scene = single("box", kind_of_scene)
    for origin, direction in (
        ((3.0, 0.0, 0.0), (1.0, 0.0, 0.0)),  # the box is behind
        ((3.0, 1.1, 0.0), (-1.0, 0.0, 0.0)),  # parallel to a face, outside
        ((3.0, 4.0, 0.0), (-1.0, 0.0, 0.0)),  # beyond its ball
    ):
        found = scene.trace(*ray(origin, direction))
        assert all(float(values.abs().sum()) == 0 for values in found)


@WAYS
def test_rays_along_a_face(kind_of_scene) -> None:
    """Just inside a face, parallel to it: they meet the box's end, not the face."""
    scene = single("box", kind_of_scene)
    for y in (0.98, -0.98, 0.0):
        found = scene.trace(*ray((3.0, y, 0.3), (-1.0, 0.0, 0.0)))
        assert float(found.depth) == pytest.approx(2.0, abs=2e-3)
        assert found.normal[0, 0].tolist() == pytest.approx([1.0, 0.0, 0.0], abs=1e-2)


@WAYS
def test_a_ray_that_starts_inside_is_there_already(kind_of_scene) -> None:
    found = single("ellipsoid", kind_of_scene).trace(*ray((0.9, 0.0, 0.0), (1.0, 0.0, 0.0)))
    assert float(found.mask) == 1
    assert float(found.depth) == 0


@WAYS
def test_the_nearest_part_is_seen_whatever_the_order(kind_of_scene) -> None:
    near = {"kind": "box", "size": (0.1, 0.5, 0.5), "centre": (1.0, 0, 0), "colours": (RED, RED)}
    far = {"kind": "ellipsoid", "size": (0.9, 0.9, 0.9), "colours": (BLUE, BLUE)}
    scene = make_scene([[near, far], [far, near], [far]])
    scene = scene if kind_of_scene is Scene else DenseScene.of(scene)
    rays_o, rays_d = (x.expand(3, 1, 3) for x in ray((3.0, 0.0, 0.0), (-1.0, 0.0, 0.0)))
    found = scene.trace(rays_o, rays_d)
    assert found.depth[:, 0].tolist() == pytest.approx([1.9, 1.9, 2.1], abs=1e-3)
    torch.testing.assert_close(found.rgb[:, 0], torch.tensor([RED, RED, BLUE]))


def test_one_sees_through_a_hole() -> None:
    hole = {"kind": "cylinder", "size": (0.3, 0.3, 2.0), "way": CARVE}
    scene = make_scene([[{"kind": "box", "size": (0.8, 0.8, 0.4)}, hole]])
    for x, mask, depth in ((0.0, 0, 0.0), (0.29, 0, 0.0), (0.31, 1, 2.6)):
        found = scene.trace(*ray((x, 0.0, 3.0), (0.0, 0.0, -1.0)))
        assert float(found.mask) == mask
        assert float(found.depth) == pytest.approx(depth, abs=2e-3)


# -------------------------------------------------------------------------------------- brute force


def test_rays_against_walking_along_them() -> None:
    scene = ProceduralObjects(seed=3, max_parts=6).batch(range(12))
    rays_o, rays_d = inward_rays(2, 12, 120, spread=0.7)
    found, ts = scene.trace(rays_o, rays_d), torch.linspace(1.9, 4.1, 400)
    first = first_inside(scene, rays_o, rays_d, ts)
    hit, walked, late = found.mask == 1, torch.isfinite(first), found.depth - first
    both, step = hit & walked, float(ts[1] - ts[0])
    assert 0.2 < float(hit.float().mean()) < 0.9
    assert float((hit != walked).float().mean()) < 0.01  # grazing rays, mostly
    assert float((late[both] > 5e-3).float().mean()) < 0.005, "nothing solid is passed"
    assert float((late[both] < -step - 5e-3).float().mean()) < 0.01
    points = rays_o + found.depth[..., None] * rays_d
    off = scene.distance(points).abs()[hit]
    assert float((off < 2e-3).float().mean()) > 0.98
    assert float(off.max()) < 0.03
    facing = (found.normal * rays_d).sum(-1)[hit]
    assert float((facing < 0.02).float().mean()) > 0.99
    torch.testing.assert_close(found.normal[hit].norm(dim=-1), torch.ones(int(hit.sum())))


def test_all_objects_at_once_are_those_one_by_one() -> None:
    """The way of GPUs, on this processor."""
    scene = ProceduralObjects(seed=4, max_parts=5).batch(range(10))
    dense = DenseScene.of(scene)
    assert dense.dense
    assert len(dense.pieces) == 1
    rays = inward_rays(3, 10, 200, spread=0.7)
    one, all_ = scene.trace(*rays), dense.trace(*rays)
    # Hardest rays are given up at other times: see FEW, STEPS and DENSE_STEPS.
    same = one.mask == all_.mask
    assert float(same.float().mean()) > 0.99
    hit = same & (one.mask == 1)
    for a, b, limit in zip(one, all_, (0.02, 0.0, 2e-3, 0.02), strict=True):
        difference = (a - b).abs()[hit]
        assert float((difference <= limit).float().mean()) > 0.99
    assert all(bool((x[all_.mask == 0] == 0).all()) for x in all_)
    torch.testing.assert_close(dense.distance(rays[0]), scene.distance(rays[0]), atol=1e-4, rtol=0)


# -------------------------------------------------------------------------------------------- cones


def test_balls_are_met_where_they_are() -> None:
    o, d = torch.tensor([[[3.0, 0.0]], [[0.0, 0.0]], [[0.0, 2.0]]]), torch.zeros(3, 1, 2)
    d[0] = -2.0
    near, far = sphere_interval(o, d, torch.tensor([[1.0]]))
    assert near[0, 0].item() == pytest.approx(1.0)
    assert far[0, 0].item() == pytest.approx(2.0)
    assert far[0, 1] < near[0, 1]
    near, far = sphere_interval(torch.zeros(3, 1, 1), d[..., :1], torch.tensor([[1.0]]))
    assert (near.item(), far.item()) == (0.0, 0.5)  # from inside


@pytest.mark.parametrize("dense", [False, True])
def test_a_cone_is_free_up_to_its_answer(dense: bool) -> None:
    """No point of the cone before that lies inside, and it is most of the way for a thin one."""
    parts = ProceduralObjects(seed=5, max_parts=4).batch([1]).parts
    field, width = Field(parts, dense), 0.06
    rays_o, rays_d = (x.movedim(-1, 0) for x in inward_rays(6, 1, 60, radius=4.0))
    near, far = torch.zeros(1, 60), torch.full((1, 60), 8.0)
    reached = march(field, rays_o, rays_d, near, far, cone=width)
    finite = torch.isfinite(reached)
    assert int(finite.sum()) > 5
    share = torch.linspace(0, 0.999, 40)[:, None, None]
    around = torch.nn.functional.normalize(torch.randn(40, 3, 1, 60), dim=1)
    across = around - (around * rays_d).sum(1, keepdim=True) * rays_d
    across = torch.nn.functional.normalize(across, dim=1)
    t = torch.where(finite, reached, 4.0)
    for scale in (0.0, 0.5, 0.99):
        points = rays_o + share[:, None] * t * (rays_d + scale * width * across)
        distance = field.distance(points.movedim(0, -1).flatten(2))
        inside = (distance.unflatten(1, (60, 40)) < 0).any(-1)
        assert not bool((inside & finite).any())
    exact = march(field, rays_o, rays_d, near, far)
    both = finite & torch.isfinite(exact)
    assert bool((reached[both] <= exact[both] + 1e-3).all())
    assert bool((exact[~finite] == torch.inf).all()), "a free cone has no ray that hits"


def test_a_ray_that_creeps_counts_if_it_is_near(monkeypatch: pytest.MonkeyPatch) -> None:
    for dense in (False, True):
        field = Field(make_parts([[{"kind": "box"}]]), dense)
        rays_o = torch.tensor([3.0, 1.003, 0.0])[:, None, None]
        rays_d = torch.tensor([-1.0, 0.0, 0.0])[:, None, None]
        near, far = torch.zeros(1, 1), torch.full((1, 1), 6.0)
        steps = "DENSE_STEPS" if dense else "STEPS"
        monkeypatch.setattr(tracing, steps, 800)
        assert not bool(torch.isfinite(march(field, rays_o, rays_d, near, far)).any())
        monkeypatch.setattr(tracing, steps, 40)
        assert bool(torch.isfinite(march(field, rays_o, rays_d, near, far)).all())
        rays_o = torch.tensor([3.0, 1.0 + math.sqrt(2) / 20, 0.0])[:, None, None]
        assert not bool(torch.isfinite(march(field, rays_o, rays_d, near, far)).any())


# ------------------------------------------------------------------------------------------- errors


def test_rays_of_wrong_shapes_are_refused() -> None:
    scene = make_scene([[{"kind": "box"}]] * 2)
    good = torch.ones(2, 4, 3)
    for bad in (good[0], good[:1], good[..., :2]):
        with pytest.raises(ValueError, match=r"rays_o must be \(2, N, 3\)"):
            scene.trace(bad, good)
        with pytest.raises(ValueError, match=r"rays_d must be \(2, N, 3\)"):
            scene.trace(good, bad)
        with pytest.raises(ValueError, match=r"points must be \(2, N, 3\)"):
            scene.distance(bad)
    with pytest.raises(ValueError, match="expand the origins"):
        scene.trace(good[:, :1], good)


@WAYS
def test_no_rays_are_no_hits(kind_of_scene) -> None:
    found = single("box", kind_of_scene).trace(torch.zeros(1, 0, 3), torch.zeros(1, 0, 3))
    assert found.rgb.shape == found.normal.shape == (1, 0, 3)
    assert found.mask.shape == found.depth.shape == (1, 0)
