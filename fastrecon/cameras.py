"""Cameras: the one convention, poses on an orbit, rays.

Camera-to-world matrices follow OpenGL: the camera looks along its own -z, +y is up and +x right.
Pixel centres lie at +0.5, directions have unit length, pixels are square and the principal point
is the centre of the picture. World: x toward the input camera, y right, z up, so the canonical
(input) camera at distance d is ``[[0,0,1,d],[1,0,0,0],[0,1,0,0],[0,0,0,1]]``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import overload

import torch
from torch import Tensor

FULL_TURN = (-math.pi, math.pi)
TRAINING_ELEVATIONS = (math.radians(-30.0), math.radians(60.0))


def orbit_c2w(
    azimuth: Tensor | float, elevation: Tensor | float, distance: Tensor | float
) -> Tensor:
    """Cameras that look at the origin with z up.

    Args:
        azimuth, elevation: radians; azimuth turns toward +y, elevation toward +z. ``(0, 0)`` is
            the canonical view.
        distance: from the origin, in scene units; positive.

    Returns:
        c2w (..., 4, 4), of the arguments' broadcast shape; float64 if any argument is, else
        float32.

    The camera stands at ``d (cos e cos a, cos e sin a, sin e)``. Its right vector comes from the
    azimuth alone, so the poles are no exception.
    """
    given = [x for x in (azimuth, elevation, distance) if isinstance(x, Tensor)]
    dtype = torch.float64 if any(x.dtype == torch.float64 for x in given) else torch.float32
    device = given[0].device if given else torch.device("cpu")
    a, e, d = torch.broadcast_tensors(
        *(torch.as_tensor(x, dtype=dtype, device=device) for x in (azimuth, elevation, distance))
    )
    if not bool((d > 0).all()):
        raise ValueError(f"distance must be positive, got {float(d.min())}")
    cos_a, sin_a, cos_e, sin_e = a.cos(), a.sin(), e.cos(), e.sin()
    zero, one = torch.zeros_like(a), torch.ones_like(a)
    back = (cos_e * cos_a, cos_e * sin_a, sin_e)
    rows = [
        (-sin_a, -sin_e * cos_a, back[0], d * back[0]),
        (cos_a, -sin_e * sin_a, back[1], d * back[1]),
        (zero, cos_e, back[2], d * back[2]),
        (zero, zero, zero, one),
    ]
    return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)


@overload
def focal_length(height: int, fov_deg: float) -> float: ...
@overload
def focal_length(height: int, fov_deg: Tensor) -> Tensor: ...
def focal_length(height: int, fov_deg: float | Tensor) -> float | Tensor:
    """Focal length in pixels of a picture ``height`` pixels tall; ``fov_deg`` is vertical.

    A tensor of fields of view is not looked at, which would wait for its device.
    """
    if height < 1:
        raise ValueError(f"a picture needs a height of at least one pixel, got {height}")
    if isinstance(fov_deg, Tensor):
        return height / (2.0 * (fov_deg.deg2rad() / 2.0).tan())
    if not 0 < fov_deg < 180:
        raise ValueError(f"fov_deg must lie between 0 and 180 degrees, got {fov_deg}")
    return height / (2.0 * math.tan(math.radians(fov_deg) / 2.0))


def pixel_rays(
    c2w: Tensor, pixels: Tensor, height: int, width: int, fov_deg: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Rays through given positions of a picture.

    Args:
        c2w: (..., 4, 4).
        pixels: (..., R, 2) positions (x, y) in pixel units: x right, y down, the top left corner
            of the picture at (0, 0), the centre of its first pixel at (0.5, 0.5).
        height, width: of the picture, in pixels.
        fov_deg: vertical field of view in degrees (also horizontal, for square pictures), one for
            all cameras or one for each (...).

    Returns:
        rays_o, rays_d (..., R, 3); rays_d of unit length.
    """
    if c2w.shape[-2:] != (4, 4):
        raise ValueError(
            f"c2w must be (..., 4, 4) camera-to-world matrices, got {tuple(c2w.shape)}"
        )
    if pixels.ndim < 2 or pixels.shape[-1] != 2:
        raise ValueError(
            f"pixels must be (..., R, 2) positions (x, y), got {tuple(pixels.shape)}; "
            "one camera's pixels are (R, 2)"
        )
    focal = focal_length(height, fov_deg)
    if isinstance(focal, Tensor):
        focal = focal.to(pixels)[..., None]
    x = (pixels[..., 0] - width / 2) / focal
    y = (height / 2 - pixels[..., 1]) / focal
    local = torch.stack([x, y, torch.full_like(x, -1.0)], dim=-1).to(c2w.dtype)
    directions = torch.nn.functional.normalize(local @ c2w[..., :3, :3].mT, dim=-1)
    origins = c2w[..., None, :3, 3].expand_as(directions)
    return origins, directions


def camera_vector(c2w: Tensor, fov_deg: float | Tensor) -> Tensor:
    """What a pose-conditioned model reads: ``c2w (..., 4, 4)`` -> ``(..., 16)``.

    The upper 3x4 of the pose row by row, then fx, fy, cx, cy in units of the picture's sides. The
    pose is of this package's world; a model with another one turns it itself. ``fov_deg`` is one
    for all cameras or one for each (...).
    """
    if c2w.shape[-2:] != (4, 4):
        raise ValueError(
            f"c2w must be (..., 4, 4) camera-to-world matrices, got {tuple(c2w.shape)}"
        )
    focal = torch.as_tensor(focal_length(1, fov_deg)).to(c2w).expand(c2w.shape[:-2])
    centre = torch.full_like(focal, 0.5)
    intrinsics = torch.stack([focal, focal, centre, centre], dim=-1)
    return torch.cat([c2w[..., :3, :].flatten(-2), intrinsics], dim=-1)


def camera_rays(
    c2w: Tensor, height: int, width: int, fov_deg: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Rays through the centre of every pixel: c2w (..., 4, 4) -> two tensors (..., H, W, 3).

    ``fov_deg`` is one for all cameras or one for each (...).
    """
    ys, xs = torch.meshgrid(
        torch.arange(height, device=c2w.device) + 0.5,
        torch.arange(width, device=c2w.device) + 0.5,
        indexing="ij",
    )
    pixels = torch.stack([xs, ys], dim=-1).reshape(-1, 2)
    shape = (*c2w.shape[:-2], height, width, 3)
    rays_o, rays_d = pixel_rays(c2w, pixels, height, width, fov_deg)
    return rays_o.reshape(shape), rays_d.reshape(shape)


def sample_orbits(
    generator: torch.Generator | None,
    n: int,
    *,
    azimuths: Sequence[float] = FULL_TURN,
    elevations: Sequence[float] = TRAINING_ELEVATIONS,
) -> tuple[Tensor, Tensor]:
    """``n`` random viewpoints, uniform in area on a patch of the sphere.

    Args:
        generator: a CPU generator; None takes torch's default one.
        n: how many.
        azimuths, elevations: limits (low, high) in radians.

    Returns:
        azimuth, elevation: (n,) float32, radians. Uniform in area means that the sine of the
        elevation is uniform, so the poles are not over-represented.
    """
    for name, (low, high) in (("azimuths", azimuths), ("elevations", elevations)):
        if low > high:
            raise ValueError(f"{name} must be (low, high) with low <= high, got {(low, high)}")
    if min(elevations) < -math.pi / 2 or max(elevations) > math.pi / 2:
        raise ValueError(
            f"elevations must lie within -pi/2..pi/2 radians, got {tuple(elevations)}; "
            "convert degrees with math.radians"
        )
    u = torch.rand(2, n, generator=generator)
    azimuth = azimuths[0] + (azimuths[1] - azimuths[0]) * u[0]
    low, high = math.sin(elevations[0]), math.sin(elevations[1])
    return azimuth, (low + (high - low) * u[1]).clamp(-1.0, 1.0).asin()


def inverse_c2w(c2w: Tensor) -> Tensor:
    """World-to-camera (..., 4, 4) of rigid camera-to-world matrices, without a solver."""
    turned = c2w[..., :3, :3].mT
    moved = -(turned @ c2w[..., :3, 3:])
    return torch.cat([torch.cat([turned, moved], dim=-1), c2w[..., 3:, :]], dim=-2)


def view_back(c2w: Tensor, canonical: Tensor) -> Tensor:
    """Where the canonical camera stands for a model that takes the camera ``c2w`` for canonical.

    Such a model's world is the old one moved by ``canonical @ inverse(c2w)``, so the old canonical
    camera is ``canonical @ inverse(c2w) @ canonical`` in it (Real3D, section 4.1: the inverse
    pose). Both (..., 4, 4).
    """
    return canonical @ inverse_c2w(c2w) @ canonical


def view_angle(c2w: Tensor, other: Tensor) -> Tensor:
    """Angle between two cameras' viewing directions, degrees: (..., 4, 4) twice -> (...)."""
    cosine = (c2w[..., :3, 2] * other[..., :3, 2]).sum(-1)
    return cosine.clamp(-1.0, 1.0).acos().rad2deg()
