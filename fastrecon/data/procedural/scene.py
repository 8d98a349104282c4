"""A batch of procedural objects: what rays meet, and pictures with depth and normals."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import normalize

from fastrecon.cameras import focal_length

from ..pictures import Pictures
from .bounds import fit_to_view, project
from .field import Field, Parts
from .surface import NORMAL_STEP, Lights, Materials, open_sky, surface_colour
from .tracing import march, sphere_interval

MASK, DEPTH, NORMAL, CHANNELS = 3, 4, 5, 8
"""Rows of what a ray returns: colour before MASK, the three parts of the normal from NORMAL on."""
BLOCK = 16384
"""Rays that are traced at once unless it is dense: arrays then stay in a processor's cache."""
TILE = 8
"""Pixels along a side of the tiles whose rays share the way to the surface."""
EDGE = 0.12
"""Pixels whose colour or coverage differs by more from a neighbour's are looked at more closely."""
MARGIN = 1.03
"""Bounding spheres are drawn this much larger than the surface points that they come from."""


class Trace(NamedTuple):
    """What rays meet first; all zeros on a miss."""

    rgb: Tensor  # (B, N, 3) in [0, 1]
    mask: Tensor  # (B, N) 0 or 1
    depth: Tensor  # (B, N) along the ray, in units of |rays_d|
    normal: Tensor  # (B, N, 3) unit, outward, world


@dataclass(frozen=True, eq=False)
class Scene:
    """B objects somewhere in the world; float32, all on one device."""

    parts: Parts
    materials: Materials
    lights: Lights
    turns: Tensor  # (B, 3, 3) rotations from the objects' frames to the world
    scales: Tensor  # (B,)
    shifts: Tensor  # (B, 3): a point x of the object is at scale turn x + shift
    surface: Tensor  # (B, K, 3) points on the surfaces, in the objects' frames

    def __len__(self) -> int:
        return len(self.scales)

    @property
    def device(self) -> torch.device:
        """Where the objects are, and their pictures will be."""
        return self.scales.device

    def rows(self, chosen: slice) -> Scene:
        """Some of the objects."""
        return Scene(
            self.parts.rows(chosen),
            self.materials.rows(chosen),
            self.lights.rows(chosen),
            self.turns[chosen],
            self.scales[chosen],
            self.shifts[chosen],
            self.surface[chosen],
        )

    @property
    def dense(self) -> bool:
        """All objects and rays are computed together, which GPUs want and processors do not."""
        return self.device.type != "cpu"

    @cached_property
    def field(self) -> Field:
        """The distances of all objects, in their own frames."""
        return Field(self.parts, self.dense)

    @cached_property
    def pieces(self) -> list[Scene]:
        """What is traced at once: single objects, or all if dense."""
        if len(self) == 1 or self.dense:
            return [self]
        return [self.rows(slice(b, b + 1)) for b in range(len(self))]

    @cached_property
    def points(self) -> Tensor:
        """Points on the surfaces, in the world: (B, K, 3)."""
        turned = self.surface @ self.turns.mT
        return turned * self.scales[:, None, None] + self.shifts[:, None]

    @cached_property
    def _ball(self) -> tuple[Tensor, Tensor]:
        """Centre (3, B, 1) and radius (B, 1) of a ball around each object, in its own frame."""
        centre = 0.5 * (self.surface.amin(1) + self.surface.amax(1))
        radius = (self.surface - centre[:, None]).norm(dim=-1).amax(1)
        return centre.T[..., None], MARGIN * radius[:, None]

    def distance(self, points: Tensor) -> Tensor:
        """Signed distance of world points (B, N, 3) to the surface: (B, N), negative inside.

        Never larger than the true distance outside, and exact in sign.
        """
        _check_rays(points, len(self), "points")
        found = []
        for piece, chosen in self._split(points):
            local = piece._to_object(chosen, is_point=True)
            found.append(piece.field.distance(local) * piece.scales[:, None])
        return torch.cat(found)

    def trace(self, rays_o: Tensor, rays_d: Tensor) -> Trace:
        """The nearest surface along every ray.

        Args:
            rays_o, rays_d: (B, N, 3), any device; directions of any length but 0.

        Returns:
            Trace, float32, on the rays' device. A ray that starts inside an object meets it there.
        """
        _check_rays(rays_o, len(self), "rays_o")
        _check_rays(rays_d, len(self), "rays_d")
        if rays_o.shape != rays_d.shape:
            raise ValueError(
                f"rays_o and rays_d must have one shape, got {tuple(rays_o.shape)} and "
                f"{tuple(rays_d.shape)}; expand the origins"
            )
        rows = []
        with torch.inference_mode():
            for (piece, o), (_, d) in zip(self._split(rays_o), self._split(rays_d), strict=True):
                o, d = piece._to_object(o, is_point=True), piece._to_object(d, is_point=False)
                centre, radius = piece._ball
                near, far = sphere_interval(o - centre, d, radius)
                rows.append(piece._look(o, d, near, far, CHANNELS))
        found = torch.cat(rows, dim=1).to(rays_d.device).movedim(0, -1).clone()
        rgb, mask, depth, normal = found.split([MASK, 1, 1, 3], dim=-1)
        return Trace(rgb.contiguous(), mask[..., 0], depth[..., 0], normal.contiguous())

    def render(self, c2w: Tensor, size: int, fov_deg: float, supersample: int = 1) -> Pictures:
        """Square pictures with coverage, depth and normals.

        Args:
            c2w: (B, V, 4, 4) rigid cameras, outside the objects.
            size: side of the pictures, in pixels.
            fov_deg: field of view, degrees.
            supersample: rays along a pixel's side where it differs from a neighbour; the others,
                and all pixels with 1, show their centre.

        Returns:
            Pictures, float32, on the scene's device.
        """
        means = self._means(c2w, size, fov_deg, supersample, CHANNELS)
        alpha = means[:, :, MASK : MASK + 1]
        covered = means / alpha.clamp_min(1e-12)
        return Pictures(
            torch.cat([covered[:, :, :MASK], alpha], dim=2),
            covered[:, :, DEPTH],
            normalize(means[:, :, NORMAL:], dim=2),
        )

    def render_on(
        self, background: float, c2w: Tensor, size: int, fov_deg: float, supersample: int = 1
    ) -> Tensor:
        """Pictures (B, V, 3, H, W) over a grey level: ``render`` without what training skips."""
        means = self._means(c2w, size, fov_deg, supersample, MASK + 1)
        return means[:, :, :MASK] + background * (1.0 - means[:, :, MASK:])

    def squares(self, c2w: Tensor) -> Tensor:
        """Bounding squares of the objects' silhouettes.

        Args:
            c2w: (B, V, 4, 4).

        Returns:
            (B, V, 3): centre (x right, y up) and half side as tangents, that is in units of the
            focal length; infinite where an object reaches the camera's plane.
        """
        seen = project(self.points, c2w.to(self.points))
        low, high = seen.amin(2), seen.amax(2)
        half = 0.5 * (high - low).amax(-1, keepdim=True)
        return torch.cat([0.5 * (low + high), half], dim=-1)

    def moved(self, scale: Tensor, shift: Tensor) -> Scene:
        """The objects scaled about the origin by (B,), then shifted by (B, 3)."""
        shifts = self.shifts * scale[:, None] + shift
        return replace(self, scales=self.scales * scale, shifts=shifts)

    def fitted(self, distance: float, half_side: Tensor, offset: Tensor, max_reach: float) -> Scene:
        """The objects as a prepared photograph would show them; see ``bounds.fit_to_view``."""
        return self.moved(*fit_to_view(self.points, distance, half_side, offset, max_reach))

    def _split(self, rows: Tensor) -> list[tuple[Scene, Tensor]]:
        """The pieces, each with its rows of a tensor (B, ...)."""
        sizes = [len(piece) for piece in self.pieces]
        return list(zip(self.pieces, rows.split(sizes), strict=True))

    def _to_object(self, vectors: Tensor, is_point: bool) -> Tensor:
        """World vectors (B, N, 3) in the objects' frames: (3, B, N)."""
        vectors = vectors.detach().to(self.device, torch.float32)
        if is_point:
            vectors = vectors - self.shifts[:, None]
        local = (vectors @ self.turns) / self.scales[:, None, None]
        return local.permute(2, 0, 1)

    def _look(self, o: Tensor, d: Tensor, near: Tensor, far: Tensor, channels: int) -> Tensor:
        """What rays (3, B, N) of the objects' frames meet between near and far: (channels, B, N).

        Depth is in units of t, normals are turned to the world.
        """
        n_rays = near.shape[1]
        block = max(n_rays, 1) if self.dense else BLOCK
        out = d.new_zeros(channels, *near.shape)
        for first in range(0, n_rays, block):
            part = slice(first, first + block)
            rays = o if o.shape[2] == 1 else o[..., part], d[..., part]
            t = march(self.field, *rays, near[:, part], far[:, part])
            self._colour(*rays, t, out[..., part])
        return out

    def _colour(self, o: Tensor, d: Tensor, t: Tensor, out: Tensor) -> None:
        """Fill out (channels, B, N) where rays (3, B, N) meet the surface at t (B, N)."""
        hit = torch.isfinite(t)
        columns = None
        if not self.dense:  # colour what is seen alone
            (columns,) = torch.nonzero(hit[0], as_tuple=True)
            if not columns.numel():
                return
            t, hit, d = t[:, columns], hit[:, columns], d[..., columns]
            o = o if o.shape[2] == 1 else o[..., columns]
        t = torch.where(hit, t, 0.0)
        points = torch.addcmul(o, t, d)
        normals, distance = self.field.normal(points, NORMAL_STEP)
        # One step of Newton's method along the ray; at grazing incidence it is held back.
        slope = (normals * d).sum(0)
        slope = torch.minimum(slope, -0.1 * d.square().sum(0).sqrt())
        t = (t - distance / slope).clamp(min=0.0)  # rays may begin inside
        points = torch.addcmul(o, t, d)
        owner = self.field.owned(points)
        world = torch.einsum("bij,jbn->ibn", self.turns, normals)
        light = self.lights.on(world)
        shade = self.lights.occlusion[:, None] * (1.0 - open_sky(self.field, points, normals))
        colour = surface_colour(self.field, self.materials, points, owner) * light * (1.0 - shade)
        rows = [colour.clamp(0.0, 1.0), torch.ones_like(t)[None]]
        if len(out) == CHANNELS:
            rows += [t[None], world]
        seen = torch.where(hit, torch.cat(rows), 0.0)
        if columns is None:
            out.copy_(seen)
        else:
            out[..., columns] = seen

    def _means(
        self, c2w: Tensor, size: int, fov_deg: float, supersample: int, channels: int
    ) -> Tensor:
        """Means of the rows of ``_look`` over pixels: (B, V, channels, size, size)."""
        if c2w.ndim != 4 or c2w.shape[0] != len(self) or c2w.shape[2:] != (4, 4):
            raise ValueError(
                f"c2w must be ({len(self)}, V, 4, 4), the views of every object; got "
                f"{tuple(c2w.shape)}"
            )
        if supersample < 1:
            raise ValueError(f"supersample must be at least 1, got {supersample}")
        views = []
        with torch.inference_mode():
            for piece, cameras in self._split(c2w):
                seen = [
                    piece._picture(cameras[:, v], size, fov_deg, supersample, channels)
                    for v in range(cameras.shape[1])
                ]
                views.append(torch.stack(seen, dim=1))
        return torch.cat(views).clone()

    def _picture(
        self, c2w: Tensor, size: int, fov_deg: float, supersample: int, channels: int
    ) -> Tensor:
        """One view (B, 4, 4) of every object: means over pixels (B, channels, size, size)."""
        step = 1.0 / focal_length(size, fov_deg)
        eye = self._to_object(c2w[:, None, :3, 3], is_point=True)  # (3, B, 1)
        axes = self._to_object(c2w[:, :3, :3].mT, is_point=False)  # (3, B, 3): right, up, back
        centre, radius = self._ball
        start = self._free_way(eye, axes, size, step)
        ticks = (torch.arange(size, device=eye.device) - 0.5 * (size - 1)) * step
        x, y = ticks.repeat(size), -ticks.repeat_interleave(size)

        def look(x: Tensor, y: Tensor, start: Tensor) -> Tensor:
            """(channels, B, N) at tangents x, y (N,)."""
            right, up, back = axes[..., None].unbind(2)
            d = right * x + up * y - back
            near, far = sphere_interval(eye - centre, d, radius)
            found = self._look(eye, d, torch.maximum(near, start), far, channels)
            if channels == CHANNELS:  # t is the distance along the view
                found[DEPTH] *= torch.sqrt(1.0 + x * x + y * y)
            return found

        means = look(x, y, start)
        if supersample > 1:
            edges = _edges(means[: MASK + 1].unflatten(2, (size, size))).flatten(1)  # (B, N)
            ticks = (torch.arange(supersample, device=eye.device) + 0.5) / supersample - 0.5
            offsets = torch.cartesian_prod(ticks, ticks) * step
            columns = torch.arange(size * size, device=eye.device)
            if not self.dense:
                columns = columns[edges[0]]
            shape = (len(columns), len(offsets))
            some_x, some_y = (
                (v[columns, None] + offsets[:, i]).flatten() for i, v in enumerate((x, y))
            )
            begin = start[:, columns, None].expand(-1, *shape).flatten(1)
            finer = look(some_x, some_y, begin).unflatten(2, shape).mean(-1)
            means[..., columns] = torch.where(edges[:, columns], finer, means[..., columns])
        return means.permute(1, 0, 2).unflatten(2, (size, size))

    def _free_way(self, eye: Tensor, axes: Tensor, size: int, step: float) -> Tensor:
        """How far every pixel's ray is free, (B, size size), found for whole tiles at once."""
        n = -(-size // TILE)
        centre, radius = self._ball
        ticks = (torch.arange(n, device=eye.device) * TILE - 0.5 * (size - TILE)) * step
        right, up, back = axes[..., None].unbind(2)
        d = right * ticks.repeat(n) - up * ticks.repeat_interleave(n) - back
        reach, speed = (eye - centre).square().sum(0).sqrt(), d.square().sum(0).sqrt()
        # Any ray of a tile may be the first to come near, so the ball is met early and left late.
        first = ((reach - radius) / speed / MARGIN).clamp(min=0.0)
        last = (reach + radius) / speed * MARGIN
        tiles = march(self.field, eye, d, first, last, cone=math.sqrt(0.5) * TILE * step)
        pixels = tiles.unflatten(1, (n, n)).repeat_interleave(TILE, 1).repeat_interleave(TILE, 2)
        return pixels[:, :size, :size].flatten(1)


def _edges(seen: Tensor) -> Tensor:
    """Pixels (B, H, W) that differ from a neighbour: rows of colour and mask (4, B, H, W)."""
    down = ((seen[:, :, 1:] - seen[:, :, :-1]).abs() > EDGE).any(0)
    right = ((seen[..., 1:] - seen[..., :-1]).abs() > EDGE).any(0)
    edges = torch.zeros_like(seen[0], dtype=torch.bool)
    edges[:, 1:] |= down
    edges[:, :-1] |= down
    edges[..., 1:] |= right
    edges[..., :-1] |= right
    return edges


def _check_rays(rays: Tensor, n_objects: int, name: str) -> None:
    if rays.ndim != 3 or rays.shape[0] != n_objects or rays.shape[2] != 3:
        raise ValueError(
            f"{name} must be ({n_objects}, N, 3), one row of rays per object; "
            f"got {tuple(rays.shape)}"
        )
