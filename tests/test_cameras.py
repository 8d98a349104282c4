"""Cameras: poses and rays that a person can work out, and viewpoints that are truly uniform."""

from __future__ import annotations

import math

import pytest
import torch

from fastrecon.cameras import (
    FULL_TURN,
    TRAINING_ELEVATIONS,
    camera_rays,
    camera_vector,
    focal_length,
    orbit_c2w,
    pixel_rays,
    sample_orbits,
    view_angle,
)

QUARTER = math.pi / 2


def assert_near(found: torch.Tensor, expected, atol: float = 1e-6) -> None:
    expected = torch.as_tensor(expected, dtype=found.dtype)
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def some_cameras() -> torch.Tensor:
    azimuth = torch.linspace(-3.0, 3.0, 5, dtype=torch.float64)
    elevation = torch.tensor([[-QUARTER], [-0.4], [0.9]], dtype=torch.float64)
    return orbit_c2w(azimuth, elevation, 1.9)


# ------------------------------------------------------------------------------------------- poses


def test_the_canonical_camera_is_exact() -> None:
    d = 1.9
    canonical = [[0.0, 0.0, 1.0, d], [1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0], [0.0, 0, 0, 1]]
    assert torch.equal(orbit_c2w(0.0, 0.0, d), torch.tensor(canonical))


def test_azimuth_turns_toward_y_and_elevation_toward_z() -> None:
    assert_near(orbit_c2w(QUARTER, 0.0, 2.0)[:3, 3], [0.0, 2.0, 0.0])
    assert_near(orbit_c2w(math.pi, 0.0, 2.0)[:3, 3], [-2.0, 0.0, 0.0])
    assert_near(orbit_c2w(0.0, QUARTER, 2.0)[:3, 3], [0.0, 0.0, 2.0])
    # 45 degrees round and 45 up: z = sin 45, x = y = cos 45 cos 45.
    assert_near(orbit_c2w(QUARTER / 2, QUARTER / 2, 2.0)[:3, 3], [1.0, 1.0, math.sqrt(2.0)])


def test_right_and_up_at_a_quarter_turn() -> None:
    c2w = orbit_c2w(QUARTER, 0.0, 1.0)  # stands on +y: -x is on its right, z above
    assert_near(c2w[:3, 0], [-1.0, 0.0, 0.0])
    assert_near(c2w[:3, 1], [0.0, 0.0, 1.0])


def test_poses_are_rigid_upright_and_look_at_the_origin() -> None:
    c2w = some_cameras()
    rotation, position = c2w[..., :3, :3], c2w[..., :3, 3]
    assert c2w.shape == (3, 5, 4, 4)
    assert c2w.dtype == torch.float64
    assert_near(rotation @ rotation.mT, torch.eye(3).expand(3, 5, 3, 3), 1e-12)
    assert_near(torch.linalg.det(rotation), torch.ones(3, 5), 1e-12)
    assert_near(rotation[..., 2] * 1.9, position, 1e-12)  # the camera looks along its own -z
    assert torch.equal(rotation[..., 2, 0], torch.zeros(3, 5, dtype=torch.float64))  # no roll
    assert bool((rotation[..., 2, 1] >= 0).all())


@pytest.mark.parametrize("distance", [0.0, -1.0, float("nan")])
def test_a_camera_needs_a_positive_distance(distance: float) -> None:
    with pytest.raises(ValueError, match="distance must be positive"):
        orbit_c2w(0.0, 0.0, torch.tensor([1.0, distance]))


# -------------------------------------------------------------------------------------------- rays


def test_the_centre_of_the_picture_looks_at_the_origin() -> None:
    c2w = some_cameras()
    rays_o, rays_d = pixel_rays(c2w, torch.tensor([[3.5, 2.0]]), 4, 7, 40.0)
    assert_near(rays_o + 1.9 * rays_d, torch.zeros(3, 5, 1, 3), 1e-12)
    odd_o, odd_d = camera_rays(c2w, 3, 5, 40.0)  # the middle pixel of an odd picture
    assert_near(odd_o[..., 1, 2, :] + 1.9 * odd_d[..., 1, 2, :], torch.zeros(3, 5, 3), 1e-12)


def test_every_ray_has_unit_length_and_starts_at_the_camera() -> None:
    c2w = some_cameras()
    rays_o, rays_d = camera_rays(c2w, 4, 6, 70.0)
    assert rays_o.shape == rays_d.shape == (3, 5, 4, 6, 3)
    assert_near(rays_d.norm(dim=-1), torch.ones(3, 5, 4, 6), 1e-12)
    assert torch.equal(rays_o, c2w[..., None, None, :3, 3].expand_as(rays_o))


def test_the_field_of_view_is_the_angle_between_top_and_bottom_edges() -> None:
    height, width, fov = 6, 10, 50.0
    edges = torch.tensor([[5.0, 0.0], [5.0, 6.0], [0.0, 3.0], [10.0, 3.0]])
    _, rays_d = pixel_rays(orbit_c2w(0.3, 0.2, 1.0).double(), edges, height, width, fov)
    top, bottom, left, right = rays_d
    assert math.degrees(math.acos(float(top @ bottom))) == pytest.approx(fov, abs=1e-4)
    across = 2 * math.atan(width / height * math.tan(math.radians(fov) / 2))
    assert math.acos(float(left @ right)) == pytest.approx(across, abs=1e-6)


def test_x_runs_right_and_y_runs_down() -> None:
    # Focal length 1 for a picture 2 pixels tall: the pixel's centre is half a pixel off the axis.
    _, rays_d = camera_rays(orbit_c2w(0.0, 0.0, 1.0), 2, 2, 90.0)
    unit = 1 / math.sqrt(1.5)
    assert_near(rays_d[0, 0], [-unit, -unit / 2, unit / 2])  # top left: world -y and +z
    assert_near(rays_d[1, 1], [-unit, unit / 2, -unit / 2])  # bottom right


def test_pixel_rays_agree_with_camera_rays() -> None:
    c2w = orbit_c2w(torch.tensor([0.1, 2.0]), 0.3, 1.5)
    rays_o, rays_d = camera_rays(c2w, 4, 5, 40.0)
    pixels = torch.tensor([[0.5, 0.5], [4.5, 0.5], [2.5, 3.5]])
    picked_o, picked_d = pixel_rays(c2w, pixels, 4, 5, 40.0)
    rows, columns = torch.tensor([0, 0, 3]), torch.tensor([0, 4, 2])
    assert_near(picked_d, rays_d[:, rows, columns])
    assert_near(picked_o, rays_o[:, rows, columns])


def test_every_camera_may_have_its_own_pixels() -> None:
    c2w = orbit_c2w(torch.tensor([0.1, 2.0]), 0.3, 1.5)
    pixels = torch.rand(2, 7, 2, generator=torch.Generator().manual_seed(0)) * 8
    _, rays_d = pixel_rays(c2w, pixels, 8, 8, 40.0)
    for i in range(2):
        assert_near(rays_d[i], pixel_rays(c2w[i], pixels[i], 8, 8, 40.0)[1])


def test_no_pixels_are_no_rays() -> None:
    rays_o, rays_d = pixel_rays(orbit_c2w(0.0, 0.0, 1.0), torch.zeros(0, 2), 8, 8, 40.0)
    assert rays_o.shape == rays_d.shape == (0, 3)


def test_focal_length() -> None:
    assert focal_length(100, 90.0) == pytest.approx(50.0)
    with pytest.raises(ValueError, match="at least one pixel, got 0"):
        focal_length(0, 40.0)
    for fov in (0.0, 180.0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="between 0 and 180"):
            focal_length(100, fov)


def test_wrong_shapes_are_named() -> None:
    c2w = orbit_c2w(0.0, 0.0, 1.0)
    with pytest.raises(ValueError, match=r"c2w must be \(\.\.\., 4, 4\).*got \(3, 4\)"):
        pixel_rays(c2w[:3], torch.zeros(1, 2), 8, 8, 40.0)
    for shape in ((2,), (5, 3)):
        with pytest.raises(ValueError, match=r"pixels must be \(\.\.\., R, 2\)"):
            pixel_rays(c2w, torch.zeros(shape), 8, 8, 40.0)


def test_camera_vectors_hold_the_pose_and_the_intrinsics() -> None:
    vector = camera_vector(orbit_c2w(0.0, 0.0, 2.0), 90.0)
    pose = [0, 0, 1, 2, 1, 0, 0, 0, 0, 1, 0, 0]
    assert vector.tolist() == pytest.approx([*pose, 0.5, 0.5, 0.5, 0.5], abs=1e-6)
    c2w = orbit_c2w(torch.zeros(3, 2, dtype=torch.float64), 0.3, 2.0)
    fovs = torch.tensor([[60.0, 90.0]]).expand(3, 2)
    vectors = camera_vector(c2w, fovs)
    assert vectors.shape == (3, 2, 16)
    assert vectors.dtype == torch.float64
    assert vectors[2, :, 12].tolist() == pytest.approx([math.sqrt(0.75), 0.5], abs=1e-6)
    assert torch.equal(vectors[..., :12], c2w[..., :3, :].flatten(-2))
    with pytest.raises(ValueError, match=r"got \(3, 4\)"):
        camera_vector(c2w[0, 0, :3], 40.0)


# -------------------------------------------------------------------------------------- viewpoints


def test_sampled_viewpoints_are_uniform_in_area() -> None:
    n = 8000
    azimuth, elevation = sample_orbits(torch.Generator().manual_seed(0), n)
    height = elevation.sin()
    for values, (low, high) in (
        (azimuth, FULL_TURN),
        (height, tuple(math.sin(e) for e in TRAINING_ELEVATIONS)),
    ):
        assert values.shape == (n,)
        assert float(values.min()) >= low - 1e-6
        assert float(values.max()) <= high + 1e-6
        counts = torch.histc(values, bins=8, min=low, max=high)
        # 1000 per bin, standard deviation 30.
        assert bool(((counts - n / 8).abs() < 150).all()), counts
    assert abs(float(torch.corrcoef(torch.stack([azimuth, height]))[0, 1])) < 0.05


def test_viewpoints_stay_within_given_limits() -> None:
    generator = torch.Generator().manual_seed(1)
    azimuth, elevation = sample_orbits(
        generator, 500, azimuths=(0.2, 0.3), elevations=(QUARTER, QUARTER)
    )
    assert bool(((azimuth >= 0.2) & (azimuth <= 0.3 + 1e-6)).all())
    assert_near(elevation, torch.full((500,), QUARTER), 1e-3)


def test_viewpoints_follow_their_generator_alone() -> None:
    first = sample_orbits(torch.Generator().manual_seed(3), 4)
    torch.rand(5)
    assert all(map(torch.equal, first, sample_orbits(torch.Generator().manual_seed(3), 4)))
    assert not torch.equal(first[0], sample_orbits(torch.Generator().manual_seed(4), 4)[0])
    assert sample_orbits(None, 0)[0].shape == (0,)


def test_impossible_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="azimuths must be"):
        sample_orbits(None, 1, azimuths=(1.0, 0.0))
    with pytest.raises(ValueError, match=r"convert degrees with math\.radians"):
        sample_orbits(None, 1, elevations=(-30.0, 60.0))


def test_angles_between_views() -> None:
    canonical = orbit_c2w(0.0, 0.0, 1.9)
    others = orbit_c2w(torch.tensor([0.0, QUARTER, math.pi, 0.0]), 0.0, 3.0)
    assert_near(view_angle(others, canonical), [0.0, 90.0, 180.0, 0.0], 1e-3)
    raised = orbit_c2w(QUARTER / 2, QUARTER / 2, 1.0)  # cos 45 cos 45 = cos 60
    assert float(view_angle(raised, canonical)) == pytest.approx(60.0, abs=1e-3)
