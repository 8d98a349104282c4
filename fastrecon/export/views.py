"""Views of one reconstructed object, for people to look at."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import NamedTuple

import torch
from fastrecon_kernels import Rendering, build_occupancy
from torch import Tensor
from tqdm import tqdm

from ..cameras import camera_rays, orbit_c2w
from ..models.lrm import LRM
from .pictures import Picture, depth_picture, normal_picture, to_picture

FINE_SAMPLES = 48
"""Least samples per ray: more than training needs, because people notice rings."""
OCCUPANCY_SIDE = 64
OCCUPANCY_THRESHOLD = 0.02
"""Density below which a cell is skipped: at most 3% opacity over a whole chord."""
TURNTABLE_ELEVATION = 0.3
"""Radians above the horizon from which the turntable looks."""


class View(NamedTuple):
    """A rendering and the camera that took it; tensors are (S, S, ...)."""

    rendering: Rendering
    rays_o: Tensor
    rays_d: Tensor
    c2w: Tensor


class Viewer:
    """Renders one object from cameras at the input camera's distance.

    Args:
        lrm: the model, in eval mode.
        planes: ``(1, 3, C, P, P)``.

    Cells without density are found once and skipped in every view.
    """

    @torch.no_grad()
    def __init__(self, lrm: LRM, planes: Tensor) -> None:
        self.lrm, self.planes = lrm, planes
        settings = lrm.config.render
        # Densities per chord fraction belong to one number of samples, others to any.
        if settings.interval == "distance":
            settings = replace(settings, n_samples=max(settings.n_samples, FINE_SAMPLES))
        self.settings = settings
        self.occupancy = build_occupancy(
            planes,
            lrm.decoder_view,
            settings,
            resolution=OCCUPANCY_SIDE,
            threshold=OCCUPANCY_THRESHOLD,
        )

    @torch.no_grad()
    def look(self, azimuth: float, elevation: float, size: int) -> View:
        """Look at the object from ``azimuth`` and ``elevation`` (radians; 0, 0 is the input's)."""
        config = self.lrm.config
        c2w = orbit_c2w(azimuth, elevation, config.camera_distance).to(self.planes.device)
        rays_o, rays_d = camera_rays(c2w, size, size, config.fov_deg)
        rendering = self.lrm.render(
            self.planes,
            rays_o[None],
            rays_d[None],
            settings=self.settings,
            occupancy=self.occupancy if self.settings.quadrature == "bins" else None,
        )
        rgb, opacity, depth, _ = rendering
        return View(Rendering(rgb[0], opacity[0], depth[0]), rays_o, rays_d, c2w)

    def picture(self, azimuth: float, elevation: float, size: int) -> Picture:
        """The view's colours."""
        return to_picture(self.look(azimuth, elevation, size).rendering.rgb)

    def front(self, size: int) -> tuple[Picture, Picture]:
        """Depth and normals as pictures, seen from where the input was taken."""
        view = self.look(0.0, 0.0, size)
        return (
            depth_picture(view.rendering.depth, view.rendering.opacity),
            normal_picture(
                (view.rendering.depth, view.rendering.opacity), (view.rays_o, view.rays_d), view.c2w
            ),
        )

    def turntable(self, n_frames: int, size: int) -> list[Picture]:
        """A full turn from slightly above, beginning at the input's azimuth."""
        return [
            self.picture(2 * math.pi * k / n_frames, TURNTABLE_ELEVATION, size)
            for k in tqdm(range(n_frames), desc="turntable", leave=False, disable=None)
        ]
