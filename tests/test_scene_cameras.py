"""The cameras of a scene, against what the published code computes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from fastrecon.scene_cameras import (
    depth_to_distance,
    distance_to_depth,
    scene_c2w,
    scene_rays,
    video_c2w,
)


def test_the_canonical_camera() -> None:
    expected = torch.tensor(
        [[0.0, 0.0, -1.0, -5.0], [0.0, 1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]]
    )  # columns: right +z, up +y, back -x, position
    assert_close(scene_c2w(0.0, 0.0, 5.0), expected)
    assert scene_c2w(torch.zeros(3, 1), torch.zeros(2), 5.0).shape == (3, 2, 4, 4)
    assert scene_c2w(torch.zeros(3, dtype=torch.float64), 0.0, 5.0).dtype == torch.float64


def by_spherical_angles(yaw: float, pitch: float, radius: float) -> tuple[Tensor, Tensor]:
    """Position, and right, up, back as columns, as published: angles pi/2 + yaw, pi/2 + pitch."""
    rotation, polar = math.pi / 2 + yaw, math.pi / 2 + pitch
    position = radius * torch.tensor(
        [
            math.sin(polar) * math.sin(-rotation),
            math.cos(polar),
            math.sin(polar) * math.cos(rotation),
        ],
        dtype=torch.float64,
    )
    forward = -position / position.norm()
    left = torch.linalg.cross(torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64), forward)
    left = left / left.norm()
    up = torch.linalg.cross(forward, left)
    return position, torch.stack([-left, up, -forward], dim=1)


@pytest.mark.parametrize(("yaw", "pitch"), [(0.0, 0.0), (0.35, 0.15), (-0.5, 0.1), (0.2, -0.17)])
def test_yaw_and_pitch_turn_as_published(yaw: float, pitch: float) -> None:
    position, axes = by_spherical_angles(yaw, pitch, 5.0)
    c2w = scene_c2w(torch.tensor(yaw, dtype=torch.float64), pitch, 5.0)
    assert_close(c2w[:3, 3], position)
    assert_close(c2w[:3, :3], axes)
    assert_close(torch.linalg.det(c2w[:3, :3]), torch.tensor(1.0, dtype=torch.float64))


def test_signs() -> None:
    assert scene_c2w(0.3, 0.0, 5.0)[2, 3] < 0, "positive yaw moves the camera to the left"
    assert scene_c2w(0.0, 0.1, 5.0)[1, 3] < 0, "positive pitch moves the camera down"


def test_the_picture_centre_hits_the_origin() -> None:
    c2w = scene_c2w(torch.tensor([0.0, 0.4], dtype=torch.float64), 0.1, 5.0)
    rays_o, rays_d = scene_rays(c2w, 5, 18.0)
    assert rays_o.shape == rays_d.shape == (2, 5, 5, 3)
    assert_close(rays_o[:, 2, 2] + 5.0 * rays_d[:, 2, 2], torch.zeros(2, 3, dtype=torch.float64))
    assert_close(rays_d.norm(dim=-1), torch.ones(2, 5, 5, dtype=torch.float64))


@pytest.mark.parametrize("size", [2, 128])
def test_outer_pixel_centres_lie_at_half_the_field_of_view(size: int) -> None:
    _, rays_d = scene_rays(scene_c2w(torch.zeros((), dtype=torch.float64), 0.0, 5.0), size, 18.0)
    across = rays_d[..., 2] / rays_d[..., 0]  # right over forward
    upward = rays_d[..., 1] / rays_d[..., 0]
    tangent = math.tan(math.radians(9.0))
    grid = torch.linspace(-tangent, tangent, size, dtype=torch.float64)
    assert_close(across, grid.expand(size, size))
    assert_close(upward, -grid[:, None].expand(size, size), msg="row 0 is the top")


def test_the_canonical_chords_are_those_of_the_specification() -> None:
    """Near 4.00-4.10, far 6.00-6.15 in the box [-1, 1]^3 (some rays leave through its sides)."""
    _, rays_d = scene_rays(scene_c2w(0.0, 0.0, 5.0), 128, 18.0)
    near = 4.0 / rays_d[..., 0]
    assert 4.0 <= near.min() < 4.01
    assert 4.09 < near.max() <= 4.1


def test_a_video_goes_around_in_front() -> None:
    c2w = video_c2w(4, yaw=0.35, pitch=0.15, radius=5.0)
    expected = [scene_c2w(y, p, 5.0) for y, p in ((0, 0.15), (0.35, 0), (0, -0.15), (-0.35, 0))]
    assert_close(c2w, torch.stack(expected), atol=1e-6, rtol=0)
    with pytest.raises(ValueError, match="at least one frame"):
        video_c2w(0)


def test_depth_is_a_distance_along_the_ray() -> None:
    depth = torch.tensor([0.0, 0.25, 1.0, 1.5, -0.1])
    distance = depth_to_distance(depth, (4.0, 6.0))
    assert_close(distance, torch.tensor([4.0, 4.5, 6.0, 6.0, 4.0]))
    assert_close(distance_to_depth(distance, (4.0, 6.0)), depth.clamp(0, 1))


def test_nonsense_is_refused() -> None:
    c2w = scene_c2w(0.0, 0.0, 5.0)
    with pytest.raises(ValueError, match="at least 2, got 1"):
        scene_rays(c2w, 1, 18.0)
    with pytest.raises(ValueError, match="between 0 and 180"):
        scene_rays(c2w, 8, 180.0)
    with pytest.raises(ValueError, match="near < far"):
        depth_to_distance(torch.zeros(1), (6.0, 4.0))
    with pytest.raises(ValueError, match="distance must be positive"):
        scene_c2w(0.0, 0.0, 0.0)
