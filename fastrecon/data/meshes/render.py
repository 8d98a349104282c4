"""Pictures of meshes with exact depth and normals, on OpenGL (EGL, no display) or by ray casting.

Both backends answer the same question at the same places: the nearest surface at every sample,
``supersample`` x ``supersample`` of them per pixel, one colour, distance and normal each. A pixel
is the mean over its covered samples (multisampling would mix depths of different surfaces), so the
two agree but for samples on the very edge of a face.
"""

from __future__ import annotations

import importlib
import math
import warnings
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from fastrecon.cameras import focal_length

from ..pictures import Pictures
from .mesh import Mesh
from .normals import Array, unit

Backend = Literal["auto", "egl", "rays"]
CHANNELS = 8
"""Of a backend's answer: red, green, blue, coverage, normal x, y, z, distance."""
MAX_SIDE = 8192
"""Samples along a picture's side; the largest that every OpenGL offers at 32 bits per channel."""
INSTALL = 'pip install "fastrecon[data]"'
PACKAGES = "libegl1 libegl-mesa0 libgl1-mesa-dri"


class RenderError(RuntimeError):
    """No way to draw meshes on this machine; the message says what to install."""


@dataclass(frozen=True)
class Lighting:
    """Light that stays with the world: from everywhere, and from far away, without shadows."""

    ambient: float = 0.35
    lights: tuple[tuple[float, float, float, float], ...] = (
        (0.6, 0.45, 0.65, 0.4),
        (-0.8, 0.3, 0.2, 0.15),
        (0.2, -0.8, -0.4, 0.1),
    )
    """Rows (x, y, z, strength): direction toward the light, of any length."""

    def __post_init__(self) -> None:
        total = self.ambient + sum(light[3] for light in self.lights)
        if min([self.ambient, *(light[3] for light in self.lights)]) < 0 or total > 1 + 1e-6:
            raise ValueError(
                "ambient and the lights' strengths must not be negative and add up to at most 1, "
                f"or colours would clip; got {total:g} with ambient {self.ambient:g}"
            )

    def vectors(self) -> Array:
        """Directions times strengths, (lights, 3) float32."""
        rows = np.asarray(self.lights, np.float64).reshape(-1, 4)
        return (unit(rows[:, :3]) * rows[:, 3:]).astype(np.float32)


SOFT = Lighting()
"""Brightest up and toward the input camera's right, with weak lights from behind and below, so that
no side is flat; brightness never exceeds 1."""
UNLIT = Lighting(1.0, ())
"""Plain surface colours."""


class MeshBackend(Protocol):
    """What draws."""

    name: str

    def draw(
        self, mesh: Mesh, cameras: Array, side: int, fov_deg: float, factor: int, light: Lighting
    ) -> Array:
        """Means over covered samples of every pixel.

        Args:
            cameras: (V, 4, 4) float64, camera-to-world.
            side: of the pictures, in pixels.
            factor: samples along a pixel's side.

        Returns:
            (V, side, side, 8) float32, top row first: colour, share of covered samples, unit
            normal, distance; all zeros where nothing is covered.
        """
        ...

    def close(self) -> None:
        """Give back what the backend holds."""
        ...


class MeshRenderer:
    """Draws meshes; keep one for many meshes, in one thread, and close it (or use ``with``).

    Args:
        backend: "egl" draws with OpenGL and needs moderngl and the system's EGL; "rays" casts rays
            with embreex, everywhere but some five times slower; "auto" takes the first, or the
            second with a warning that says why.
        lighting: `SOFT`, `UNLIT` or your own.

    Raises:
        RenderError: the backend cannot start; the message names what is missing.
    """

    def __init__(self, backend: Backend = "auto", lighting: Lighting = SOFT) -> None:
        self.lighting = lighting
        self._backend = _start(backend)

    @property
    def backend(self) -> str:
        """ "egl" or "rays"."""
        return self._backend.name

    def __enter__(self) -> MeshRenderer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the OpenGL context; a second call does nothing."""
        self._backend.close()

    def render(
        self, mesh: Mesh, c2w: Tensor | Array, size: int, fov_deg: float, supersample: int = 2
    ) -> Pictures:
        """Square pictures of one mesh.

        Args:
            c2w: (V, 4, 4) rigid cameras (see fastrecon.cameras).
            size: side of the pictures, in pixels.
            fov_deg: field of view, degrees.
            supersample: samples along a pixel's side.

        Returns:
            Pictures of one object: rgba (1, V, 4, size, size), depth (1, V, size, size), normal
            (1, V, 3, size, size), float32 on the CPU. Normals are the shading normals, turned to
            the side that the camera sees; all zeros where nothing is covered.
        """
        cameras = torch.as_tensor(c2w).detach().to("cpu", torch.float64).numpy()
        if cameras.ndim != 3 or cameras.shape[1:] != (4, 4):
            raise ValueError(f"c2w must be (V, 4, 4) cameras of one mesh, got {cameras.shape}")
        if not np.isfinite(cameras).all():
            raise ValueError("c2w must be finite, got NaN or infinity")
        if supersample < 1:
            raise ValueError(f"supersample must be at least 1, got {supersample}")
        focal = focal_length(size, fov_deg) * supersample
        if size * supersample > MAX_SIDE:
            raise ValueError(
                f"size * supersample must be at most {MAX_SIDE}, got {size} * {supersample}"
            )
        drawn = with_fitting_textures(mesh, cameras, focal)
        means = self._backend.draw(drawn, cameras, size, fov_deg, supersample, self.lighting)
        planes = torch.from_numpy(means)[None].permute(0, 1, 4, 2, 3)
        return Pictures(
            planes[:, :, :4].contiguous(),
            planes[:, :, 7].contiguous(),
            planes[:, :, 4:7].contiguous(),
        )


def _start(backend: str) -> MeshBackend:
    if backend not in ("auto", "egl", "rays"):
        raise ValueError(f'backend must be "auto", "egl" or "rays", got {backend!r}')
    if backend == "rays":
        return _rays()
    try:
        return _egl()
    except RenderError as error:
        if backend == "egl":
            raise
        warnings.warn(
            f"drawing meshes by ray casting, which is slow: {error}", RuntimeWarning, stacklevel=3
        )
        return _rays()


def _egl() -> MeshBackend:
    try:
        importlib.import_module("moderngl")
    except ImportError as error:
        raise RenderError(f"moderngl is not installed ({error}): {INSTALL}") from error
    from .gl import GLBackend

    try:
        return GLBackend()
    except Exception as error:
        raise RenderError(
            f"OpenGL does not start without a display ({error}); on Debian and Ubuntu: "
            f"apt-get install {PACKAGES}"
        ) from error


def _rays() -> MeshBackend:
    try:
        importlib.import_module("embreex")
    except ImportError as error:
        raise RenderError(
            f"embreex is not installed ({error}): {INSTALL}; or make OpenGL work "
            f"(apt-get install {PACKAGES}) and use backend='egl'"
        ) from error
    from .rays import RayBackend

    return RayBackend()


def with_fitting_textures(mesh: Mesh, cameras: Array, focal: float) -> Mesh:
    """The mesh with textures reduced to about one texel per sample as the nearest camera sees it.

    Without it fine textures would shimmer, and mipmaps would make a texel's size depend on the
    graphics driver. A texture keeps its size if its texels are larger than samples.

    Args:
        focal: in samples.
    """
    if not mesh.textures or not len(cameras):
        return mesh
    assert mesh.uvs is not None
    distance = max(np.linalg.norm(cameras[:, :3, 3], axis=-1).min() - mesh.radius / 2, 1e-6)
    corners, flat = mesh.vertices[mesh.faces], mesh.uvs[mesh.faces]
    a, b = corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    areas = np.linalg.norm(np.cross(a, b), axis=-1)
    u, v = flat[:, 1] - flat[:, 0], flat[:, 2] - flat[:, 0]
    shares = np.abs(u[:, 0] * v[:, 1] - u[:, 1] * v[:, 0])
    textures = []
    for k, texture in enumerate(mesh.textures):
        mine = mesh.face_textures == k
        height, width = texture.shape[:2]
        seen = float(areas[mine].sum()) * (focal / distance) ** 2
        texels = float(shares[mine].sum()) * width * height
        level = math.floor(0.5 * math.log2(texels / seen)) if texels > seen > 0 else 0
        textures.append(_reduced(texture, 2**level))
    return replace(mesh, textures=tuple(textures))


def _reduced(texture: Array, factor: int) -> Array:
    if factor == 1:
        return texture
    height, width = texture.shape[:2]
    size = max(1, width // factor), max(1, height // factor)
    # By channel: Pillow would weight colours by alpha, and alpha only marks holes here.
    bands = Image.fromarray(texture).split()
    reduced = [band.resize(size, Image.Resampling.BOX) for band in bands]
    return np.array(Image.merge("RGBA", reduced))
