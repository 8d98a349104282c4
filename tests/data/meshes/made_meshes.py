"""Small meshes that tests of reading and rendering make up, as files."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import trimesh
from PIL import Image
from trimesh.visual import ColorVisuals, TextureVisuals
from trimesh.visual.material import PBRMaterial

RED, GREEN, BLUE, YELLOW = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
FOUR = np.array([[RED, GREEN], [BLUE, YELLOW]], np.uint8)
"""A texture of 2 x 2 texels, top row first."""
QUAD = """
v -1 -1 0
v 1 -1 0
v 1 1 0
v -1 1 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
f 1/1 2/2 3/3
f 1/1 3/3 4/4
"""

TETRAHEDRON = "v 0 0 0\nv 3 0 0\nv 0 2 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 2 3 4\nf 1 4 3\n"
PLY = """ply
format ascii 1.0
element vertex {vertices}
property float x
property float y
property float z
element face {faces}
property list uchar int vertex_indices
end_header
"""


def written(folder: Path, name: str, text: str | bytes) -> Path:
    """A file of these contents."""
    path = folder / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def textured_quad(folder: Path, texels: np.ndarray = FOUR, name: str = "quad") -> Path:
    """An OBJ that faces +z (world +x) and spans [-1, 1]^2, with its material and texture."""
    Image.fromarray(texels).save(folder / f"{name}.png")
    (folder / f"{name}.mtl").write_text(f"newmtl paint\nKd 0 0 0\nmap_Kd {name}.png\n")
    path = folder / f"{name}.obj"
    path.write_text(f"mtllib {name}.mtl\nusemtl paint\n{QUAD}")
    return path


def cube(folder: Path, name: str = "cube.ply", colour: tuple[int, int, int] = RED) -> Path:
    """A cube over [-1, 1]^3 of one vertex colour."""
    box = trimesh.creation.box((2, 2, 2))
    box.visual = ColorVisuals(box, vertex_colors=np.tile([*colour, 255], (8, 1)))
    box.export(folder / name)
    return folder / name


def sphere(folder: Path, name: str = "sphere.ply", subdivisions: int = 4) -> Path:
    """A sphere of radius 1 in 20 * 4^n faces."""
    trimesh.creation.icosphere(subdivisions=subdivisions).export(folder / name)
    return folder / name


def textured_glb(
    folder: Path, texels: np.ndarray = FOUR, material: dict[str, Any] | None = None
) -> Path:
    """A GLB with an embedded texture that faces +z; ``material`` overrides header entries."""
    corners = np.array([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0]], float)
    look = PBRMaterial(baseColorTexture=Image.fromarray(texels))
    visual = TextureVisuals(uv=(corners[:, :2] + 1) / 2, material=look)
    quad = trimesh.Trimesh(corners, [[0, 1, 2], [0, 2, 3]], visual=visual, process=False)
    path = folder / "quad.glb"
    quad.export(path)
    if material:
        edit_glb(path, lambda header: header["materials"][0].update(material))
    return path


def edit_glb(path: Path, change: Any) -> None:
    """Let ``change(header)`` alter the JSON header of a GLB file."""
    data = path.read_bytes()
    length = struct.unpack("<I", data[12:16])[0]
    header = json.loads(data[20 : 20 + length])
    change(header)
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 4)
    rest = data[20 + length :]
    start = struct.pack("<4sIII4s", b"glTF", 2, 20 + len(packed) + len(rest), len(packed), b"JSON")
    path.write_bytes(start + packed + rest)
