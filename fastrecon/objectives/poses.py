"""Poses that self-training looks from, and how they widen over a run (Real3D, Eq. 5-8).

All draws come from a CPU generator, so a step's poses are the same on every device and nothing
waits for one.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..cameras import orbit_c2w
from ..config import SelfTrainingConfig


def curriculum_limit(task: SelfTrainingConfig, step: int, steps: int) -> float:
    """Largest azimuth and elevation of the cycle's pose at ``step`` (from 0) of ``steps``, degrees.

    Linear from ``cycle_limits[0]`` at the first to ``cycle_limits[1]`` at the last step.
    """
    first, last = task.cycle_limits
    return first + (last - first) * min(step / max(steps - 1, 1), 1.0)


def cycle_poses(
    task: SelfTrainingConfig, count: int, limit: float, generator: torch.Generator
) -> Tensor:
    """A novel view of each of ``count`` pictures: cameras (count, 4, 4).

    "uniform": azimuth and elevation in [-limit, limit]. "floor": their absolute values in
    [``cycle_limits[0]``, limit], with signs of their own (public code).
    """
    u = 2.0 * torch.rand(2, count, generator=generator) - 1.0
    if task.cycle_poses == "floor":
        floor = min(task.cycle_limits[0], limit)
        degrees = torch.copysign(floor + (limit - floor) * u.abs(), u)
    else:
        degrees = limit * u
    return _cameras(task, degrees[0], degrees[1])


def semantic_poses(task: SelfTrainingConfig, cycle: Tensor, generator: torch.Generator) -> Tensor:
    """The views of L_sem: cameras (count, semantic_views, 4, 4) for ``cycle`` (count, 4, 4).

    "independent": azimuth and elevation uniform within +-``semantic_limits``. "coupled": the first
    view is the cycle's, and in the others both angles have one sign (public code).
    """
    views = task.semantic_views - (task.semantic_poses == "coupled")
    u = 2.0 * torch.rand(2, len(cycle), views, generator=generator) - 1.0
    if task.semantic_poses == "coupled":
        u[1] = torch.copysign(u[1], u[0])
    azimuth, elevation = task.semantic_limits
    cameras = _cameras(task, azimuth * u[0], elevation * u[1])
    if task.semantic_poses == "coupled":
        cameras = torch.cat([cycle[:, None], cameras], dim=1)
    return cameras


def canonical_pose(task: SelfTrainingConfig) -> Tensor:
    """The camera that pictures are taken to be made with (4, 4)."""
    return orbit_c2w(0.0, 0.0, task.camera_distance)


def _cameras(task: SelfTrainingConfig, azimuth: Tensor, elevation: Tensor) -> Tensor:
    radians = math.pi / 180.0
    return orbit_c2w(azimuth * radians, elevation * radians, task.camera_distance)
