"""Meshes from files: one form for all, and a clear word about each that cannot be used."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trimesh
from PIL import Image

from fastrecon.data.meshes.mesh import MeshError, load_mesh
from fastrecon.data.meshes.normals import corner_normals, wind_by
from tests.data.meshes.made_meshes import (
    BLUE,
    FOUR,
    PLY,
    QUAD,
    RED,
    TETRAHEDRON,
    cube,
    edit_glb,
    sphere,
    textured_glb,
    textured_quad,
    written,
)


@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
def test_every_format_gives_the_same_mesh(tmp_path: Path, kind: str) -> None:
    mesh = load_mesh(cube(tmp_path, f"cube.{kind}"))
    assert len(mesh.faces) == 12
    assert mesh.radius == pytest.approx(1.0)
    assert np.allclose(np.abs(mesh.vertices), 3**-0.5)
    assert np.allclose(mesh.colours, [1, 0, 0])
    assert np.allclose(np.linalg.norm(mesh.normals, axis=-1), 1)
    assert (mesh.face_textures == -1).all()
    assert mesh.uvs is None
    assert mesh.vertices.dtype == mesh.normals.dtype == mesh.colours.dtype == np.float32
    assert mesh.faces.dtype == np.int32


def test_axes_of_the_file_become_axes_of_the_world(tmp_path: Path) -> None:
    path = written(tmp_path, "t.obj", TETRAHEDRON)  # longest along its x, shortest along its z
    extent = np.ptp(load_mesh(path, fit="none").vertices, axis=0)
    assert extent.tolist() == [1, 3, 2]  # world x is the file's z, y its x, z its y
    extent = np.ptp(load_mesh(path, fit="none", up="z").vertices, axis=0)
    assert extent.tolist() == [3, 2, 1]


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_size_and_place_do_not_matter(tmp_path: Path, scale: float) -> None:
    reference = load_mesh(written(tmp_path, "t.obj", TETRAHEDRON))
    box = trimesh.load_mesh(tmp_path / "t.obj", process=False)
    box.apply_scale(scale)
    box.apply_translation([7 * scale, -5 * scale, scale])
    box.export(tmp_path / "moved.obj", digits=15)
    moved = load_mesh(tmp_path / "moved.obj")
    assert np.allclose(moved.vertices, reference.vertices, atol=2e-6)
    assert np.allclose(moved.normals, reference.normals, atol=2e-5)
    corner = moved.transform @ [7 * scale, -5 * scale, scale, 1]
    assert np.allclose(corner, reference.transform @ [0, 0, 0, 1], atol=2e-6)


def test_fits(tmp_path: Path) -> None:
    path = written(tmp_path, "t.obj", TETRAHEDRON)
    assert load_mesh(path).radius == pytest.approx(1.0)
    boxed = load_mesh(path, fit="box")
    assert boxed.vertices[:, 1].min() == pytest.approx(-1)
    assert boxed.vertices[:, 1].max() == pytest.approx(1)
    assert np.abs(boxed.vertices).max(0) == pytest.approx([1 / 3, 1, 2 / 3])
    assert boxed.scaled(0.5).radius == pytest.approx(boxed.radius / 2)
    assert boxed.scaled(0.5).transform[0, 2] == pytest.approx(boxed.transform[0, 2] / 2)


def test_a_vertex_that_no_face_uses_has_no_say(tmp_path: Path) -> None:
    with_stray = written(tmp_path, "stray.ply", PLY.format(vertices=4, faces=1))
    with with_stray.open("a") as file:
        file.write("0 0 0\n1 0 0\n0 1 0\n900 900 900\n3 0 1 2\n")
    mesh = load_mesh(with_stray)
    assert len(mesh.vertices) == 3
    assert mesh.radius == pytest.approx(1.0)


def test_scenes_become_one_mesh(tmp_path: Path) -> None:
    scene = trimesh.Scene()
    red, blue = (trimesh.creation.box((1, 1, 1)) for _ in range(2))
    red.visual.vertex_colors = [*RED, 255]  # type: ignore[union-attr]
    blue.visual.vertex_colors = [*BLUE, 255]  # type: ignore[union-attr]
    scene.add_geometry(red, transform=trimesh.transformations.translation_matrix([3, 0, 0]))
    scene.add_geometry(blue, transform=trimesh.transformations.scale_matrix(2))
    scene.export(tmp_path / "two.glb")
    mesh = load_mesh(tmp_path / "two.glb", fit="none")
    assert len(mesh.faces) == 24
    is_red = mesh.colours[:, 0] > 0.5
    assert mesh.vertices[is_red].min(0).tolist() == [-0.5, 2.5, -0.5]
    assert mesh.vertices[is_red].max(0).tolist() == [0.5, 3.5, 0.5]
    assert np.abs(mesh.vertices[~is_red]).max() == 1


def test_a_mirrored_scene_keeps_its_normals_outside(tmp_path: Path) -> None:
    ball = trimesh.creation.icosphere(subdivisions=2)
    ball.vertex_normals  # noqa: B018 (so that the file has them)
    scene = trimesh.Scene()
    scene.add_geometry(ball, transform=np.diag([-2.0, 1.0, 1.0, 1.0]))
    scene.export(tmp_path / "mirrored.glb", include_normals=True)
    mesh = load_mesh(tmp_path / "mirrored.glb", fit="none")
    assert ((mesh.normals * mesh.vertices).sum(-1) > 0).all()
    a, b, c = (mesh.vertices[mesh.faces[:, k]] for k in range(3))
    assert ((np.cross(b - a, c - a) * (a + b + c)).sum(-1) > 0).all()


def test_textures_and_their_coordinates(tmp_path: Path) -> None:
    for path in (textured_quad(tmp_path), textured_glb(tmp_path)):
        mesh = load_mesh(path)
        assert len(mesh.textures) == 1
        assert np.array_equal(mesh.textures[0][..., :3], FOUR)
        assert (mesh.colours == 1).all()  # an OBJ's Kd of 0 does not blacken its texture
        assert mesh.uvs is not None
        corner = np.argmin(mesh.vertices @ [0, 1, -1])  # left and top, seen from +x
        assert mesh.uvs[corner].tolist() == [0, 1]


def test_colours_of_faces_and_materials(tmp_path: Path) -> None:
    box = trimesh.creation.box()
    box.visual.face_colors = np.repeat([[*RED, 255], [*BLUE, 255]], 6, axis=0)  # type: ignore[union-attr]
    box.export(tmp_path / "faces.ply")
    mesh = load_mesh(tmp_path / "faces.ply")
    assert np.array_equal(mesh.colours[mesh.faces[0]], np.tile([1, 0, 0], (3, 1)))
    assert np.array_equal(mesh.colours[mesh.faces[-1]], np.tile([0, 0, 1], (3, 1)))
    (tmp_path / "m.mtl").write_text("newmtl a\nKd 0.2 0.4 0.6\n")
    path = written(tmp_path, "m.obj", f"mtllib m.mtl\nusemtl a\n{TETRAHEDRON}")
    assert np.allclose(load_mesh(path).colours, [0.2, 0.4, 0.6], atol=1e-6)


def test_gltf_factors_are_linear_light(tmp_path: Path) -> None:
    path = cube(tmp_path, "cube.glb")

    def give_material(header: dict[str, Any]) -> None:
        header["materials"] = [{"pbrMetallicRoughness": {"baseColorFactor": [1, 0.2140, 0, 1]}}]
        for primitive in header["meshes"][0]["primitives"]:
            primitive["material"] = 0
            primitive["attributes"].pop("COLOR_0", None)

    edit_glb(path, give_material)
    assert np.allclose(load_mesh(path).colours, [1, 0.5, 0], atol=1e-3)


def test_texture_transform(tmp_path: Path) -> None:
    plain = load_mesh(textured_glb(tmp_path)).uvs
    path = textured_glb(tmp_path)

    def move(header: dict[str, Any]) -> None:
        texture = header["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]
        texture["extensions"] = {"KHR_texture_transform": {"offset": [0.25, 0.5], "scale": [2, 1]}}

    edit_glb(path, move)
    moved = load_mesh(path).uvs
    assert plain is not None
    assert moved is not None
    assert np.allclose(moved[:, 0], 2 * plain[:, 0] + 0.25)
    assert np.allclose(moved[:, 1], plain[:, 1] - 0.5)  # the offset points down


def test_alpha_means_holes_only_where_a_material_says_so(tmp_path: Path) -> None:
    texels = np.dstack([FOUR, np.array([[255, 100], [50, 0]], np.uint8)])
    assert (load_mesh(textured_glb(tmp_path, texels)).textures[0][..., 3] == 255).all()
    masked = textured_glb(tmp_path, texels, {"alphaMode": "MASK", "alphaCutoff": 0.3})
    assert load_mesh(masked).textures[0][..., 3].tolist() == [[255, 255], [0, 0]]


def test_a_missing_texture_is_named(tmp_path: Path) -> None:
    path = textured_quad(tmp_path)
    (tmp_path / "quad.png").unlink()
    with pytest.raises(MeshError, match=r"refers to 'quad.png'.*missing.*--missing-texture colour"):
        load_mesh(path)
    mesh = load_mesh(path, missing_texture="colour")
    assert mesh.textures == ()
    assert mesh.notes == ("'quad.png' is missing: drawn in plain colour",)
    (tmp_path / "quad.mtl").unlink()
    with pytest.raises(MeshError, match=r"refers to 'quad.mtl'"):
        load_mesh(path)


def test_a_damaged_texture_counts_as_missing(tmp_path: Path) -> None:
    path = textured_quad(tmp_path)
    (tmp_path / "quad.png").write_bytes(b"not a picture")
    with pytest.raises(MeshError, match=r"'quad.png'.*missing or not a picture"):
        load_mesh(path)
    path = textured_glb(tmp_path)
    data = path.read_bytes()
    path.write_bytes(data.replace(b"\x89PNG", b"\x00PNG"))
    with pytest.raises(MeshError, match="the texture of material 0"):
        load_mesh(path)


def test_a_texture_cut_short(tmp_path: Path) -> None:
    path = textured_quad(tmp_path, np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    data = (tmp_path / "quad.png").read_bytes()
    (tmp_path / "quad.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(MeshError, match="damaged"):
        load_mesh(path)


@pytest.mark.parametrize(
    "reference", ["wood%20grain.png", "-s 1 1 1 wood.png", "maps\\wood.png", "C:\\x\\wood.png"]
)
def test_textures_by_any_exporters_spelling(tmp_path: Path, reference: str) -> None:
    path = textured_quad(tmp_path)
    (tmp_path / "maps").mkdir()
    for name in ("wood.png", "wood grain.png", "maps/wood.png"):
        (tmp_path / name).write_bytes((tmp_path / "quad.png").read_bytes())
    (tmp_path / "quad.mtl").write_text(f"newmtl paint\nmap_Kd {reference}\n")
    assert len(load_mesh(path).textures) == 1


def test_a_mesh_does_not_read_other_folders(tmp_path: Path) -> None:
    inside = tmp_path / "inside"
    inside.mkdir()
    path = textured_quad(inside)
    (inside / "quad.png").rename(tmp_path / "secret.png")
    (inside / "quad.mtl").write_text("newmtl paint\nmap_Kd ../secret.png\n")
    with pytest.raises(MeshError, match=r"secret\.png"):
        load_mesh(path)


def test_the_only_picture_beside_an_obj_without_material(tmp_path: Path) -> None:
    path = written(tmp_path, "quad.obj", QUAD)
    assert load_mesh(path).textures == ()
    Image.fromarray(FOUR).save(tmp_path / "skin.png")
    mesh = load_mesh(path)
    assert np.array_equal(mesh.textures[0][..., :3], FOUR)
    assert "skin.png" in mesh.notes[0]
    Image.fromarray(FOUR).save(tmp_path / "other.png")
    assert load_mesh(path).textures == ()


def test_huge_textures_are_reduced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastrecon.data.meshes.colours.TEXTURE_SIDE", 8)
    texture = load_mesh(textured_quad(tmp_path, np.tile(FOUR, (8, 16, 1)))).textures[0]
    assert texture.shape == (4, 8, 4)
    assert np.abs(texture[..., :3].astype(int) - FOUR.mean((0, 1))).max() <= 1


def test_normals_of_cubes_are_flat_and_of_spheres_smooth(tmp_path: Path) -> None:
    flat = load_mesh(cube(tmp_path))
    assert np.allclose(np.abs(flat.normals).max(-1), 1, atol=1e-6)
    ball = load_mesh(sphere(tmp_path, subdivisions=3))
    assert (ball.normals * ball.vertices).sum(-1).min() > 0.999


def test_corner_normals_of_a_roof() -> None:
    """Two faces that meet at 20 degrees share a normal at the ridge; at 90 they do not."""
    for degrees, shared in ((20, True), (90, False)):
        half = np.radians(degrees) / 2
        drop = np.tan(half)
        ridge = [[0, -1, 0], [0, 1, 0]]
        vertices = np.array([*ridge, [1, 0, -drop], [-1, 0, -drop]], float)
        normals = corner_normals(vertices, np.array([[0, 2, 1], [0, 1, 3]]))
        expected = [0, 0, 1] if shared else [np.sin(half), 0, np.cos(half)]
        assert np.allclose(normals[0, 0], expected)


def test_faces_wind_as_their_normals_say() -> None:
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]], float)
    down = np.tile([0.0, 0.0, -1.0], (3, 1))
    assert wind_by(down, vertices, np.array([[0, 1, 2]])).tolist() == [[2, 1, 0]]
    assert wind_by(-down, vertices, np.array([[0, 1, 2]])).tolist() == [[0, 1, 2]]


def test_normals_of_zero_in_a_file_are_replaced(tmp_path: Path) -> None:
    text = TETRAHEDRON.replace("f 1 3 2", "vn 0 0 0\nf 1//1 3//1 2//1")
    text = text.replace("f 1 2 4", "f 1//1 2//1 4//1").replace("f 2 3 4", "f 2//1 3//1 4//1")
    mesh = load_mesh(written(tmp_path, "t.obj", text.replace("f 1 4 3", "f 1//1 4//1 3//1")))
    assert np.allclose(np.linalg.norm(mesh.normals, axis=-1), 1)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ({"up": "x"}, "up must be"),
        ({"fit": "cube"}, "fit must be"),
        ({"max_faces": 0}, "max_faces must be at least 1"),
        ({"missing_texture": "grey"}, "missing_texture must be"),
    ],
)
def test_arguments(tmp_path: Path, argument: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_mesh(cube(tmp_path), **argument)


def test_scales_are_positive(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="factor must be positive"):
        load_mesh(cube(tmp_path)).scaled(0)
