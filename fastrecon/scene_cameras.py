"""Cameras of a scene seen from the front (G3DR, section 5): poses, rays, depth as distance.

The scene's world: the canonical camera stands at (-radius, 0, 0) and looks along +x; +z is right
and +y up. Everything else is as in `fastrecon.cameras` (OpenGL poses, unit directions), but for one
convention of the published code: a field of view spans the centres of the outer pixels, not their
outer edges.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from .cameras import camera_rays, orbit_c2w

FROM_ORBIT = ((-1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.0, 1.0, 0.0))
"""Rotation to the scene's world from that of `fastrecon.cameras` (x to the viewer, z up)."""


def scene_c2w(yaw: Tensor | float, pitch: Tensor | float, radius: Tensor | float = 5.0) -> Tensor:
    """Cameras that look at the origin, with +y up.

    Args:
        yaw, pitch: radians, added to the published code's angles of pi/2. The camera stands at
            ``-radius (cos p cos y, sin p, cos p sin y)``: positive yaw moves it to the left,
            positive pitch down. ``(0, 0)`` is the canonical view.
        radius: distance from the origin, in scene units; positive.

    Returns:
        c2w (..., 4, 4), of the arguments' broadcast shape; float64 if any argument is, else
        float32.
    """
    c2w = orbit_c2w(-yaw, -pitch, radius)
    turn = torch.eye(4, dtype=c2w.dtype, device=c2w.device)
    turn[:3, :3] = torch.tensor(FROM_ORBIT, dtype=c2w.dtype, device=c2w.device)
    return turn @ c2w


def video_c2w(frames: int, yaw: float = 0.35, pitch: float = 0.15, radius: float = 5.0) -> Tensor:
    """Cameras ``(frames, 4, 4)`` once around an ellipse in front of the scene, for a looping video.

    ``yaw`` and ``pitch`` are its half axes in radians; it begins at the lowest point.
    """
    if frames < 1:
        raise ValueError(f"a video needs at least one frame, got {frames}")
    turn = torch.arange(frames) * (2 * math.pi / frames)
    return scene_c2w(yaw * turn.sin(), pitch * turn.cos(), radius)


def edge_fov(size: int, fov_deg: float) -> float:
    """Field of view between the outer edges of a picture, as `fastrecon.cameras` counts it.

    ``fov_deg`` is between the outer pixel centres, so that the focal length is
    ``(size - 1) / 2 / tan(fov / 2)`` pixels.
    """
    if size < 2:
        raise ValueError(f"a field of view between pixel centres needs at least 2, got {size}")
    if not 0 < fov_deg < 180:
        raise ValueError(f"fov_deg must lie between 0 and 180 degrees, got {fov_deg}")
    half = math.tan(math.radians(fov_deg) / 2) * size / (size - 1)
    return math.degrees(2 * math.atan(half))


def scene_rays(c2w: Tensor, size: int, fov_deg: float = 18.0) -> tuple[Tensor, Tensor]:
    """Rays through every pixel of square pictures: c2w (..., 4, 4) -> two (..., size, size, 3).

    The centres of the outer pixels lie at exactly ``fov_deg / 2``. Directions have unit length.
    """
    return camera_rays(c2w, size, size, edge_fov(size, fov_deg))


def depth_to_distance(depth: Tensor, depth_range: Sequence[float] = (4.0, 6.0)) -> Tensor:
    """Distance along the ray that a depth picture's values stand for.

    Args:
        depth: any shape, 0 (near) to 1 (far); values beyond are clamped.
        depth_range: distances of 0 and 1.
    """
    near, far = check_depth_range(depth_range)
    return near + (far - near) * depth.clamp(0.0, 1.0)


def distance_to_depth(distance: Tensor, depth_range: Sequence[float] = (4.0, 6.0)) -> Tensor:
    """The inverse of `depth_to_distance`, clamped to [0, 1]."""
    near, far = check_depth_range(depth_range)
    return ((distance - near) / (far - near)).clamp(0.0, 1.0)


def check_depth_range(depth_range: Sequence[float]) -> tuple[float, float]:
    """``depth_range`` as near and far; refused unless 0 <= near < far."""
    if len(depth_range) != 2 or not 0 <= depth_range[0] < depth_range[1] < math.inf:
        raise ValueError(f"depth_range must be (near, far), 0 <= near < far, got {depth_range}")
    return depth_range[0], depth_range[1]
