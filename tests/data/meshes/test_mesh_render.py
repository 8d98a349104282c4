"""Pictures of meshes: exact where arithmetic says what they are, and alike from both backends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from fastrecon.cameras import camera_rays, orbit_c2w
from fastrecon.data.meshes.gl import GLBackend, clip_matrix
from fastrecon.data.meshes.mesh import Mesh, load_mesh
from fastrecon.data.meshes.render import (
    SOFT,
    UNLIT,
    Lighting,
    MeshRenderer,
    RenderError,
    with_fitting_textures,
)
from fastrecon.data.procedural.scene import Pictures
from tests.data.meshes.made_meshes import FOUR, cube, sphere, textured_glb, textured_quad

FRONT = orbit_c2w(0.0, 0.0, 3.0)[None]
AROUND = orbit_c2w(torch.tensor([0.3, 2.0, 4.4]), torch.tensor([0.4, -0.5, 1.2]), 3.0)


@pytest.fixture(scope="module", params=["egl", "rays"])
def renderer(request: pytest.FixtureRequest) -> Iterator[MeshRenderer]:
    yield from started(request.param, UNLIT)


@pytest.fixture(scope="module")
def egl() -> Iterator[MeshRenderer]:
    yield from started("egl", SOFT)


@pytest.fixture(scope="module")
def rays() -> Iterator[MeshRenderer]:
    yield from started("rays", SOFT)


def started(backend: str, lighting: Lighting) -> Iterator[MeshRenderer]:
    try:
        renderer = MeshRenderer(backend, lighting)  # type: ignore[arg-type]
    except RenderError as error:
        pytest.skip(str(error))
    with renderer:
        yield renderer


def covered(pictures: Pictures) -> Tensor:
    return pictures.rgba[:, :, 3] == 1


def rolled(mesh: Mesh, matrix: np.ndarray) -> Mesh:
    """The mesh, rotated."""
    turn = matrix.astype(np.float32)
    return replace(mesh, vertices=mesh.vertices @ turn.T, normals=mesh.normals @ turn.T)


def test_texels_appear_where_they_should(renderer: MeshRenderer, tmp_path: Path) -> None:
    """A quad over [-1, 1]^2 of 2 x 2 texels, seen from the front: its quarters are the texels."""
    for path in (textured_quad(tmp_path), textured_glb(tmp_path)):
        mesh = load_mesh(path, fit="none")
        pictures = renderer.render(mesh, FRONT, 64, 2 * np.rad2deg(np.arctan(1 / 3)))
        assert pictures.rgba.shape == (1, 1, 4, 64, 64)
        assert pictures.depth.shape == (1, 1, 64, 64)
        assert pictures.normal.shape == (1, 1, 3, 64, 64)
        assert (pictures.rgba[0, 0, 3] == 1).all()
        # a texel's very colour is at its centre, a quarter of the picture from the border
        seen = pictures.rgba[0, 0, :3, 15:49:33, 15:49:33].permute(1, 2, 0) * 255
        assert torch.allclose(seen, torch.from_numpy(FOUR).float(), atol=9)
        assert torch.allclose(pictures.normal[0, 0, 0], torch.tensor(1.0))


def test_a_fine_texture_texel_for_pixel(renderer: MeshRenderer, tmp_path: Path) -> None:
    texels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    mesh = load_mesh(textured_quad(tmp_path, texels), fit="none")
    pictures = renderer.render(mesh, FRONT, 16, 2 * np.rad2deg(np.arctan(1 / 3)), supersample=1)
    seen = pictures.rgba[0, 0, :3].permute(1, 2, 0) * 255
    assert torch.allclose(seen, torch.from_numpy(texels).float(), atol=1.01)


def test_depth_and_normals_of_a_cube(renderer: MeshRenderer, tmp_path: Path) -> None:
    mesh = load_mesh(cube(tmp_path), fit="box").scaled(0.5)
    pictures = renderer.render(mesh, AROUND, 48, 40.0, supersample=1)
    rays_o, rays_d = camera_rays(AROUND, 48, 48, 40.0)
    near, far = torch.sort(torch.stack([(s - rays_o) / rays_d for s in (-0.5, 0.5)]), 0).values
    entry, axis = near.max(-1)
    hit = entry < far.min(-1).values
    seen = covered(pictures)[0]
    assert (seen != hit).float().mean() < 2e-3  # rays along an edge
    both = seen & hit
    assert torch.allclose(pictures.depth[0][both], entry[both], atol=2e-5)
    expected = torch.nn.functional.one_hot(axis, 3) * -rays_d.sign()
    wrong = (pictures.normal[0].permute(0, 2, 3, 1) - expected)[both].abs().amax(-1) > 1e-5
    assert wrong.float().mean() < 2e-3
    assert (pictures.depth[0][~seen] == 0).all()
    assert torch.allclose(pictures.rgba[0, :, 0][seen], torch.tensor(1.0))


def test_depth_and_normals_of_a_sphere(renderer: MeshRenderer, tmp_path: Path) -> None:
    mesh = load_mesh(sphere(tmp_path)).scaled(0.5)
    pictures = renderer.render(mesh, AROUND, 48, 40.0)
    rays_o, rays_d = camera_rays(AROUND, 48, 48, 40.0)
    along = -(rays_o * rays_d).sum(-1)
    inside = 0.25 - ((rays_o**2).sum(-1) - along**2)
    seen = covered(pictures)[0]
    assert torch.equal(seen & (inside < -0.02), torch.zeros_like(seen))
    middle = seen & (inside > 0.05)
    depth = along - inside.clamp_min(0).sqrt()
    assert middle.float().mean() > 0.1
    assert torch.allclose(pictures.depth[0][middle], depth[middle], atol=4e-3)
    points = rays_o + depth[..., None] * rays_d
    agreement = (pictures.normal[0].permute(0, 2, 3, 1) * points / 0.5).sum(-1)
    assert agreement[middle].min() > 0.9995


def test_edges_are_straight_alpha(renderer: MeshRenderer, tmp_path: Path) -> None:
    mesh = load_mesh(cube(tmp_path, colour=(51, 102, 204)))
    pictures = renderer.render(mesh, AROUND, 32, 60.0, supersample=2)
    alpha = pictures.rgba[0, :, 3]
    assert set(alpha.unique().tolist()) == {0.0, 0.25, 0.5, 0.75, 1.0}
    partly = (alpha > 0) & (alpha < 1)
    colours = pictures.rgba[0, :, :3].permute(0, 2, 3, 1)
    assert torch.allclose(colours[partly], torch.tensor([0.2, 0.4, 0.8]), atol=1e-5)
    empty = alpha == 0
    assert (colours[empty] == 0).all()
    assert (pictures.depth[0][empty] == 0).all()
    assert (pictures.normal[0].permute(0, 2, 3, 1)[empty] == 0).all()
    lengths = pictures.normal[0].norm(dim=1)
    assert torch.allclose(lengths[~empty], torch.tensor(1.0), atol=1e-5)
    depth = pictures.depth[0][partly]  # never a mean with the nothing behind
    assert depth.min() > 1.99
    assert depth.max() < 4.01


def test_surfaces_have_two_sides(renderer: MeshRenderer, tmp_path: Path) -> None:
    mesh = load_mesh(textured_quad(tmp_path))
    behind = orbit_c2w(torch.pi, 0.0, 3.0)[None]
    pictures = renderer.render(mesh, torch.cat([FRONT, behind]), 16, 60.0)
    assert pictures.normal[0, 0, 0, 8, 8] == pytest.approx(1)
    assert pictures.normal[0, 1, 0, 8, 8] == pytest.approx(-1)
    assert torch.allclose(pictures.rgba[0, 1].flip(-1), pictures.rgba[0, 0], atol=1e-5)


def test_light(tmp_path: Path) -> None:
    """Ambient 0.3 and one light of 0.6 at 60 degrees to the face: 0.3 + 0.6 / 2."""
    mesh = load_mesh(textured_quad(tmp_path, np.full((2, 2, 3), 255, np.uint8)))
    light = Lighting(0.3, ((1.0, 0.0, 3**0.5, 0.6),))
    for backend in ("egl", "rays"):
        for renderer in started(backend, light):
            seen = renderer.render(mesh, FRONT, 8, 30.0).rgba[0, 0, :3, 4, 4]
            assert torch.allclose(seen, torch.full((3,), 0.6), atol=1e-5)


def test_light_never_clips() -> None:
    with pytest.raises(ValueError, match="add up to at most 1"):
        Lighting(0.5, ((0, 0, 1, 0.4), (0, 1, 0, 0.2)))
    with pytest.raises(ValueError, match="not be negative"):
        Lighting(-0.1, ())
    assert SOFT.ambient + np.linalg.norm(SOFT.vectors(), axis=-1).sum() <= 1 + 1e-6


def test_holes_show_what_is_behind(renderer: MeshRenderer, tmp_path: Path) -> None:
    """Two quads, the front one with a hole in its left half, the back one plain."""
    texels = np.zeros((1, 2, 4), np.uint8)
    texels[0, :] = [255, 0, 0, 255]
    texels[0, 0, 3] = 0
    front = load_mesh(textured_glb(tmp_path, texels, {"alphaMode": "MASK"}), fit="none")
    n = len(front.vertices)
    assert front.uvs is not None
    behind = np.array([0.5, 0, 0], np.float32)
    both = replace(
        front,
        vertices=np.concatenate([front.vertices, front.vertices - behind]),
        faces=np.concatenate([front.faces + n, front.faces]),
        normals=np.tile(front.normals, (2, 1)),
        colours=np.concatenate([front.colours, front.colours * np.array([0, 1, 1], np.float32)]),
        uvs=np.tile(front.uvs, (2, 1)),
        face_textures=np.array([-1, -1, 0, 0], np.int32),
    )
    pictures = renderer.render(both, FRONT, 32, 30.0)
    left, right = pictures.rgba[0, 0, :, 16, 9], pictures.rgba[0, 0, :, 16, 22]
    assert torch.allclose(left, torch.tensor([0.0, 1, 1, 1]))
    assert torch.allclose(right, torch.tensor([1.0, 0, 0, 1]))
    assert pictures.depth[0, 0, 16, 9] > pictures.depth[0, 0, 16, 22] + 0.4


def test_both_backends_draw_the_same(egl: MeshRenderer, rays: MeshRenderer, tmp_path: Path) -> None:
    texels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    for path in (cube(tmp_path), sphere(tmp_path, subdivisions=2), textured_quad(tmp_path, texels)):
        mesh = rolled(load_mesh(path), turn * np.sign(np.linalg.det(turn)))
        ours, theirs = (r.render(mesh, AROUND, 64, 45.0) for r in (egl, rays))
        alpha = (ours.rgba[:, :, 3] - theirs.rgba[:, :, 3]).abs()
        assert alpha.max() <= 0.5  # a sample or two on a silhouette
        assert (alpha > 0).float().mean() < 1e-3
        inside = covered(ours) & covered(theirs)
        assert inside.float().mean() > 0.05
        for a, b, tolerance in (
            (ours.rgba[:, :, :3], theirs.rgba[:, :, :3], 4e-3),  # drivers blend texels in 8 bits
            (ours.depth[:, :, None], theirs.depth[:, :, None], 1e-4),
            (ours.normal, theirs.normal, 1e-3),
        ):
            differs = (a - b).abs().amax(2)[inside] > tolerance
            assert differs.float().mean() < 1e-3  # samples on edges between faces


def test_textures_fit_their_pictures(renderer: MeshRenderer, tmp_path: Path) -> None:
    """A chequered texture of 512 texels in 16 pixels is an even grey, not a moiré."""
    board = np.where(np.indices((512, 512)).sum(0) % 2, 255, 0).astype(np.uint8)
    mesh = load_mesh(textured_quad(tmp_path, np.repeat(board[..., None], 3, 2)))
    seen = renderer.render(mesh, FRONT, 16, 40.0).rgba[0, 0, :3, 5:11, 5:11]
    assert torch.allclose(seen, torch.full_like(seen, 0.5), atol=0.01)


def test_textures_are_not_reduced_without_need(tmp_path: Path) -> None:
    mesh = load_mesh(textured_quad(tmp_path, np.tile(FOUR, (8, 8, 1))))
    near, far = (orbit_c2w(0.0, 0.0, d)[None].double().numpy() for d in (3.0, 30.0))
    assert with_fitting_textures(mesh, near, 100.0).textures[0].shape == (16, 16, 4)
    assert with_fitting_textures(mesh, far, 100.0).textures[0].shape == (8, 8, 4)


def test_a_camera_inside_sees_the_walls(renderer: MeshRenderer, tmp_path: Path) -> None:
    mesh = load_mesh(cube(tmp_path), fit="box")
    c2w = orbit_c2w(0.0, 0.0, 0.5)[None]
    pictures = renderer.render(mesh, c2w, 16, 90.0)
    assert (pictures.rgba[:, :, 3] == 1).all()
    assert pictures.depth[0, 0, 8, 8] == pytest.approx(1.5, abs=0.02)


def test_no_cameras_and_many(renderer: MeshRenderer, tmp_path: Path) -> None:
    mesh = load_mesh(cube(tmp_path))
    assert renderer.render(mesh, FRONT[:0], 8, 40.0).rgba.shape == (1, 0, 4, 8, 8)
    one = renderer.render(mesh, AROUND[1:2], 20, 40.0, supersample=3)
    many = renderer.render(mesh, AROUND, 20, 40.0, supersample=3)
    assert torch.equal(one.rgba[:, 0], many.rgba[:, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"c2w": FRONT[0]}, r"c2w must be \(V, 4, 4\)"),
        ({"c2w": FRONT * float("nan")}, "c2w must be finite"),
        ({"size": 0}, "at least one pixel"),
        ({"fov_deg": 180.0}, "between 0 and 180"),
        ({"supersample": 0}, "supersample must be at least 1"),
        ({"size": 5000}, "at most 8192"),
    ],
)
def test_arguments(renderer: MeshRenderer, tmp_path: Path, change: dict, message: str) -> None:
    arguments = {"mesh": load_mesh(cube(tmp_path)), "c2w": FRONT, "size": 8, "fov_deg": 40.0}
    with pytest.raises(ValueError, match=message):
        renderer.render(**(arguments | change))


def test_near_and_far_hold_the_sphere() -> None:
    camera = AROUND[0].double().numpy()
    matrix = clip_matrix(camera, 0.8, 40.0)
    towards = camera[:3, 3] / np.linalg.norm(camera[:3, 3])
    for point, sign in ((0.8 * towards, -1), (-0.8 * towards, 1)):
        clip = matrix @ np.append(point, 1)
        assert 0.9 < sign * float(clip[2] / clip[3]) <= 1.0


def test_without_egl_rays_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: GLBackend) -> None:
        raise RuntimeError("libEGL.so.1: cannot open shared object file")

    monkeypatch.setattr(GLBackend, "__init__", fail)
    monkeypatch.setitem(sys.modules, "moderngl", type(sys)("moderngl"))
    with pytest.warns(RuntimeWarning, match=r"slow.*libEGL.so.1.*libegl1 libegl-mesa0"):
        assert MeshRenderer("auto").backend == "rays"
    with pytest.raises(RenderError, match="apt-get install libegl1"):
        MeshRenderer("egl")


def test_without_moderngl_rays_take_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "moderngl", None)
    with pytest.warns(RuntimeWarning, match=r'moderngl is not installed.*"fastrecon\[data\]"'):
        assert MeshRenderer().backend == "rays"
    monkeypatch.setitem(sys.modules, "embreex", None)
    with pytest.raises(RenderError, match=r'embreex is not installed.*"fastrecon\[data\]"'):
        MeshRenderer("rays")
    with pytest.raises(ValueError, match='backend must be "auto"'):
        MeshRenderer("vulkan")  # type: ignore[arg-type]


def test_renderers_live_beside_each_other(egl: MeshRenderer, tmp_path: Path) -> None:
    mesh = load_mesh(cube(tmp_path))
    before = egl.render(mesh, FRONT, 16, 40.0).rgba
    with MeshRenderer("egl") as other:
        assert torch.equal(other.render(mesh, FRONT, 16, 40.0).rgba, before)
    other.close()
    with pytest.raises(RuntimeError, match="closed"):
        other.render(mesh, FRONT, 16, 40.0)
    assert torch.equal(egl.render(mesh, FRONT, 16, 40.0).rgba, before)
