"""Files that are no usable mesh, one by one: a clear word about each, and never a hang."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from fastrecon.data.meshes.mesh import MeshError, load_mesh
from tests.data.meshes.made_meshes import PLY, TETRAHEDRON, cube, edit_glb, textured_glb, written

TRIANGLE = "0 0 0\n1 0 0\n0 1 0\n"
DAMAGED = {
    "empty.glb": (b"", "empty"),
    "empty.obj": (b"", "empty"),
    "foreign.glb": (b"hello, this is text" * 9, "not a GLB"),
    "foreign.ply": (b"hello, this is text" * 9, "not a PLY"),
    "foreign.obj": (bytes(range(256)) * 9, "no faces"),
    "short.glb": (b"glTF\x02\0\0\0", "cut short"),
    "version.glb": (b"glTF\x01\0\0\0" + bytes(40), "version 1"),
    "page.stl": (b"solid", "convert it to GLB, OBJ or PLY"),
    "headless.ply": (b"ply\nformat ascii 1.0\n", "end_header"),
    "points.ply": (PLY.format(vertices=3, faces=0) + TRIANGLE, "no faces"),
    "points.obj": ("v 0 0 0\nv 1 0 0\n", "no faces"),
    "nothing.ply": (PLY.format(vertices=0, faces=0), "no faces"),
    "cut.ply": (PLY.format(vertices=3, faces=1) + "0 0 0\n1 0", "damaged"),
    "nan.obj": (TETRAHEDRON.replace("3 0 0", "nan 0 0"), "1 vertices that are NaN"),
    "inf.ply": (PLY.format(vertices=3, faces=1) + "0 0 0\ninf 0 0\n0 1 0\n3 0 1 2\n", "infinite"),
    "far.obj": (TETRAHEDRON.replace("3 0 0", "3e200 0 0"), "coordinates beyond"),
    "range.ply": (PLY.format(vertices=3, faces=1) + TRIANGLE + "3 0 1 7\n", "vertex"),
    "range.obj": (TETRAHEDRON + "f 1 2 9\n", "vertex"),
    "negative.ply": (PLY.format(vertices=3, faces=1) + TRIANGLE + "3 0 1 -1\n", "vertex"),
    "place.obj": ("v 1 1 1\nv 1 1 1\nv 1 1 1\nf 1 2 3\n", "no extent"),
    "line.obj": ("v 0 0 0\nv .1 .2 .3\nv .3 .6 .9\nf 1 2 3\n", "no face with an area"),
    "many.ply": (PLY.format(vertices=3, faces=10_000_000), "10,000,000 faces.*max_faces"),
    "wide.ply": (PLY.format(vertices=10**9, faces=1), "vertex.*max_faces"),
}


def test_text_that_is_not_utf8(tmp_path: Path) -> None:
    """German exporters of old write Latin-1 comments and material names."""
    obj = f"# Würfel\n{TETRAHEDRON}".encode("latin-1")
    assert len(load_mesh(written(tmp_path, "t.obj", obj)).faces) == 4
    ply = PLY.format(vertices=3, faces=1).replace("ascii 1.0", "ascii 1.0\ncomment Würfel")
    path = written(tmp_path, "t.ply", (ply + TRIANGLE + "3 0 1 2\n").encode("latin-1"))
    assert len(load_mesh(path).faces) == 1


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_meshes(tmp_path: Path, name: str) -> None:
    content, message = DAMAGED[name]
    path = written(tmp_path, name, content)
    start = time.perf_counter()
    with pytest.raises(MeshError, match=message) as caught:
        load_mesh(path)
    assert str(path) in str(caught.value)
    assert time.perf_counter() - start < 5  # what a header declares is refused unread


def test_what_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(MeshError, match="does not exist"):
        load_mesh(tmp_path / "none.glb")
    with pytest.raises(MeshError, match="is a folder"):
        load_mesh(tmp_path)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind root")
def test_a_file_that_may_not_be_read(tmp_path: Path) -> None:
    path = cube(tmp_path)
    path.chmod(0)
    with pytest.raises(MeshError, match="check its permissions"):
        load_mesh(path)


def many_instances(header: dict[str, Any]) -> None:
    header["nodes"] += [{"mesh": 0}] * 1000


def huge_array(header: dict[str, Any]) -> None:
    header["accessors"].append({"componentType": 5126, "type": "MAT4", "count": 10**12})


def many_arrays(header: dict[str, Any]) -> None:
    header["accessors"] += [{"componentType": 5126, "type": "MAT4", "count": 10**6}] * 100


def draco(header: dict[str, Any]) -> None:
    header["extensionsRequired"] = ["KHR_draco_mesh_compression"]


def circle(header: dict[str, Any]) -> None:
    header["nodes"][0]["children"] = [0]


def no_material(header: dict[str, Any]) -> None:
    header["meshes"][0]["primitives"][0]["material"] = 99


def beyond_the_end(header: dict[str, Any]) -> None:
    header["bufferViews"][0]["byteLength"] = 10**6


def bent(header: dict[str, Any]) -> None:
    header["accessors"] = {"count": "many"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (many_instances, "faces, more than max_faces = 5,000"),
        (huge_array, "declares arrays of up to 1,000,000,000,000 entries"),
        (many_arrays, "declares arrays"),
        (draco, "KHR_draco_mesh_compression.*gltf-transform"),
        (no_material, "damaged"),
        (beyond_the_end, "damaged"),
        (bent, "damaged header"),
    ],
)
def test_damaged_glb_headers(tmp_path: Path, change: Any, message: str) -> None:
    path = textured_glb(tmp_path) if change is no_material else cube(tmp_path, "cube.glb")
    edit_glb(path, change)
    with pytest.raises(MeshError, match=message):
        load_mesh(path, max_faces=5000)


def test_a_node_that_is_its_own_child_ends(tmp_path: Path) -> None:
    path = cube(tmp_path, "cube.glb")
    edit_glb(path, circle)
    start = time.perf_counter()
    assert len(load_mesh(path).faces) == 12
    assert time.perf_counter() - start < 5


def test_too_many_faces_of_an_obj_are_counted_before_reading(tmp_path: Path) -> None:
    path = written(tmp_path, "many.obj", TETRAHEDRON + "f 1 2 3\n" * 1000)
    with pytest.raises(MeshError, match=r"1,004 faces, more than max_faces = 1,003"):
        load_mesh(path, max_faces=1003)
    assert len(load_mesh(path, max_faces=1004).faces) == 1004
