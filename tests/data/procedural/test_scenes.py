"""Procedural scenes: one scene from every side, in the box, a function of its number."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fastrecon.config.g3dr import SceneCameraConfig
from fastrecon.data.procedural import ProceduralObjects
from fastrecon.data.procedural.scenes import SceneViews, rgbd_scenes
from fastrecon.scene_cameras import scene_c2w, scene_rays

CAMERA, COUNT, SIZE = SceneCameraConfig(), 6, 32
YAWS, PITCHES = (0.0, 0.3, -0.3, 0.1), (0.0, 0.0, 0.1, -0.12)


def cameras(count: int) -> Tensor:
    return scene_c2w(torch.tensor(YAWS), torch.tensor(PITCHES), 5.0).expand(count, 4, 4, 4)


@pytest.fixture(scope="module")
def views() -> SceneViews:
    return rgbd_scenes(3, range(COUNT), SIZE, CAMERA, cameras(COUNT))


def points_of(views: SceneViews) -> Tensor:
    """What is seen, (B, V, H, W, 3)."""
    o, d = scene_rays(views.c2w, SIZE, CAMERA.fov_deg)
    return o + views.distance[..., None] * d


def test_shapes_and_ranges(views: SceneViews) -> None:
    assert views.images.shape == (COUNT, 4, 3, SIZE, SIZE)
    assert views.distance.shape == views.inside.shape == (COUNT, 4, SIZE, SIZE)
    assert bool(((views.images >= 0) & (views.images <= 1)).all())
    depth = views.depth(CAMERA)
    assert depth.shape == (COUNT, 4, 1, SIZE, SIZE)
    assert bool(((depth >= 0) & (depth <= 1)).all())
    torch.testing.assert_close(
        (4 + 2 * depth[:, 0, 0]), views.distance[:, 0].clamp(4, 6), atol=1e-5, rtol=0
    )


def test_a_scene_is_a_function_of_its_number(views: SceneViews) -> None:
    again = rgbd_scenes(3, range(COUNT), SIZE, CAMERA, cameras(COUNT))
    assert torch.equal(again.images, views.images)
    assert torch.equal(again.distance, views.distance)
    # whatever it is made with, and from wherever else it is looked at
    alone = rgbd_scenes(3, [4], SIZE, CAMERA, cameras(1)[:, 1:2])
    assert float((alone.images[0, 0] - views.images[4, 1]).abs().mean()) < 1e-4
    torch.testing.assert_close(alone.distance[0, 0], views.distance[4, 1], atol=1e-3, rtol=0)
    front = rgbd_scenes(3, [2, 4], SIZE, CAMERA)
    assert float((front.images[1, 0] - views.images[4, 0]).abs().mean()) < 1e-4
    far = rgbd_scenes(3, [2**40], SIZE, CAMERA)
    assert bool(torch.isfinite(far.images).all())
    assert float((far.images[0, 0] - front.images[0, 0]).abs().mean()) > 0.02
    other = rgbd_scenes(4, [2], SIZE, CAMERA)
    assert float((other.images[0, 0] - front.images[0, 0]).abs().mean()) > 0.02


def test_what_the_canonical_camera_sees_lies_in_the_box() -> None:
    """And in the range of depth pictures, so that no distance is cut off."""
    seen = rgbd_scenes(0, range(60), 24, CAMERA)
    assert bool(seen.inside.all())
    assert float(seen.distance.min()) > 4.0
    assert float(seen.distance.max()) < 6.0


def test_scenes_have_shape_and_differ() -> None:
    """Neither flat walls nor one kind of thing."""
    seen = rgbd_scenes(0, range(40), 24, CAMERA)
    distance = seen.distance[:, 0].flatten(1)
    spread = distance.amax(1) - distance.amin(1)
    assert float(spread.min()) > 0.1
    assert float(spread.max()) < 2.0
    assert float(distance.std(1).median()) > 0.08
    means = seen.images[:, 0].mean((-1, -2))
    assert float(means.std(0).min()) > 0.05
    assert float(seen.images[:, 0].std((-1, -2)).mean()) > 0.05, "textured"


def test_one_scene_from_all_sides(views: SceneViews) -> None:
    """A point of one view, seen from another, has the depth that the other view shows there,
    unless something stands before it."""
    points = points_of(views)
    focal = (SIZE - 1) / 2 / math.tan(math.radians(CAMERA.fov_deg) / 2)
    agreed, hidden, total = 0, 0, 0
    for start, end in ((0, 1), (0, 2), (0, 3), (1, 0), (2, 3)):
        c2w = views.c2w[:, end]
        local = torch.einsum(
            "bji,bhwj->bhwi", c2w[:, :3, :3], points[:, start] - c2w[:, None, None, :3, 3]
        )
        column = (SIZE - 1) / 2 + focal * local[..., 0] / -local[..., 2]
        row = (SIZE - 1) / 2 - focal * local[..., 1] / -local[..., 2]
        true = local.norm(dim=-1)
        grid = torch.stack([column, row], -1) * 2 / (SIZE - 1) - 1
        shown = torch.nn.functional.grid_sample(
            views.distance[:, end][:, None], grid, align_corners=True
        )[:, 0]
        # Between pixels on both sides of an edge there is no truth.
        low = -torch.nn.functional.max_pool2d(-views.distance[:, end][:, None], 3, 1, 1)
        high = torch.nn.functional.max_pool2d(views.distance[:, end][:, None], 3, 1, 1)
        steep = torch.nn.functional.grid_sample(high - low, grid, align_corners=True)[:, 0]
        valid = (grid.abs().amax(-1) < 0.95) & (steep < 0.12)
        error = (shown - true)[valid]
        total += int(valid.sum())
        agreed += int((error.abs() < 0.03).sum())
        hidden += int((error < -0.03).sum())
    assert total > 10_000
    assert agreed / total > 0.9
    assert (agreed + hidden) / total > 0.995, "nothing is farther than what was seen through it"


def test_colours_stay_on_their_surfaces(views: SceneViews) -> None:
    """Textures belong to the world: a point has one colour from everywhere."""
    fine = rgbd_scenes(3, range(COUNT), 64, CAMERA, cameras(COUNT)[:, :2], supersample=1)
    o, d = scene_rays(fine.c2w[:, 0], 64, CAMERA.fov_deg)
    points = o + fine.distance[:, 0, ..., None] * d
    c2w = fine.c2w[:, 1]
    local = torch.einsum("bji,bhwj->bhwi", c2w[:, :3, :3], points - c2w[:, None, None, :3, 3])
    focal = 63 / 2 / math.tan(math.radians(CAMERA.fov_deg) / 2)
    grid = torch.stack([local[..., 0], -local[..., 1]], -1) * focal / -local[..., 2:] / 31.5
    shown = torch.nn.functional.grid_sample(fine.images[:, 1], grid, align_corners=True)
    seen = torch.nn.functional.grid_sample(fine.distance[:, 1][:, None], grid, align_corners=True)[
        :, 0
    ]
    same = ((seen - local.norm(dim=-1)).abs() < 0.01) & (grid.abs().amax(-1) < 0.95)
    error = (shown - fine.images[:, 0]).abs().mean(1)[same]
    unrelated = (fine.images[:, 1] - fine.images[:, 0]).abs().mean(1)[same]
    assert float(error.mean()) < 0.6 * float(unrelated.mean())
    assert float(error.median()) < 0.02


def test_inside_tells_what_planes_can_show(views: SceneViews) -> None:
    points = points_of(views)
    assert torch.equal(views.inside, (points.abs() <= 1.0).all(-1))
    assert bool(views.inside[:, 0].all())
    assert float(views.inside[:, 1:].float().mean()) > 0.7


def test_pictures_and_depth_line_up() -> None:
    """Colours are averages over a pixel, around the ray that distance is of."""
    for supersample in (1, 3):
        seen = rgbd_scenes(0, range(3), 24, CAMERA, supersample=supersample)
        single = rgbd_scenes(0, range(3), 24, CAMERA, supersample=1)
        same = (seen.distance - single.distance).abs() < 1e-4
        assert float(same.float().mean()) > 0.995, "rounding decides on the very edge"
        offsets = {}
        for shift in (-1, 0, 1):
            moved = seen.images.roll(shift, -1)[..., 2:-2] - single.images[..., 2:-2]
            offsets[shift] = float(moved.square().mean())
        assert offsets[0] < 0.5 * min(offsets[-1], offsets[1])


def test_an_object_whose_parts_have_nothing_in_common_is_its_first_part() -> None:
    """Seed 0, number 190: it would be empty, and its scene NaN."""
    seen = rgbd_scenes(0, [190], 16, CAMERA)
    assert bool(torch.isfinite(seen.images).all())
    assert bool(seen.inside.all())
    points = ProceduralObjects(0, 5).batch([190]).points
    assert float(points.norm(dim=-1).max()) == pytest.approx(1.0, abs=1e-5)


def test_cameras_of_a_wrong_shape_are_refused() -> None:
    with pytest.raises(ValueError, match=r"c2w must be \(2, V, 4, 4\), got \(4, 4\)"):
        rgbd_scenes(0, [0, 1], 8, CAMERA, scene_c2w(0.0, 0.0))
