"""Where self-training looks from: limits, signs, the curriculum, and the way back."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from fastrecon.cameras import view_back
from fastrecon.config import SelfTrainingConfig
from fastrecon.objectives.poses import (
    canonical_pose,
    curriculum_limit,
    cycle_poses,
    semantic_poses,
)
from tests.objectives.equations import angles, camera, pixel

PAPER = SelfTrainingConfig()
RELEASED = replace(PAPER, cycle_poses="floor", semantic_poses="coupled", semantic_views=3)
MANY = 4000


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def degrees(cameras: Tensor) -> np.ndarray:
    """Azimuth and elevation of cameras (..., 4, 4) as (..., 2), from where they stand."""
    flat = cameras.double().reshape(-1, 4, 4).numpy()
    return np.array([angles(c2w) for c2w in flat]).reshape(*cameras.shape[:-2], 2)


# --------------------------------------------------------------------------------------- curriculum


def test_the_curriculum_grows_linearly_from_15_to_90_degrees() -> None:
    steps = 11
    limits = [curriculum_limit(PAPER, step, steps) for step in range(steps)]
    assert limits == pytest.approx([15 + 7.5 * j for j in range(steps)])  # Eq. 6
    assert curriculum_limit(PAPER, 20_000, 40_001) == pytest.approx(52.5)


def test_the_curriculum_of_one_step_and_beyond_the_last() -> None:
    assert curriculum_limit(PAPER, 0, 1) == 15.0
    assert curriculum_limit(PAPER, 99, 10) == 90.0


def test_no_curriculum_is_a_constant_limit() -> None:
    constant = replace(PAPER, cycle_limits=(90.0, 90.0))
    assert {curriculum_limit(constant, step, 7) for step in range(7)} == {90.0}


# -------------------------------------------------------------------------------------- cycle poses


def test_cameras_stand_at_the_distance_and_look_at_the_origin() -> None:
    cameras = cycle_poses(PAPER, 50, 80.0, seeded())
    assert cameras.shape == (50, 4, 4)
    for c2w, (azimuth, elevation) in zip(cameras, degrees(cameras), strict=True):
        expected = camera(azimuth, elevation, PAPER.camera_distance)
        np.testing.assert_allclose(c2w.numpy(), expected, atol=2e-6)
    np.testing.assert_allclose(canonical_pose(PAPER).numpy(), camera(0, 0, 3.0), atol=1e-6)


@pytest.mark.parametrize("limit", [15.0, 52.5, 90.0])
def test_uniform_cycle_poses_fill_the_square_of_their_limit(limit: float) -> None:
    found = degrees(cycle_poses(PAPER, MANY, limit, seeded()))
    assert np.abs(found).max() <= limit + 0.05
    for angle in found.T:
        shares, _ = np.histogram(angle, bins=10, range=(-limit, limit))
        # A tenth each; four standard deviations of a share of 4000 draws are 0.019.
        assert np.abs(shares / MANY - 0.1).max() < 0.02
    assert abs(np.corrcoef(found.T)[0, 1]) < 4 / math.sqrt(MANY)


def test_floor_cycle_poses_keep_away_from_the_input_view() -> None:
    limit = 60.0
    found = degrees(cycle_poses(RELEASED, MANY, limit, seeded()))
    size = np.abs(found)
    assert size.min() >= 15 - 0.05
    assert size.max() <= limit + 0.05
    for angle in size.T:
        shares, _ = np.histogram(angle, bins=5, range=(15, limit))
        assert np.abs(shares / MANY - 0.2).max() < 0.03
    signs = np.sign(found)
    for pair in ((1, 1), (1, -1), (-1, 1), (-1, -1)):  # signs of their own
        assert np.all(signs == pair, axis=1).mean() == pytest.approx(0.25, abs=0.03)
    assert abs(np.corrcoef(size.T)[0, 1]) < 4 / math.sqrt(MANY)


def test_a_floor_at_the_start_of_the_curriculum_is_one_angle() -> None:
    found = np.abs(degrees(cycle_poses(RELEASED, 20, 15.0, seeded())))
    np.testing.assert_allclose(found, 15.0, atol=1e-3)


def test_a_floor_holds_even_for_the_draw_in_the_middle(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw of one half has no sign; it must not become the input view itself."""
    monkeypatch.setattr(torch, "rand", lambda *shape, generator: torch.full(shape, 0.5))
    found = np.abs(degrees(cycle_poses(RELEASED, 3, 60.0, seeded())))
    np.testing.assert_allclose(found, 15.0, atol=1e-3)


# ----------------------------------------------------------------------------------- semantic poses


def test_independent_semantic_poses() -> None:
    task = replace(PAPER, semantic_views=4)
    cycle = cycle_poses(task, 500, 90.0, seeded())
    cameras = semantic_poses(task, cycle, seeded(1))
    assert cameras.shape == (500, 4, 4, 4)
    found = degrees(cameras).reshape(-1, 2)
    for angle, limit in zip(found.T, (120.0, 45.0), strict=True):  # Eq. 8
        assert np.abs(angle).max() <= limit + 0.05
        shares, _ = np.histogram(angle, bins=8, range=(-limit, limit))
        assert np.abs(shares / len(angle) - 0.125).max() < 0.03
    assert abs(np.corrcoef(found.T)[0, 1]) < 4 / math.sqrt(len(found))
    assert not np.isclose(cameras[:, 0].numpy(), cycle.numpy()).all(axis=(1, 2)).any()


def test_coupled_semantic_poses_begin_with_the_cycles_and_share_a_sign() -> None:
    cycle = cycle_poses(RELEASED, 500, 90.0, seeded())
    cameras = semantic_poses(RELEASED, cycle, seeded(1))
    assert cameras.shape == (500, 3, 4, 4)
    assert torch.equal(cameras[:, 0], cycle)
    found = degrees(cameras[:, 1:]).reshape(-1, 2)
    assert (found[:, 0] * found[:, 1] > 0).all()
    assert (found[:, 0] > 0).mean() == pytest.approx(0.5, abs=0.07)
    assert (np.abs(found) <= (120.05, 45.05)).all()
    assert np.abs(found).min() < 1.0, "no floor"
    assert np.abs(found).max(axis=0) == pytest.approx((120, 45), abs=3)
    first, second = degrees(cameras[:, 1]), degrees(cameras[:, 2])  # each view has its own sign
    assert (first[:, 0] * second[:, 0] > 0).mean() == pytest.approx(0.5, abs=0.1)


def test_a_single_coupled_view_is_the_cycles() -> None:
    task = replace(RELEASED, semantic_views=1)
    cycle = cycle_poses(task, 3, 90.0, seeded())
    assert torch.equal(semantic_poses(task, cycle, seeded(1)), cycle[:, None])


@pytest.mark.parametrize("task", [PAPER, RELEASED])
def test_poses_are_a_function_of_the_generators_seed(task: SelfTrainingConfig) -> None:
    def drawn(seed: int) -> tuple[Tensor, Tensor]:
        generator = seeded(seed)
        cycle = cycle_poses(task, 3, 40.0, generator)
        return cycle, semantic_poses(task, cycle, generator)

    state = torch.get_rng_state()
    for one, again, other in zip(drawn(5), drawn(5), drawn(6), strict=True):
        assert torch.equal(one, again)
        assert not torch.equal(one, other)
    assert torch.equal(torch.get_rng_state(), state), "torch's own generator is left alone"


# ------------------------------------------------------------------------------------ the way back


@pytest.mark.parametrize("distance", [1.9, 3.0])
def test_the_inverse_pose_sees_every_point_where_the_input_camera_saw_it(distance: float) -> None:
    """A model that takes the novel view for canonical has a world of its own: the old one moved."""
    rng = np.random.default_rng(0)
    canonical = camera(0, 0, distance)
    for azimuth, elevation in [(0, 0), (15, -15), (-70, 40), (90, 89), (130, -60)]:
        novel = camera(azimuth, elevation, distance)
        back = view_back(torch.from_numpy(novel), torch.from_numpy(canonical)).numpy()
        to_new_world = canonical @ np.linalg.inv(novel)
        for point in rng.uniform(-0.5, 0.5, (5, 3)):
            moved = (to_new_world @ np.append(point, 1.0))[:3]
            assert pixel(canonical, moved, 64, 40.0) == pytest.approx(pixel(novel, point, 64, 40.0))
            assert pixel(back, moved, 64, 40.0) == pytest.approx(pixel(canonical, point, 64, 40.0))


def test_the_inverse_pose_of_a_batch_is_that_of_each_camera() -> None:
    cameras = cycle_poses(PAPER, 6, 90.0, seeded()).double()
    found = view_back(cameras, canonical_pose(PAPER).double()).numpy()
    for c2w, back in zip(cameras.numpy(), found, strict=True):
        phi = camera(0, 0, 3.0)
        np.testing.assert_allclose(back, phi @ np.linalg.inv(c2w) @ phi, atol=1e-5)
        assert np.linalg.norm(back[:3, 3]) == pytest.approx(3.0, abs=1e-5)
