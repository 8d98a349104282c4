"""Mesh files as an evaluation set: which are taken, how they stand, what is left out."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fastrecon.cameras import orbit_c2w
from fastrecon.data.meshes.mesh import load_mesh
from fastrecon.data.meshes.render import MeshRenderer, RenderError
from fastrecon.data.procedural.bounds import project
from fastrecon.data.render_set import RenderSetError
from fastrecon.evaluation.mesh_set import MeshSet, choose, placed, turned
from fastrecon.evaluation.subjects import Placement
from tests.data.meshes.made_meshes import BLUE, cube, sphere, textured_quad
from tests.micro import micro_config


@pytest.fixture(scope="module")
def can_draw() -> None:
    try:
        MeshRenderer().close()
    except RenderError as error:
        pytest.skip(f"meshes cannot be drawn here: {error}")


def test_small_folders_are_taken_whole_and_large_ones_sampled() -> None:
    found = {f"a{i}": Path(f"a/{i}.obj") for i in range(100)}
    found |= {f"b{i}": Path(f"b/{i}.obj") for i in range(7)} | {"c": Path("c/0.obj")}
    kept = choose(found, 20, seed=0)
    assert [sum(name[0] == folder for name in kept) for folder in "abc"] == [12, 7, 1]
    assert list(kept) == [name for name in found if name in kept]  # the order stays
    assert choose(found, 20, seed=0) == kept
    assert choose(found, 20, seed=1) != kept
    assert choose(found, 1000, seed=0) == found
    assert len(choose(found, 2, seed=0)) == 2


def test_a_quarter_turn_takes_the_front_to_the_right(tmp_path: Path) -> None:
    mesh = load_mesh(textured_quad(tmp_path))  # faces +x
    side = turned(mesh, math.pi / 2)
    assert side.normals[0] == pytest.approx([0, 1, 0], abs=1e-6)
    assert np.abs(side.vertices[:, 1]).max() < 1e-6
    point = np.array([1.0, 1.0, 0.0, 1.0])  # of the file
    moved = side.transform @ point
    assert np.linalg.norm(side.vertices - moved[:3], axis=1).min() < 1e-6


def test_placed_meshes_fill_the_picture_like_a_prepared_photograph(tmp_path: Path) -> None:
    model = micro_config(foreground_ratio=0.6)
    mesh = placed(turned(load_mesh(cube(tmp_path)), 0.3), Placement.of(model))
    camera = orbit_c2w(0.0, 0.0, model.camera_distance)[None, None]
    seen = project(torch.from_numpy(mesh.vertices)[None], camera)[0, 0]
    low, high = seen.amin(0), seen.amax(0)
    tangent = math.tan(math.radians(model.fov_deg) / 2)
    assert float((high - low).max()) == pytest.approx(2 * 0.6 * tangent, rel=1e-3)
    assert (low + high).tolist() == pytest.approx([0, 0], abs=1e-3)
    corner = mesh.transform @ np.array([1.0, 1, 1, 1])
    assert np.linalg.norm(mesh.vertices - corner[:3], axis=1).min() < 1e-5


@pytest.mark.usefixtures("can_draw")
def test_subjects_show_their_meshes(tmp_path: Path) -> None:
    cube(tmp_path, "blue.ply", BLUE)
    (subject,) = MeshSet([str(tmp_path)], 5, micro_config(), n_views=3, size=16)
    assert (subject.name, subject.rgba.shape) == ("blue", (4, 16, 16))
    assert subject.pictures.shape == (3, 3, 16, 16)
    assert subject.rgba[:, 8, 8].tolist()[:2] == pytest.approx([0, 0])
    assert subject.rgba[2, 8, 8] > 0.2
    assert subject.image()[:, 0, 0].tolist() == [0.5] * 3
    assert subject.pictures[:, :, 0, 0].tolist() == [[1.0] * 3] * 3
    assert subject.surface is not None
    points = subject.surface.sample(100, 0)
    assert np.linalg.norm(points, axis=1).max() < 0.92 * 0.75


@pytest.mark.usefixtures("can_draw")
def test_the_seed_decides_everything_and_others_nothing(tmp_path: Path) -> None:
    cube(tmp_path, "a.ply")

    def first(seed: int = 0) -> torch.Tensor:
        return next(iter(MeshSet([str(tmp_path)], 9, micro_config(), 2, 8, seed))).pictures

    alone = first()
    assert not torch.equal(alone, first(1))
    sphere(tmp_path, "b.ply", 1)
    assert torch.equal(alone, first())


@pytest.mark.usefixtures("can_draw")
def test_what_cannot_be_used_is_noted(tmp_path: Path) -> None:
    cube(tmp_path, "good.ply")
    (tmp_path / "broken.glb").write_bytes(b"glTF, but no more")
    # horizontal, seen edge-on by the horizontal input camera
    (tmp_path / "flat.obj").write_text("v -1 0 -1\nv 1 0 -1\nv 1 0 1\nf 1 2 3\n")
    subjects = MeshSet([str(tmp_path)], 9, micro_config(), 2, 8)
    assert [subject.name for subject in subjects] == ["good"]
    reasons = dict(subjects.skipped)
    assert set(reasons) == {"broken", "flat"}
    assert "thinner than a pixel" in reasons["flat"]
    assert len(subjects) == 3
    list(subjects)
    assert len(subjects.skipped) == 2  # not twice


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(RenderSetError, match="nowhere does not exist"):
        MeshSet([str(tmp_path / "nowhere")], 9, micro_config(), 2, 8)
