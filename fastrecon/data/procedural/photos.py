"""Single-view pictures of procedural objects in a room, as a photographer would leave them.

One picture per object: a random camera and crop, a textured floor and wall behind, with the mask
and the depth of everything. They stand in for photo collections: self-training from single
pictures, curation and RGB-D models are tried on them where nothing can be downloaded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...cameras import camera_rays, orbit_c2w
from .bounds import project
from .draws import Draws, uniforms
from .objects import ProceduralObjects
from .scene import Scene
from .textures import PATTERNS, PICTURE, PICTURE_DRAWS, draw_pictures, hsv_to_rgb, look_up, mix

DRAWS = 2 * (16 + PICTURE_DRAWS) + 16
STREAM = 1 << 63
"""Mixed into the seed, so that rooms and objects have numbers of their own."""
CUT_SHARE = 0.15
"""Pictures whose frame may cut the object."""
FLOOR_SHARE = 0.7
"""Pictures with a floor under the object; the others show a wall alone."""


@dataclass(frozen=True)
class Photographs:
    """B pictures, float32."""

    rgb: Tensor  # (B, 3, H, W) in [0, 1], object and room
    mask: Tensor  # (B, H, W) share of a pixel that the object covers
    depth: Tensor  # (B, H, W) distance from the camera, object and room
    c2w: Tensor  # (B, 4, 4)


def photographs(
    seed: int,
    indices: Sequence[int],
    size: int,
    *,
    fov_deg: float = 40.0,
    max_parts: int = 9,
    supersample: int = 2,
    device: torch.device | str = "cpu",
) -> Photographs:
    """A picture of every object, a function of (seed, index).

    Args:
        seed, indices: of ``ProceduralObjects``.
        size: side of the square pictures, pixels.
        fov_deg: field of view.
        max_parts: the most parts that an object has.
        supersample: rays along a pixel's side at edges.
    """
    objects = ProceduralObjects(seed, max_parts, device).batch(indices)
    draws = Draws(np.stack([uniforms(seed ^ STREAM, int(i), DRAWS) for i in indices]))
    azimuth, elevation = draws.one(-math.pi, math.pi), np.radians(draws.one(-10.0, 45.0))
    c2w = orbit_c2w(_tensor(azimuth), _tensor(elevation), 3.0)
    c2w = _framed(objects, c2w, fov_deg, draws)
    pictures = objects.render(c2w[:, None], size, fov_deg, supersample)
    room, distance = _room(objects, c2w, size, fov_deg, draws)
    rgba, mask = pictures.rgba[:, 0].cpu(), pictures.rgba[:, 0, 3].cpu()
    shown = rgba[:, :3] * mask[:, None] + room * (1.0 - mask[:, None])
    depth = torch.where(mask > 0.5, pictures.depth[:, 0].cpu(), distance)
    found = Photographs(shown.clamp(0.0, 1.0), mask, depth, c2w)
    return Photographs(*(x.to(device) for x in vars(found).values()))


def _tensor(x: np.ndarray) -> Tensor:
    return torch.from_numpy(x.astype(np.float32))


def _framed(objects: Scene, c2w: Tensor, fov_deg: float, draws: Draws) -> Tensor:
    """Cameras moved along and across their view until the objects fill the wanted share."""
    share = _tensor(np.where(draws.one() < CUT_SHARE, draws.one(0.95, 1.25), draws.one(0.5, 0.9)))
    offset = _tensor(draws.take(2, -1.0, 1.0))
    tangent = math.tan(math.radians(fov_deg) / 2)
    points = objects.points.cpu()
    c2w = c2w.clone()
    for _ in range(4):  # perspective makes it a fixed point
        seen = project(points, c2w[:, None])[:, 0]
        low, high = seen.amin(1), seen.amax(1)
        half = 0.5 * (high - low).amax(1)
        position, back = c2w[:, :3, 3], c2w[:, :3, 2]
        distance = (position * back).sum(-1)
        # Where there is room, the object goes off the middle; where it is cut, a little more.
        free = (1.0 - share).clamp(min=0.0) + 0.1 * (share > 0.95)
        goal = offset * free[:, None] * tangent
        shift = (0.5 * (low + high) - goal) * distance[:, None]
        position = position + (c2w[:, :3, :2] * shift[:, None]).sum(-1)
        # Never so near that the camera is among the parts.
        closer = (half / (share * tangent)).clamp(min=1.3 / distance)
        c2w[:, :3, 3] = position + back * (distance * (closer - 1.0))[:, None]
    return c2w


def _room(
    objects: Scene, c2w: Tensor, size: int, fov_deg: float, draws: Draws
) -> tuple[Tensor, Tensor]:
    """What is behind the objects: colours (B, 3, H, W) and distances (B, H, W)."""
    n = len(c2w)
    rays_o, rays_d = (x.reshape(n, -1, 3) for x in camera_rays(c2w, size, size, fov_deg))
    floor_z = objects.points.cpu()[..., 2].amin(1)
    has_floor = _tensor(draws.one()) < FLOOR_SHARE
    # The wall stands upright and faces the camera, give or take.
    turn = _tensor(draws.one(-0.5, 0.5))
    back = c2w[:, :2, 2] / c2w[:, :2, 2].norm(dim=1, keepdim=True)
    cos, sin = turn.cos(), turn.sin()
    normal = torch.stack(
        [cos * back[:, 0] - sin * back[:, 1], sin * back[:, 0] + cos * back[:, 1], 0 * cos], dim=1
    )
    behind = -_tensor(draws.one(1.2, 3.0))
    to_wall = behind[:, None] - torch.einsum("bni,bi->bn", rays_o, normal)
    t_wall = to_wall / torch.einsum("bni,bi->bn", rays_d, normal).clamp(max=-1e-3)
    t_floor = (floor_z[:, None] - rays_o[..., 2]) / rays_d[..., 2].clamp(max=-1e-3)
    t_floor = torch.where((t_floor > 0) & has_floor[:, None], t_floor, torch.inf)
    on_floor = t_floor < t_wall
    t = torch.minimum(t_floor, t_wall)
    points = rays_o + t[..., None] * rays_d
    along = torch.stack([-normal[:, 1], normal[:, 0]], dim=1)
    u = torch.einsum("bni,bi->bn", points[..., :2], along)
    floor_v = torch.einsum("bni,bi->bn", points[..., :2], normal[:, :2])
    floor, wall = (paper(u, v, draws) for v in (floor_v, points[..., 2]))
    # Contact shadow: the floor darkens around the object's foot.
    foot = 0.5 * (objects.points.cpu().amin(1) + objects.points.cpu().amax(1))[:, None, :2]
    shadow = 1.0 - 0.5 * torch.exp(-1.5 * (points[..., :2] - foot).square().sum(-1))
    colour = torch.where(on_floor, floor * shadow, wall)
    return colour.movedim(0, 1).unflatten(2, (size, size)), t.unflatten(1, (size, size))


def paper(u: Tensor, v: Tensor, draws: Draws) -> Tensor:
    """A random texture (3, B, N) over a plane's coordinates (B, N)."""
    n = len(u)
    kinds = torch.from_numpy(np.floor(draws.one() * (len(PATTERNS) + 1)).astype(np.int64))
    periods = _tensor(draws.one(0.4, 3.0))[:, None]
    phases = _tensor(draws.take(3))[:, :, None]
    a, b = u * periods + phases[:, 0], v * periods + phases[:, 1]
    phase = torch.stack([a, b, phases[:, 2].expand_as(a)])
    weight = mix(kinds[:, None].expand_as(a), phase, dense=True)
    hsv = [np.stack([draws.one(), draws.one() ** 2 * 0.8, draws.one(0.2, 1.0)], -1) for _ in "ab"]
    first, second = (_tensor(hsv_to_rgb(x)).T[..., None] for x in hsv)
    plain = first + weight * (second - first)
    pictures = _tensor(draw_pictures(draws.take(PICTURE_DRAWS)))
    shown = look_up(pictures, torch.arange(n)[:, None].expand_as(a), 0.4 * a, 0.4 * b)
    return torch.where((kinds == PICTURE)[:, None], shown, plain)
