"""A baseline that needs no learning: the silhouette, extruded and painted with the picture.

The cone that the input camera sees the silhouette in, cut to a slab of constant depth around the
object's middle, wears the input picture, projected through the solid. It knows nothing of the far
side but mirrors the near one there, which is a strong guess: what does not beat it has learnt
little about shape.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..cameras import camera_rays, focal_length
from ..config import LRMConfig
from ..errors import MeshError
from .geometry import Surface, isosurface, lattice

DEPTH_SHARE = 0.3
"""Depth of the slab, as a share of the side of the silhouette's bounding square: the best mean PSNR
on 64 training objects of the recipe `small`, 8 views each (0.2: 11.52 dB, 0.3: 11.59 dB, 0.4:
11.43 dB), as ``python -m fastrecon.evaluation.extrusion`` finds it."""
SOLID = 0.5
"""Alpha above this belongs to the silhouette."""
SUPERSAMPLE = 2
"""Rays along a pixel's side."""
PADDING = 2
"""Empty cells around the solid where its surface is found."""


class Extrusion:
    """The solid behind one picture.

    Args:
        rgba: ``(4, S, S)`` straight alpha, as the canonical camera of ``model`` sees the object.
        model: the camera's distance and field of view.
        depth_share: depth of the slab over the side of the silhouette's bounding square.

    Raises:
        MeshError: no pixel belongs to the object.
    """

    def __init__(self, rgba: Tensor, model: LRMConfig, depth_share: float = DEPTH_SHARE) -> None:
        self.distance, self.fov_deg = model.camera_distance, model.fov_deg
        self.tangent = math.tan(math.radians(model.fov_deg) / 2)
        alpha = rgba[3:].float()
        rows, columns = torch.nonzero(alpha[0] > SOLID, as_tuple=True)
        if not len(rows):
            raise MeshError("no pixel of the picture shows the object, so nothing can be extruded")
        self.premultiplied = torch.cat([rgba[:3].float() * alpha, alpha])[None]
        step = 1.0 / focal_length(rgba.shape[-1], self.fov_deg)
        self.footprint = step * self.distance
        """Side of a pixel of the picture at the origin, scene units."""
        top, bottom = int(rows.min()), int(rows.max()) + 1
        left, right = int(columns.min()), int(columns.max()) + 1
        self.half_depth = 0.5 * depth_share * max(bottom - top, right - left) * self.footprint
        self.half_depth = min(self.half_depth, 0.9 * self.distance)  # behind the camera is nothing
        middle = rgba.shape[-1] / 2
        sides = torch.tensor([[left - middle, middle - bottom], [right - middle, middle - top]])
        # The cone's cross section is largest at the back, its near edge may lie nearer the axis.
        reach = torch.tensor([self.distance - self.half_depth, self.distance + self.half_depth])
        corners = (step * sides)[:, None] * reach[:, None]  # (2, 2, 2): side, reach, axis
        depth = torch.tensor([self.half_depth])
        self.low = torch.cat([-depth, corners.amin((0, 1)) - self.footprint])
        self.high = torch.cat([depth, corners.amax((0, 1)) + self.footprint])

    def look_up(self, points: Tensor) -> Tensor:
        """The picture's premultiplied colour and alpha where points ``(N, 3)`` project: (4, N)."""
        ahead = (self.distance - points[:, 0]) * self.tangent
        seen = torch.stack([points[:, 1] / ahead, -points[:, 2] / ahead], -1)
        return F.grid_sample(self.premultiplied, seen[None, None], align_corners=False)[0, :, 0]

    def render(self, c2w: Tensor, size: int) -> Tensor:
        """Pictures ``(V, 3, size, size)`` on white from cameras ``(V, 4, 4)``.

        Rays take steps of at most a pixel of the input picture.
        """
        fine = size * SUPERSAMPLE
        views = []
        for camera in c2w:
            rays_o, rays_d = camera_rays(camera.float(), fine, fine, self.fov_deg)
            rgb = self._march(rays_o.reshape(-1, 3), rays_d.reshape(-1, 3))
            views.append(F.avg_pool2d(rgb.T.reshape(1, 3, fine, fine), SUPERSAMPLE)[0])
        return torch.stack(views)

    def _march(self, rays_o: Tensor, rays_d: Tensor) -> Tensor:
        """Colours (N, 3) on white."""
        rgb = torch.ones_like(rays_o)
        safe = torch.where(rays_d.abs() < 1e-9, 1e-9, rays_d)
        one, two = (self.low - rays_o) / safe, (self.high - rays_o) / safe
        near, far = torch.minimum(one, two).amax(-1), torch.maximum(one, two).amin(-1)
        (chosen,) = torch.nonzero(far > near.clamp_min(0.0), as_tuple=True)
        if not len(chosen):
            return rgb
        near, far = near[chosen].clamp_min(0.0), far[chosen]
        n = math.ceil(float((far - near).max()) / self.footprint)
        ticks = (torch.arange(n) + 0.5) / n
        ts = near[:, None] + (far - near)[:, None] * ticks  # (M, n)
        points = rays_o[chosen, None] + ts[..., None] * rays_d[chosen, None]
        # alpha alone first: the colour matters at one sample of a ray
        ahead = (self.distance - points[..., 0]) * self.tangent
        seen = torch.stack([points[..., 1] / ahead, -points[..., 2] / ahead], -1)
        alpha = F.grid_sample(self.premultiplied[:, 3:], seen[None], align_corners=False)[0, 0]
        solid = alpha > SOLID
        (hit,) = torch.nonzero(solid.any(1), as_tuple=True)
        first = solid[hit].int().argmax(1)
        found = self.look_up(points[hit, first])
        rgb[chosen[hit]] = (found[:3] / found[3:]).T.clamp(0.0, 1.0)
        return rgb

    def surface(self, resolution: int) -> Surface:
        """The solid's surface, ``resolution`` grid points along its longest side.

        Raises:
            MeshError: it is thinner than the grid.
        """
        low, high = self.low.double().numpy(), self.high.double().numpy()
        margin = PADDING * (high - low).max() / resolution
        grid = lattice(low - margin, high + margin, resolution)
        points = torch.from_numpy(grid.points)
        # both terms fall by about 1 per pixel of the picture
        within = (self.half_depth - points[:, 0].abs()) / self.footprint
        values = torch.minimum(self.look_up(points)[3] - SOLID, within)
        return isosurface(values.reshape(grid.shape).numpy(), 0.0, grid)


def choose_depth(n_objects: int = 64, n_views: int = 8, size: int = 64) -> float:
    """Print the mean PSNR of depth shares on training objects of `small`; return the best one."""
    from ..cameras import orbit_c2w, sample_orbits
    from ..recipes import small
    from .metrics import psnr
    from .subjects import placed_scene

    cfg = small()
    scene = placed_scene(cfg, 0, n_objects)
    azimuth, elevation = sample_orbits(torch.Generator().manual_seed(0), n_objects * n_views)
    model = cfg.model
    c2w = orbit_c2w(azimuth, elevation, model.camera_distance).reshape(n_objects, n_views, 4, 4)
    truth = scene.render_on(1.0, c2w, size, model.fov_deg, cfg.data.supersample)
    canonical = orbit_c2w(0.0, 0.0, model.camera_distance).expand(n_objects, 1, 4, 4)
    side = model.encoder.image_size
    rgba = scene.render(canonical, side, model.fov_deg, cfg.data.supersample).rgba[:, 0]
    scores = {}
    for share in [round(0.1 * k, 1) for k in range(1, 11)]:
        made = [Extrusion(r, model, share).render(c, size) for r, c in zip(rgba, c2w, strict=True)]
        scores[share] = float(psnr(torch.stack(made), truth).mean())
        print(f"depth share {share:.1f}: {scores[share]:.2f} dB", flush=True)
    return max(scores, key=lambda share: scores[share])


if __name__ == "__main__":
    print(f"best: {choose_depth():.1f}")
