"""Colours of mesh files in one simple form: a colour per vertex times at most one texture.

Colours are those that a screen shows (sRGB), as pictures store them. glTF states its material
factors as linear light, so these are converted; vertex colours are taken as they stand, because
PLY, OBJ, trimesh and this package's own GLB files all write what a screen shows.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from ...errors import MeshError
from .files import Assets
from .normals import Array

if TYPE_CHECKING:
    from trimesh import Trimesh

PLAIN = 0.7
"""Grey of surfaces whose file states no colour."""
TEXTURE_SIDE = 4096
"""Larger textures are reduced to this."""
CUTOFF = 0.5
"""Texels of less alpha are holes, where a material says that its alpha means anything."""
OPAQUE = "OPAQUE"


class Paint(NamedTuple):
    """One geometry's colours."""

    colours: Array  # (N, 3) per vertex, or (M, 3) per face, float32 in [0, 1]
    per_face: bool
    uvs: Array | None  # (N, 2), v up, (0, 0) the texture's bottom left corner; may lack a texture
    texture: Image.Image | None
    cutoff: float | None  # alpha below which a texel is a hole; None: alpha means nothing
    missing: str | None  # a texture that the file names and that cannot be had


def linear_to_srgb(linear: Array) -> Array:
    """Linear light in [0, 1] as what a screen shows (IEC 61966-2-1)."""
    linear = np.clip(linear, 0.0, 1.0)
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def as_unit(colours: Any, count: int) -> Array:
    """RGB or RGBA of any dtype, one row per vertex or a single one, as (count, 3) in [0, 1]."""
    rgb = np.asarray(colours)[..., :3]
    if rgb.dtype.kind in "iu":
        rgb = rgb / np.iinfo(rgb.dtype).max
    rgb = np.nan_to_num(rgb.astype(np.float32), nan=0.0, posinf=1.0, neginf=0.0).clip(0.0, 1.0)
    return np.broadcast_to(rgb, (count, 3))


def read_paint(geometry: Trimesh, materials: list[dict[str, Any]], assets: Assets) -> Paint:
    """Colours of one geometry of a scene that trimesh has read.

    Args:
        materials: the glTF header's, whose names have been replaced by their index; [] elsewhere.
        assets: what the file refers to, after reading.
    """
    visual: Any = geometry.visual
    count = len(geometry.vertices)
    plain = np.full((count, 3), PLAIN, np.float32)
    missing = assets.missing[0] if assets.missing else None
    if visual.kind == "face":
        colours = as_unit(visual.face_colors, len(geometry.faces))
        return Paint(colours, True, None, None, None, missing)
    if visual.kind == "vertex":
        colours = as_unit(visual.vertex_colors, count)
        return Paint(colours, False, None, None, None, missing)
    if visual.kind != "texture":
        return Paint(plain, False, None, None, None, missing)
    material, uvs = visual.material, visual.uv
    if uvs is not None and (np.shape(uvs) != (count, 2) or not np.isfinite(uvs).all()):
        uvs = None
    if materials:
        paint = _gltf_paint(material, materials, uvs, count)
    else:
        paint = _simple_paint(material, assets, uvs, plain)
    extra = visual.vertex_attributes.get("color")
    if extra is not None and len(extra) == count:
        paint = paint._replace(colours=paint.colours * as_unit(extra, count))
    return paint


def _simple_paint(material: Any, assets: Assets, uvs: Array | None, plain: Array) -> Paint:
    """Of OBJ and PLY files; a texture replaces the diffuse colour, which exporters leave at 0."""
    stated = getattr(material, "kwargs", {})
    image = getattr(material, "image", None)
    # where a face has no material, trimesh invents one, whose picture was never in a format
    given = image is not None and image.format is not None
    missing = assets.missing[0] if assets.missing else None
    if given and uvs is not None:
        return Paint(np.ones_like(plain), False, uvs, image, None, missing)
    colours = as_unit([stated["kd"]], len(plain)) if "kd" in stated else plain
    return Paint(colours, False, uvs, None, None, missing)


def _gltf_paint(
    material: Any, materials: list[dict[str, Any]], uvs: Array | None, count: int
) -> Paint:
    header = materials[int(material.name)]
    base = header.get("pbrMetallicRoughness", {})
    wanted = base.get("baseColorTexture")
    image = material.baseColorTexture
    missing = f"the texture of material {material.name}" if wanted and image is None else None
    factor = base.get("baseColorFactor")
    if factor is None and material.baseColorFactor is not None:
        factor = as_unit(material.baseColorFactor, 1)[0]
    if factor is not None:
        colour = linear_to_srgb(np.asarray(factor, np.float64)[:3])
    else:  # white times a texture that is not there is no colour of the object's
        colour = np.full(3, PLAIN if missing else 1.0)
    if image is None or uvs is None:
        image = None
    else:
        uvs = _transformed(uvs, wanted or {})
    mode = header.get("alphaMode", OPAQUE)
    cutoff = None if mode == OPAQUE else CUTOFF
    if mode == "MASK":
        cutoff = float(header.get("alphaCutoff", CUTOFF))
    return Paint(as_unit(colour, count), False, uvs, image, cutoff, missing)


def _transformed(uvs: Array, info: dict[str, Any]) -> Array:
    """Texture coordinates (v up) after KHR_texture_transform, which is stated for v down."""
    transform = info.get("extensions", {}).get("KHR_texture_transform", {})
    angle = float(transform.get("rotation", 0.0))
    c, s = math.cos(angle), math.sin(angle)
    matrix = np.array([[c, s], [-s, c]]) * np.asarray(transform.get("scale", (1.0, 1.0)))
    down = uvs * (1.0, -1.0) + (0.0, 1.0)
    down = down @ matrix.T + np.asarray(transform.get("offset", (0.0, 0.0)))
    return down * (1.0, -1.0) + (0.0, 1.0)


def texels(image: Image.Image, cutoff: float | None, name: str) -> Array:
    """A texture as (H, W, 4) uint8, top row first; alpha is 255, or 0 in holes.

    Raises:
        MeshError: the picture is damaged.
    """
    try:
        image.draft("RGB", (TEXTURE_SIDE, TEXTURE_SIDE))
        rgba = image.convert("RGBA")
    except (OSError, SyntaxError, ValueError) as error:
        raise MeshError(f"{name} is damaged ({error}); export the mesh again") from error
    if max(rgba.size) > TEXTURE_SIDE:
        rgba = rgba.resize(
            [max(1, round(side * TEXTURE_SIDE / max(rgba.size))) for side in rgba.size],
            Image.Resampling.BOX,
        )
    array = np.array(rgba)
    solid = True if cutoff is None else array[..., 3] >= cutoff * 255
    array[..., 3] = np.where(solid, 255, 0)
    return array


def texture_label(path: Path, missing: str) -> str:
    """The sentence about a texture that is not there."""
    return (
        f"{path} refers to {missing!r}, which is missing or not a picture; put it beside the mesh, "
        "or go on in plain colours with missing_texture='colour' (--missing-texture colour)"
    )
