"""Real3D's Eq. 1 to 10 once more: slow, one picture and one view at a time, nothing shared.

Cameras and rays are made here in float64. Of the package only ``model.encode`` and ``model.render``
are used, on one picture and one camera at a time: the equations' LRM(I) and pi(T, phi).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from fastrecon_kernels import RenderSettings
from torch import Tensor

from fastrecon.models.lrm import LRM

Judge = Callable[[Tensor, Tensor], Tensor]
Features = Callable[[Tensor], Tensor]


def camera(azimuth: float, elevation: float, distance: float) -> np.ndarray:
    """Camera-to-world (4, 4) that looks at the origin, z up; degrees. Not at the poles."""
    a, e = math.radians(azimuth), math.radians(elevation)
    back = np.array([math.cos(e) * math.cos(a), math.cos(e) * math.sin(a), math.sin(e)])
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    c2w = np.eye(4)
    c2w[:3, 0], c2w[:3, 1], c2w[:3, 2] = right, np.cross(back, right), back
    c2w[:3, 3] = distance * back
    return c2w


def angles(c2w: np.ndarray) -> tuple[float, float]:
    """Azimuth and elevation of a camera's position, degrees."""
    x, y, z = c2w[:3, 3]
    return math.degrees(math.atan2(y, x)), math.degrees(math.atan2(z, math.hypot(x, y)))


def rays(c2w: np.ndarray, size: int, fov: float) -> tuple[Tensor, Tensor]:
    """Rays through the pixel centres of a square picture, (size, size, 3) each."""
    return _rays(c2w.tobytes(), size, fov)


@cache
def _rays(c2w_bytes: bytes, size: int, fov: float) -> tuple[Tensor, Tensor]:
    c2w = np.frombuffer(c2w_bytes).reshape(4, 4)
    focal = size / 2 / math.tan(math.radians(fov) / 2)
    origins, directions = np.zeros((size, size, 3)), np.zeros((size, size, 3))
    for row in range(size):
        for column in range(size):
            x, y = (column + 0.5 - size / 2) / focal, (size / 2 - row - 0.5) / focal
            d = c2w[:3, :3] @ np.array([x, y, -1.0])
            origins[row, column], directions[row, column] = c2w[:3, 3], d / np.linalg.norm(d)
    return torch.from_numpy(origins).float(), torch.from_numpy(directions).float()


def pixel(c2w: np.ndarray, point: np.ndarray, size: int, fov: float) -> tuple[float, float]:
    """Where a camera sees a point: (x, y) in pixels from the top left corner."""
    x, y, z = (np.linalg.inv(c2w) @ np.append(point, 1.0))[:3]
    focal = size / 2 / math.tan(math.radians(fov) / 2)
    return size / 2 + focal * x / -z, size / 2 - focal * y / -z


def halved(picture: Tensor) -> Tensor:
    """A picture (C, 2N, 2N) at half its side: triangle filter as wide as two result pixels."""
    n = picture.shape[-1] // 2
    matrix = torch.zeros(n, 2 * n, dtype=torch.float64)
    for i in range(n):
        for j in range(2 * n):
            matrix[i, j] = max(0.0, 1.0 - abs((j + 0.5) - 2 * (i + 0.5)) / 2.0)
        matrix[i] /= matrix[i].sum()
    return matrix @ picture.double() @ matrix.T


@dataclass
class Weights:
    """L_SELF's parts; the paper's L_in and L_pix are MSE of colours alone."""

    input_rgb: float = 0.3
    input_mask: float = 0.0
    cycle_rgb: float = 5.0
    cycle_mask: float = 0.0
    cycle_perceptual: float = 0.0
    semantic: float = 1.0


@dataclass
class Setting:
    """All that the equations need besides a picture and its poses."""

    model: LRM
    render: RenderSettings
    size: int
    distance: float
    fov: float
    weights: Weights
    judge: Judge | None = None
    clip: Features | None = None
    stop_gradient: bool = True
    cycle_size: int = 0
    hardest: bool = True

    def lrm(self, image: Tensor) -> Tensor:
        return self.model.encode(image[None].float())

    def pi(self, planes: Tensor, c2w: np.ndarray, size: int) -> tuple[Tensor, Tensor]:
        """Picture (3, size, size) on white and opacity (size, size)."""
        rays_o, rays_d = rays(c2w, size, self.fov)
        seen = self.model.render(planes, rays_o[None], rays_d[None], settings=self.render)
        return seen.rgb[0].permute(2, 0, 1), seen.opacity[0]


def self_loss(
    s: Setting,
    photo: Tensor,
    novel: np.ndarray,
    semantic: Sequence[np.ndarray],
    pixels: Sequence[int] | None = None,
) -> dict[str, Tensor]:
    """L_SELF's terms for one picture (4, S, S), colours times alpha; S is twice ``s.size``.

    With ``pixels``, counted row by row, L_in and L_pix are means over these alone.
    """
    colour, alpha = photo[:3], photo[3]
    on_grey, on_white = colour + 0.5 * (1 - alpha), colour + (1 - alpha)
    small = halved(photo)
    target, mask = small[:3] + (1 - small[3]), small[3]
    phi = camera(0.0, 0.0, s.distance)
    terms: dict[str, Tensor] = {}

    def compared(name: str, picture: Tensor, opacity: Tensor) -> None:
        chosen = range(s.size**2) if pixels is None else pixels
        rgb, masks = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
        for row, column in (divmod(i, s.size) for i in chosen):
            rgb = rgb + (picture[:, row, column] - target[:, row, column]).square().mean()
            masks = masks + (opacity[row, column] - mask[row, column]).square()
        terms[f"{name}_rgb"], terms[f"{name}_mask"] = rgb / len(chosen), masks / len(chosen)

    planes = s.lrm(on_grey)  # Eq. 2
    picture, opacity = s.pi(planes, phi, s.size)
    compared("input", picture, opacity)

    picture, opacity = s.pi(planes, novel, s.cycle_size or s.size)  # Eq. 3
    second = picture - (1 - opacity) + 0.5 * (1 - opacity)
    if s.cycle_size:
        second = picture.clone()
        for row in range(s.cycle_size):
            for column in range(s.cycle_size):
                if opacity[row, column] <= 0.5:
                    second[:, row, column] = 0.5
    if s.stop_gradient:
        second = second.detach()
    moved = np.linalg.inv(phi) @ novel  # Delta Phi
    back = phi @ np.linalg.inv(moved)  # Eq. 4
    picture, opacity = s.pi(s.lrm(second), back, s.size)
    compared("cycle", picture, opacity)
    if s.judge is not None:
        terms["cycle_perceptual"] = s.judge(picture[None], target[None].float())[0]

    if s.clip is not None:
        wanted = s.clip(on_white[None])[0].detach()
        losses = []
        for c2w in semantic:  # Eq. 7
            picture, _ = s.pi(planes, c2w, s.size)
            losses.append(-(s.clip(picture[None])[0] * wanted).sum())
        k = max(range(len(losses)), key=lambda i: float(losses[i].detach()))
        terms["semantic"] = losses[k] if s.hardest else sum(losses, torch.zeros(())) / len(losses)
    return terms


def total(s: Setting, terms: dict[str, Tensor]) -> Tensor:
    """Eq. 10 for one picture."""
    loss = torch.zeros((), dtype=torch.float64)
    for name, term in terms.items():
        loss = loss + getattr(s.weights, name) * term.double()
    return loss
