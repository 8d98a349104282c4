"""A batch of procedural objects: what rays meet, and pictures with exact depth and normals."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from fastrecon.cameras import focal_length

from .bounds import ABSENT, Bodies, fit_to_view
from .primitives import Array
from .tracing import CHANNELS, DEPTH, MASK, NORMAL, Frame, Part, box_filter, rasterise, trace_rays


class Trace(NamedTuple):
    """What rays meet first; all zeros on a miss."""

    rgb: Tensor  # (B, N, 3) in [0, 1]
    mask: Tensor  # (B, N) 0 or 1
    depth: Tensor  # (B, N) along the ray, in units of |rays_d|
    normal: Tensor  # (B, N, 3) unit, outward, world


class Pictures(NamedTuple):
    """Pictures of objects; colour, depth and normal are means over a pixel's covered samples."""

    rgba: Tensor  # (B, V, 4, H, W) straight alpha, in [0, 1]; all zeros where nothing is covered
    depth: Tensor  # (B, V, H, W) distance from the camera
    normal: Tensor  # (B, V, 3, H, W) unit, world


@dataclass(frozen=True, eq=False)
class Scene:
    """B objects, each a union of at most P textured parts; arrays are float64 on the processor."""

    bodies: Bodies
    patterns: Array  # (B, P) int, index into PATTERNS
    phase_rows: Array  # (B, P, 3, 3) see textures.py
    phases: Array  # (B, P, 3)
    folds: Array  # (B, P) bool: the texture reads |x|, so that it is its own mirror image
    colours: Array  # (B, P, 2, 3) in [0, 1]
    ambient: Array  # (B,)
    lights: Array  # (B, 2, 3) toward the lights, times their strengths
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where ``render`` puts pictures; ``trace`` answers on the rays' device."""

    def __len__(self) -> int:
        return len(self.ambient)

    @cached_property
    def _inverse(self) -> Array:
        """World-to-local matrices (B, P, 3, 3)."""
        present = self.bodies.kinds != ABSENT
        return np.linalg.inv(np.where(present[..., None, None], self.bodies.linear, np.eye(3)))

    @cached_property
    def _objects(self) -> list[list[Part]]:
        """Every part as plain numbers."""
        bodies = self.bodies
        gains = np.linalg.norm(self._inverse, axis=-1)
        axes = self._inverse / gains[..., None]
        lights = self.lights[:, None] @ axes.swapaxes(-1, -2)
        frames = (bodies.kinds, bodies.shapes, self._inverse, bodies.centres)
        surfaces = (self.patterns, self.phase_rows, self.phases, self.folds, self.colours)
        frames = [array.tolist() for array in frames]
        surfaces = [array.tolist() for array in (*surfaces, gains, axes)]
        ambient, lights = self.ambient.tolist(), lights.tolist()
        return [
            [
                Part._make(
                    [
                        Frame._make(rows[b][k] for rows in frames),
                        *(rows[b][k] for rows in surfaces),
                        ambient[b],
                        [light for light in lights[b][k] if any(light)],
                    ]
                )
                for k in range(n)
            ]
            for b, n in enumerate((bodies.kinds != ABSENT).sum(1))
        ]

    @cached_property
    def _groups(self) -> list[tuple[Frame, Array, Array]]:
        """The parts of every kind that occurs, as ``trace_rays`` wants them."""
        groups = []
        for kind in np.unique(self.bodies.kinds[self.bodies.kinds != ABSENT]).tolist():
            b, k = np.nonzero(self.bodies.kinds == kind)
            columns = np.concatenate(
                [
                    self.bodies.shapes[b, k, None],
                    self.bodies.centres[b, k],
                    self._inverse[b, k].reshape(-1, 9),
                ],
                axis=1,
            )
            shape, *c = columns.astype(np.float32).T[:, :, None]
            rows = (tuple(c[3:6]), tuple(c[6:9]), tuple(c[9:12]))
            groups.append((Frame(kind, shape, rows, tuple(c[:3])), b, k))
        return groups

    def trace(self, rays_o: Tensor, rays_d: Tensor) -> Trace:
        """The nearest surface along every ray.

        Args:
            rays_o, rays_d: (B, N, 3), any device; directions of any length but 0.

        Returns:
            Trace, float32, on the rays' device. A ray that starts inside a part does not see that
            part.
        """
        for name, rays in (("rays_o", rays_o), ("rays_d", rays_d)):
            if rays.ndim != 3 or rays.shape[0] != len(self) or rays.shape[2] != 3:
                raise ValueError(
                    f"{name} must be ({len(self)}, N, 3), one row of rays per object; "
                    f"got {tuple(rays.shape)}"
                )
        if rays_o.shape != rays_d.shape:
            raise ValueError(
                f"rays_o and rays_d must have one shape, got {tuple(rays_o.shape)} and "
                f"{tuple(rays_d.shape)}; expand the origins"
            )
        # Component-major: each component of an object's rays is one contiguous row.
        o, d = (
            r.detach().to("cpu", torch.float32).permute(2, 0, 1).contiguous().numpy()
            for r in (rays_o, rays_d)
        )
        out = np.zeros((len(self), CHANNELS, rays_d.shape[1]), np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            trace_rays(self._objects, self._groups, o, d, out)
        found = torch.from_numpy(out).to(rays_d.device)
        return Trace(
            found[:, :MASK].mT.contiguous(),
            found[:, MASK].contiguous(),
            found[:, DEPTH].contiguous(),
            found[:, NORMAL:].mT.contiguous(),
        )

    def render(self, c2w: Tensor, size: int, fov_deg: float, supersample: int = 1) -> Pictures:
        """Square pictures with exact coverage, depth and normals.

        Args:
            c2w: (B, V, 4, 4) rigid cameras.
            size: side of the pictures, in pixels.
            fov_deg: field of view, degrees.
            supersample: rays along a pixel's side; 1 asks pixel centres alone.

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

    def _means(
        self, c2w: Tensor, size: int, fov_deg: float, supersample: int, channels: int
    ) -> Tensor:
        """Box-filtered rows of ``rasterise``: (B, V, channels, H, W)."""
        if c2w.ndim != 4 or c2w.shape[0] != len(self) or c2w.shape[2:] != (4, 4):
            raise ValueError(
                f"c2w must be ({len(self)}, V, 4, 4), the views of every object; got "
                f"{tuple(c2w.shape)}"
            )
        if supersample < 1:
            raise ValueError(f"supersample must be at least 1, got {supersample}")
        side = size * supersample
        cameras = c2w.detach().to("cpu", torch.float64).numpy()
        step = 1.0 / focal_length(side, fov_deg)
        windows = self._windows(cameras, side, step).tolist()
        means = np.empty((*cameras.shape[:2], channels, size, size), np.float32)
        # One scratch picture for all: it stays in the cache, and nobody pages in fresh memory.
        samples = np.empty((channels, side, side), np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):
            for b, parts in enumerate(self._objects):
                for v, camera in enumerate(cameras[b]):
                    rasterise(parts, camera, windows[b][v], step, samples)
                    box_filter(samples, supersample, means[b, v])
        return torch.from_numpy(means).to(self.device)

    def _windows(self, cameras: Array, side: int, step: float) -> Array:
        """Pixels (left, right, top, bottom) around every part, (B, V, P, 4); empty for padding."""
        rectangles = self.bodies.rectangles(cameras) / step
        left, right, bottom, top = np.moveaxis(rectangles, -1, 0)
        # Pictures count y downward; one pixel of margin covers rounding.
        windows = np.stack([left - 1, right + 1, -top - 1, -bottom + 1], axis=-1) + side / 2
        return np.nan_to_num(np.clip(windows, 0, side)).astype(np.int64)

    def squares(self, c2w: Tensor) -> Tensor:
        """Bounding squares of the objects' silhouettes.

        Args:
            c2w: (B, V, 4, 4).

        Returns:
            (B, V, 3) float64: centre (x right, y up) and half side as tangents, that is in units
            of the focal length; infinite where an object reaches the camera's plane.
        """
        rectangles = self.bodies.rectangles(c2w.detach().to("cpu", torch.float64).numpy())
        low = np.fmin.reduce(rectangles[..., ::2], axis=2)
        high = np.fmax.reduce(rectangles[..., 1::2], axis=2)
        half = 0.5 * (high - low).max(axis=-1, keepdims=True)
        return torch.from_numpy(np.concatenate([0.5 * (low + high), half], axis=-1))

    def moved(self, scale: Array, shift: Array) -> Scene:
        """The objects scaled about the origin by (B,), then shifted by (B, 3)."""
        return replace(self, bodies=self.bodies.moved(scale, shift))

    def fitted(self, distance: float, half_side: Array, offset: Array, max_reach: float) -> Scene:
        """The objects as a prepared photograph would show them; see ``bounds.fit_to_view``."""
        return self.moved(*fit_to_view(self.bodies, distance, half_side, offset, max_reach))
