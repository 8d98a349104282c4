"""Scenes with a background, seen from the front: pictures and depth for G3DR, other views for its
judges.

A scene is a procedural object on a textured floor before a textured wall, all of it where f_trigen
expects a scene: in the box [-1, 1]^3, seen by ``scene_cameras``. Everything about scene i is a
function of (seed, i), from whatever side it is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...config.g3dr import SceneCameraConfig
from ...scene_cameras import FROM_ORBIT, distance_to_depth, edge_fov, scene_c2w, scene_rays
from .draws import Draws, uniforms
from .objects import ProceduralObjects
from .photos import paper
from .scene import Scene
from .textures import PICTURE_DRAWS

DRAWS = 2 * (16 + PICTURE_DRAWS) + 8
STREAM = 1 << 62
"""Mixed into the seed, so that rooms and objects have numbers of their own."""
REACH = 0.8
"""Objects stay within this distance of the origin, scene units."""
WALL = (-0.84, -0.55)
"""Where a wall may stand along the viewing direction. Nothing that the canonical camera sees is
farther than 6, the end of its depth pictures."""
HALF_WIDTH = 0.95
"""Of what that camera sees of a wall; one near the end of the box stands straight."""
FLOOR_SHARE = 0.7
"""Scenes with a floor; the others are an object before a wall."""
EDGE = 0.9
"""Where the floor ends towards the camera, with an upright face down from there: the box holds no
more."""
BOX = 1.0
"""Half side of the box that planes span."""


@dataclass(frozen=True)
class SceneViews:
    """V views of B scenes, float32."""

    images: Tensor  # (B, V, 3, H, W) in [0, 1]
    distance: Tensor  # (B, V, H, W) along the ray
    inside: Tensor  # (B, V, H, W) bool: what is seen lies in the box
    c2w: Tensor  # (V, 4, 4) or (B, V, 4, 4), the scene's world

    def depth(self, camera: SceneCameraConfig) -> Tensor:
        """Depth as pictures have it, (B, V, 1, H, W) in [0, 1], 0 near."""
        return distance_to_depth(self.distance, camera.depth_range)[:, :, None]


def rgbd_scenes(
    seed: int,
    indices: Sequence[int],
    size: int,
    camera: SceneCameraConfig | None = None,
    c2w: Tensor | None = None,
    *,
    max_parts: int = 5,
    supersample: int = 2,
) -> SceneViews:
    """Pictures with depth of scenes.

    Args:
        seed, indices: which scenes.
        size: side of the pictures, pixels.
        camera: field of view and distance.
        c2w: (B, V, 4, 4) cameras of ``scene_cameras``; None: the canonical one, V = 1.
        max_parts: the most parts that an object has.
        supersample: rays along a pixel's side.
    """
    camera = SceneCameraConfig() if camera is None else camera
    n = len(indices)
    if c2w is None:
        c2w = scene_c2w(0.0, 0.0, camera.radius).expand(n, 1, 4, 4)
    if c2w.ndim != 4 or c2w.shape[0] != n or c2w.shape[-2:] != (4, 4):
        raise ValueError(f"c2w must be ({n}, V, 4, 4), got {tuple(c2w.shape)}")
    draws = Draws(np.stack([uniforms(seed ^ STREAM, int(i), DRAWS) for i in indices]))
    half = _tensor(draws.one(0.45, 0.85)) * math.tan(math.radians(camera.fov_deg) / 2)
    offset = _tensor(draws.take(2, -0.03, 0.03))
    objects = ProceduralObjects(seed, max_parts).batch(indices)
    objects = objects.fitted(camera.radius, half, offset, REACH)
    turn = torch.eye(4)
    turn[:3, :3] = torch.tensor(FROM_ORBIT).T
    return _seen(objects, turn @ c2w.float(), c2w, size, camera, draws, supersample)


def _seen(
    objects: Scene,
    orbit: Tensor,
    c2w: Tensor,
    size: int,
    camera: SceneCameraConfig,
    draws: Draws,
    supersample: int,
) -> SceneViews:
    """Colours are means over a pixel's rays, distances those of its central ray."""
    n, views = orbit.shape[:2]
    fine, fov = size * supersample, camera.fov_deg
    # The finer grid covers the same pixels: its outer rays lie beyond the outer centres.
    tangent = math.tan(math.radians(edge_fov(size, fov)) / 2)
    fine_fov = 2 * math.degrees(math.atan(tangent * (fine - 1) / fine))
    many = [x.reshape(n, -1, 3) for x in scene_rays(orbit, fine, fine_fov)]
    few = [x.reshape(n, -1, 3) for x in scene_rays(orbit, size, fov)]
    both_o, both_d = (torch.cat(pair, dim=1) for pair in zip(many, few, strict=True))
    found = objects.trace(both_o, both_d)
    room, wall = _room(objects, both_o, both_d, draws)
    hit = found.mask > 0
    colour = torch.where(hit[..., None], found.rgb, room)
    distance = torch.where(hit, found.depth, wall)
    count = many[0].shape[1]
    pictures = colour[:, :count].reshape(n * views, fine, fine, 3).permute(0, 3, 1, 2)
    images = F.avg_pool2d(pictures, supersample).unflatten(0, (n, views)).clamp(0.0, 1.0)
    distance = distance[:, count:].reshape(n, views, size, size)
    points = few[0] + distance.reshape(n, -1, 1) * few[1]
    inside = (points.abs() <= BOX).all(-1).reshape(n, views, size, size)
    return SceneViews(images, distance, inside, c2w)


def _room(objects: Scene, rays_o: Tensor, rays_d: Tensor, draws: Draws) -> tuple[Tensor, Tensor]:
    """Colours (B, N, 3) and distances (B, N) of what is behind the objects.

    The wall stands across the canonical view, a little turned; the floor is under the object and
    ends before the camera.
    """
    low = objects.points.amin(1)
    turn, slack = _tensor(draws.one(-0.25, 0.25)), _tensor(draws.one(0.02, 0.3))
    has_floor = _tensor(draws.one()) < FLOOR_SHARE
    place = (low[:, 0] - slack).clamp(*WALL)
    most = ((place - WALL[0]) / HALF_WIDTH).atan()
    turn = turn.clamp(-most, most)
    normal = torch.stack([turn.cos(), turn.sin(), 0 * turn], dim=1)
    along = torch.stack([-turn.sin(), turn.cos(), 0 * turn], dim=1)
    towards = torch.einsum("bni,bi->bn", rays_d, normal)
    gap = (place * turn.cos())[:, None] - torch.einsum("bni,bi->bn", rays_o, normal)
    t_wall = torch.where(towards < -1e-3, gap / towards.clamp(max=-1e-3), torch.inf)
    falling = rays_d[..., 2]
    t_floor = (low[:, 2:] - rays_o[..., 2]) / falling.clamp(max=-1e-3)
    t_face = (EDGE - rays_o[..., 0]) / rays_d[..., 0].clamp(max=-1e-3)
    under = rays_o[..., 2] + t_face * falling < low[:, 2:]
    t_floor = torch.where(under, t_face, torch.where(falling < -1e-3, t_floor, torch.inf))
    t_floor = torch.where(has_floor[:, None], t_floor, torch.inf)
    on_floor = t_floor < t_wall
    t = torch.minimum(t_floor, t_wall).clamp(max=1e3)
    points = rays_o + t[..., None] * rays_d
    u = torch.einsum("bni,bi->bn", points, along)
    v = torch.einsum("bni,bi->bn", points, normal) - points[..., 2] * under  # on over the edge
    floor, wall = paper(v, u, draws), paper(u, points[..., 2], draws)
    foot = objects.points.mean(1)[:, None, :2]
    shadow = 1.0 - 0.5 * torch.exp(-6.0 * (points[..., :2] - foot).square().sum(-1))
    colour = torch.where(on_floor, floor * shadow, wall)
    return colour.movedim(0, -1), t


def _tensor(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x.astype(np.float32))
