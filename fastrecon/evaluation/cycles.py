"""Cameras and renderings of Real3D's evaluation without known views: around, and there and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..cameras import camera_rays, camera_vector, orbit_c2w, view_back
from ..images import on_background
from ..models.lrm import LRM

WHITE = 1.0
SEMANTIC_VIEWS = 7
"""Azimuths, uniform over the full circle, elevation 0; the first is the input view."""
CYCLE_AZIMUTHS = (0, 30, 60, -30, -60, 30, 60, -30, -60, 30, 60, -30, -60)
CYCLE_ELEVATIONS = (0, 0, 0, 0, 0, 30, 30, 30, 30, 60, 60, 60, 60)
"""Degrees; the intermediate cameras of self-consistency (Real3D, appendix A)."""


@dataclass(frozen=True)
class InputCamera:
    """What a model takes its input picture to be made with."""

    distance: float
    """From the origin, scene units."""
    fov_deg: float

    @property
    def canonical(self) -> Tensor:
        """c2w (4, 4)."""
        return orbit_c2w(0.0, 0.0, self.distance)

    def around(self) -> Tensor:
        """The cameras of the semantic metrics, (7, 4, 4)."""
        azimuths = torch.arange(SEMANTIC_VIEWS) * (2.0 * math.pi / SEMANTIC_VIEWS)
        return orbit_c2w(azimuths, 0.0, self.distance)

    def intermediate(self) -> Tensor:
        """The intermediate cameras of self-consistency, (13, 4, 4)."""
        azimuths, elevations = (
            torch.tensor(x, dtype=torch.float32).deg2rad()
            for x in (CYCLE_AZIMUTHS, CYCLE_ELEVATIONS)
        )
        return orbit_c2w(azimuths, elevations, self.distance)


@torch.no_grad()
def encode_picture(lrm: LRM, picture: Tensor, camera: InputCamera) -> Tensor:
    """Planes of a premultiplied picture ``(4, S, S)``, put on grey.

    A pose-conditioned model is told the camera; for others it is only where their world is seen
    from.
    """
    device = next(lrm.parameters()).device
    image = on_background(picture, lrm.config.input_background)[None].to(device)
    if lrm.config.backbone.conditioning == "none":
        return lrm.encode(image).float()
    told = camera_vector(camera.canonical, camera.fov_deg)[None]
    return lrm.encode(image, told.to(device)).float()


@torch.no_grad()
def render_views(lrm: LRM, planes: Tensor, c2w: Tensor, fov_deg: Tensor, size: int) -> Tensor:
    """Premultiplied pictures ``(V, 4, size, size)`` on the CPU, colours times opacity.

    Args:
        planes: (1, 3, C, P, P), one object's.
        c2w: (V, 4, 4); fov_deg: (V,) degrees.

    Raises:
        ValueError: the model's pictures are not finite.
    """
    settings = replace(lrm.config.render, background="black")
    pictures = []
    for camera, fov in zip(c2w, fov_deg, strict=True):  # one at a time: memory stays small
        rays = camera_rays(camera.float().to(planes.device), size, size, float(fov))
        seen = lrm.render(planes, rays[0][None], rays[1][None], settings=settings)
        pictures.append(torch.cat([seen.rgb[0], seen.opacity[0][..., None]], -1).movedim(-1, 0))
    found = torch.stack(pictures).float().cpu()
    if not bool(torch.isfinite(found).all()):
        raise ValueError("the model's pictures are not finite; check the weights")
    return found.clamp(0.0, 1.0)


@torch.no_grad()
def there_and_back(lrm: LRM, planes: Tensor, camera: InputCamera, size: int) -> Tensor:
    """The input view again, by way of every intermediate camera: (13, 3, size, size) on white.

    A novel view is rendered at the size that the model reads, cut out by its own opacity, put on
    grey, reconstructed, and looked at from the inverse pose (Real3D, section 4.1).
    """
    cameras = camera.intermediate()
    fov = torch.full((len(cameras),), camera.fov_deg)
    novel = render_views(lrm, planes, cameras, fov, lrm.config.encoder.image_size)
    back = view_back(cameras, camera.canonical)
    seen = [
        render_views(lrm, encode_picture(lrm, picture, camera), pose[None], fov[:1], size)
        for picture, pose in zip(novel, back, strict=True)
    ]
    return on_background(torch.cat(seen), WHITE)
