"""Rendered views of one object as a folder of files, in two layouts that others read too.

Both store for view ``i`` (three digits or more)::

    NNN.png          RGBA, 8 bits, straight alpha
    depth/NNN.png    16-bit grey: distance from the camera (not z) in units of ``depth_scale``;
                     0 where nothing is covered
    normal/NNN.png   RGB, 8 bits: (n + 1) / 2 of the unit normal in world axes, facing the camera;
                     black where nothing is covered
    transforms.json  as NeRF's synthetic scenes: ``camera_angle_x`` (radians) and ``frames`` with
                     ``file_path`` (no ending) and ``transform_matrix``, camera-to-world, 4 x 4,
                     OpenGL axes (the camera looks along -z, y up); besides ``depth_scale``
                     (scene units), ``w`` and ``h``

"zero123" adds ``NNN.npy`` as Zero123's Objaverse renders have them: (3, 4) float64
world-to-camera of a Blender camera, which has OpenGL axes too; not OpenCV's. The world has z up in
both; an object's front looks along +x here, along -y in Blender.

Colour, depth and normal of a pixel are means over its covered samples, so depth and normal hold
wherever alpha is above 0.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .camera_files import TRANSFORMS, ZERO123_FOV, Cameras, frames_json, parse_json
from .meshes.normals import Array
from .picture_files import decode_rgba, open_picture, read_bytes
from .pictures import Pictures
from .posed.folders import nerf_cameras, picture_path, zero123_cameras

Layout = Literal["nerf", "zero123"]
FULL = 65535


@dataclass(frozen=True, eq=False)
class Views:
    """V views of one object, as read back; depth and normal are None where a folder has none."""

    rgba: Tensor  # (V, 4, H, W) straight alpha, in [0, 1]
    depth: Tensor | None  # (V, H, W) distance from the camera, 0 where nothing is covered
    normal: Tensor | None  # (V, 3, H, W) unit, world, 0 where nothing is covered
    c2w: Tensor  # (V, 4, 4) float64
    fov_deg: float


def view_files(
    pictures: Pictures, c2w: Tensor, depth_scale: float, names: Sequence[str], layout: Layout
) -> Iterator[tuple[str, bytes]]:
    """Names (relative, with /) and contents of the files of some views, all but transforms.json.

    Args:
        pictures: of one object, B = 1, on the CPU.
        c2w: (V, 4, 4) the cameras they were taken with.
        depth_scale: distance per unit of the depth pictures; no distance exceeds 65535 units.
        names: of the views, see `view_names`.
    """
    if layout not in ("nerf", "zero123"):
        raise ValueError(f'layout must be "nerf" or "zero123", got {layout!r}')
    if pictures.rgba.shape[0] != 1 or c2w.shape != (pictures.rgba.shape[1], 4, 4):
        raise ValueError(
            "pictures must be of one object, (1, V, ...), and c2w (V, 4, 4); got "
            f"{tuple(pictures.rgba.shape)} and {tuple(c2w.shape)}"
        )
    rgba = pictures.rgba[0].permute(0, 2, 3, 1).clamp(0, 1).mul(255).round().byte().numpy()
    covered = pictures.rgba[0, :, 3].numpy() > 0
    normal = pictures.normal[0].permute(0, 2, 3, 1).numpy() * 0.5 + 0.5
    normal = np.where(covered[..., None], (normal * 255).round().clip(0, 255), 0).astype(np.uint8)
    depth = pictures.depth[0].double().numpy() / depth_scale
    if depth.max(initial=0.0) > FULL + 0.5:
        raise ValueError(
            f"depth_scale {depth_scale:g} is too small for distances up to "
            f"{depth.max() * depth_scale:g}; 16 bits hold {FULL} units"
        )
    depth = np.where(covered, depth.round().clip(1, FULL), 0).astype(np.uint16)
    cameras = c2w.detach().to("cpu", torch.float64).numpy()
    for i, name in enumerate(names):
        yield f"{name}.png", _png(rgba[i])
        yield f"depth/{name}.png", _png(depth[i])
        yield f"normal/{name}.png", _png(normal[i])
        if layout == "zero123":
            yield f"{name}.npy", _npy(np.linalg.inv(cameras[i])[:3])


def view_names(count: int) -> list[str]:
    """Names of an object's views: as many digits as needed, at least three."""
    digits = max(3, len(str(count - 1)))
    return [f"{i:0{digits}d}" for i in range(count)]


def transforms_json(
    c2w: Tensor, fov_deg: float, size: int, depth_scale: float, extra: Mapping[str, Any]
) -> bytes:
    """The contents of transforms.json for all views of an object, (V, 4, 4)."""
    poses = c2w.detach().to("cpu", torch.float64).numpy()
    said = {"depth_scale": depth_scale, **extra}
    return frames_json(poses, fov_deg, size, view_names(len(poses)), said)


def _png(picture: Array) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="PNG", compress_level=3)
    return file.getvalue()


def _npy(matrix: Array) -> bytes:
    file = io.BytesIO()
    np.save(file, matrix)
    return file.getvalue()


def read_nerf(folder: Path) -> Views:
    """Views of a folder with transforms.json, ours or a NeRF-synthetic one without depth.

    Raises:
        CollectionError: a file is missing or damaged.
    """
    return _read(folder, nerf_cameras(folder))


def read_zero123(folder: Path, fov_deg: float = ZERO123_FOV) -> Views:
    """Views of a folder with NNN.png and NNN.npy, ours or Zero123's own.

    Args:
        fov_deg: field of view of a folder without transforms.json, degrees.

    Raises:
        CollectionError: a file is missing or damaged.
    """
    return _read(folder, zero123_cameras(folder, fov_deg))


def _read(folder: Path, cameras: Cameras) -> Views:
    files = {name: picture_path(folder, name) for name in cameras.names}
    rgba = np.stack([decode_rgba(read_bytes(path), str(path)) for path in files.values()])
    depth = normal = scale = None
    if (folder / TRANSFORMS).exists():
        label = str(folder / TRANSFORMS)
        scale = parse_json(read_bytes(folder / TRANSFORMS), label).get("depth_scale")
    if scale is not None and (folder / "depth").is_dir():
        depth = torch.stack([_values(folder / f"depth/{n}.png") for n in cameras.names])[:, 0]
        depth = (depth * scale).float()
    if (folder / "normal").is_dir():
        coded = torch.stack([_values(folder / f"normal/{n}.png") for n in cameras.names])
        normal = torch.nn.functional.normalize(coded / 127.5 - 1, dim=1)
        normal = torch.where(coded.sum(1, keepdim=True) > 0, normal, 0.0)
    return Views(
        torch.from_numpy(rgba).permute(0, 3, 1, 2).float() / 255,
        depth,
        normal,
        torch.from_numpy(cameras.c2w),
        float(cameras.fov_deg[0]),
    )


def _values(path: Path) -> Tensor:
    """A picture's values as they are stored, (C, H, W) float32."""
    image = open_picture(read_bytes(path), str(path))
    return torch.from_numpy(np.atleast_3d(np.asarray(image, np.float32)).transpose(2, 0, 1).copy())
