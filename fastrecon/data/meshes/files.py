"""Mesh files before anything is parsed: size, counts and what they refer to.

A hostile or merely huge file must not take the machine down, so what a file declares is held
against a limit while it is still a few kilobytes of header (GLB, PLY) or a count of lines (OBJ).
Parsing itself is trimesh's.
"""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from ...errors import MeshError

KINDS = ("glb", "obj", "ply")
PICTURES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tga")
BYTES_PER_FACE = 512
"""A file larger than this times ``max_faces`` is refused unread; text needs 100 to 200."""
LEAST_BYTES = 256 << 20
"""No file smaller than this is refused for its size: embedded textures have no faces."""
LEAST_COUNT = 1 << 20
ATTRIBUTES = 16
"""A vertex with more attributes than this is nobody's export."""
UNREADABLE = {
    "KHR_draco_mesh_compression": "gltf-transform copy IN OUT",
    "EXT_meshopt_compression": "gltf-transform copy IN OUT",
    "KHR_mesh_quantization": "gltf-transform dequantize IN OUT",
    "KHR_texture_basisu": "gltf-transform copy IN OUT with PNG textures",
}
"""Required glTF extensions that trimesh cannot read, and what undoes them."""


def kind_of(path: Path) -> str:
    """ "glb", "obj" or "ply", from the name."""
    kind = path.suffix.lower().lstrip(".")
    if kind not in KINDS:
        raise MeshError(f"{path} is not a mesh that can be read; convert it to GLB, OBJ or PLY")
    return kind


def check_file(path: Path, max_faces: int) -> str:
    """The kind of a mesh file that exists, is not empty and not absurdly large."""
    if path.is_dir():
        raise MeshError(f"{path} is a folder; name the mesh files in it")
    if not path.exists():
        raise MeshError(f"{path} does not exist; check the path")
    kind = kind_of(path)
    size = path.stat().st_size
    if size == 0:
        raise MeshError(f"{path} is empty (0 bytes); export the mesh again")
    most = max(LEAST_BYTES, BYTES_PER_FACE * max_faces)
    if size > most:
        raise MeshError(
            f"{path} has {size / 1e6:.0f} MB, more than {most / 1e6:.0f} MB for max_faces = "
            f"{max_faces:,}; decimate the mesh or raise max_faces"
        )
    return kind


def check_count(path: Path, faces: int, max_faces: int) -> None:
    """Refuse a mesh of more than ``max_faces`` faces."""
    if faces > max_faces:
        raise MeshError(
            f"{path} has {faces:,} faces, more than max_faces = {max_faces:,}; decimate the mesh "
            "or raise max_faces (some 700 bytes of memory per face)"
        )


def read_glb(path: Path, max_faces: int) -> tuple[dict[str, Any], BinaryIO]:
    """The JSON header of a GLB file, checked, and the file with numbered materials.

    Materials are renamed to their index: their names are all that trimesh hands on of what it does
    not read itself (texture transforms, linear factors, which texture was meant).

    Raises:
        MeshError: another format, cut short, unreadable extensions, too many faces.
    """
    data = path.read_bytes()
    if data[:4] != b"glTF":
        raise MeshError(f"{path} is not a GLB file; check what it really is")
    if len(data) < 20:
        raise MeshError(f"{path} is cut short ({len(data)} bytes); copy or export it again")
    _, version, length, json_length, _ = struct.unpack("<4sIIII", data[:20])
    if version != 2:
        raise MeshError(f"{path} is glTF version {version}; export it as version 2")
    if length > len(data):
        raise MeshError(
            f"{path} is cut short ({len(data)} of {length} bytes); copy or export it again"
        )
    try:
        header = json.loads(data[20 : 20 + json_length])
        _check_extensions(path, header)
        check_count(path, _declared_faces(path, header, max_faces), max_faces)
        for i, material in enumerate(header.get("materials", [])):
            material["name"] = str(i)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        if isinstance(error, MeshError):
            raise
        raise MeshError(
            f"{path} has a damaged header ({type(error).__name__}: {error}); export it again"
        ) from error
    packed = json.dumps(header).encode()
    packed += b" " * (-len(packed) % 4)
    rest = data[20 + json_length : length]
    start = struct.pack(
        "<4sIIII", b"glTF", 2, 20 + len(packed) + len(rest), len(packed), 0x4E4F534A
    )
    return header, io.BytesIO(start + packed + rest)


def _check_extensions(path: Path, header: dict[str, Any]) -> None:
    for name in header.get("extensionsRequired", []):
        if name in UNREADABLE:
            raise MeshError(
                f"{path} needs the glTF extension {name}, which cannot be read; "
                f"undo it with `{UNREADABLE[name]}` (https://gltf-transform.dev)"
            )
    accessors = header.get("accessors", [])
    for mesh in header.get("meshes", []):
        for primitive in mesh["primitives"]:
            index = primitive["attributes"].get("TEXCOORD_0")
            if index is not None and accessors[index]["componentType"] != 5126:
                raise MeshError(
                    f"{path} stores texture coordinates as integers, which cannot be read; "
                    "undo it with `gltf-transform dequantize IN OUT` (https://gltf-transform.dev)"
                )


def _declared_faces(path: Path, header: dict[str, Any], max_faces: int) -> int:
    """Faces of all nodes; accessors that would allocate absurdly much are refused."""
    accessors = header.get("accessors", [])
    counts = [int(accessor["count"]) for accessor in accessors]
    most = max(LEAST_COUNT, 3 * max_faces)
    if counts and (min(counts) < 0 or max(counts) > most or sum(counts) > ATTRIBUTES * most):
        raise MeshError(
            f"{path} declares arrays of up to {max(counts):,} entries ({sum(counts):,} together), "
            f"more than a mesh of max_faces = {max_faces:,} has; decimate it or raise max_faces"
        )
    faces = []
    for mesh in header.get("meshes", []):
        total = 0
        for primitive in mesh["primitives"]:
            index = primitive.get("indices", primitive["attributes"]["POSITION"])
            mode = primitive.get("mode", 4)
            total += counts[index] // 3 if mode == 4 else counts[index] if mode > 4 else 0
        faces.append(total)
    nodes = header.get("nodes", [])
    return sum(faces[node["mesh"]] for node in nodes if "mesh" in node)


def count_obj(path: Path) -> int:
    """Face lines of an OBJ file, read in pieces."""
    faces, tail = 0, b"\n"
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            text = tail + chunk
            faces += text.count(b"\nf ") + text.count(b"\nf\t")
            tail = text[-2:]
    return faces


def decoded(text: bytes) -> str:
    """Text of unknown encoding: UTF-8, or else Latin-1, which reads anything."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")


def read_ply(path: Path, max_faces: int) -> BinaryIO:
    """A PLY file, open, whose header is one and declares no more than ``max_faces``.

    Raises:
        MeshError: another format, a damaged header, too many faces or vertices.
    """
    with path.open("rb") as file:
        head = file.read(1 << 16)
    if not head.startswith(b"ply"):
        raise MeshError(f"{path} is not a PLY file; check what it really is")
    header, end, _ = head.partition(b"end_header")
    if not end:
        raise MeshError(f"{path} has no end_header: it is cut short or damaged; export it again")
    for line in header.splitlines():
        words = line.split()
        if words[:1] != [b"element"]:
            continue
        if len(words) < 3 or not words[2].isdigit():
            raise MeshError(f"{path} has a damaged header ({line!r}); export it again")
        count = int(words[2])
        if words[1] == b"face":
            check_count(path, count, max_faces)
        elif count > max(LEAST_COUNT, 3 * max_faces):
            raise MeshError(
                f"{path} has {count:,} of {words[1].decode(errors='replace')}, more than the "
                f"{3 * max_faces:,} that max_faces = {max_faces:,} can use; decimate it or raise "
                "max_faces"
            )
    if header.isascii():
        return path.open("rb")
    plain = decoded(header).encode("ascii", "replace")  # a comment's umlaut should stop nobody
    return io.BytesIO(plain + path.read_bytes()[len(header) :])


def only_picture(path: Path) -> Path | None:
    """The picture beside a mesh, if the folder has just one of each kind of file."""
    beside = [p for p in path.parent.iterdir() if p.is_file()]
    pictures = [p for p in beside if p.suffix.lower() in PICTURES]
    meshes = [p for p in beside if p.suffix.lower().lstrip(".") in KINDS]
    return pictures[0] if len(pictures) == 1 and len(meshes) == 1 else None


def openable(data: bytes) -> bool:
    """Whether Pillow can open ``data`` as a picture of bearable size."""
    try:
        with Image.open(io.BytesIO(data)):
            return True
    except (OSError, Image.DecompressionBombError):
        return False


class Assets:
    """What a mesh file refers to, read from its own folder.

    ``found`` and ``missing`` name what was asked for and was or was not there. Passed to trimesh as
    a resolver. Files outside the mesh's folder are not opened: a mesh from elsewhere should not
    read the rest of the disk.
    """

    def __init__(self, path: Path) -> None:
        from trimesh.resolvers import FilePathResolver

        self._files = FilePathResolver(str(path))
        self.found: list[str] = []
        self.missing: list[str] = []

    def get(self, name: str) -> bytes:
        """The bytes of ``name``, as written by exporters of every system."""
        for candidate in self._spellings(name):
            try:
                data = self._files.get(candidate)
            except (OSError, ValueError):
                continue
            kind = Path(candidate).suffix.lower()
            if kind == ".mtl":
                data = decoded(data).encode()
            if kind in (".mtl", ".bin") or openable(data):
                self.found.append(candidate)
                return data
        self.missing.append(name)
        raise FileNotFoundError(name)

    __getitem__ = get

    @staticmethod
    def _spellings(name: str) -> Iterable[str]:
        from urllib.parse import unquote

        plain = name.strip().replace("\\", "/")
        words = plain.split()
        # MTL allows options before the name: map_Kd -s 1 1 1 wood.png
        return dict.fromkeys([name, plain, unquote(plain), *(words[-1:] if words else [])])
