"""Real3D in miniature: its arms, its split, its photographs, its judge."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fastrecon.config import Config
from fastrecon.config.checks import check_config
from fastrecon.data.meshes.mesh import load_mesh
from fastrecon.data.meshes.render import MeshRenderer, RenderError
from fastrecon.experiments.experiment import ExperimentError
from fastrecon.experiments.photographs import Photographs, lighting, photograph, tilted
from fastrecon.experiments.real3d import CLIP_ARMS, REAL3D_ARMS, Real3DMini, evaluate, split
from fastrecon.models.lrm import LRM
from fastrecon.recipes import real3d_small
from tests.data.meshes.made_meshes import BLUE, cube
from tests.micro import micro_config


@pytest.fixture(scope="module")
def can_draw() -> None:
    try:
        MeshRenderer().close()
    except RenderError as error:
        pytest.skip(f"meshes cannot be drawn here: {error}")


def meshes(folder: Path, count: int = 6) -> Path:
    """Cubes of different colours in two folders."""
    for k, kind in enumerate(("blue", "green")):
        (folder / kind).mkdir(parents=True)
        for i in range(count):
            cube(folder / kind, f"{kind}{i}.ply", (20 * i, 200 * k, 200 - 200 * k))
    return folder


def test_every_arm_changes_what_its_name_says() -> None:
    full = real3d_small()
    full = replace(full, data=replace(full.data, photos="somewhere"))
    arms = {name: arm.change(full) for name, arm in (REAL3D_ARMS | CLIP_ARMS).items()}
    tasks = {name: cfg.self_training for name, cfg in arms.items()}
    for name in set(arms) - {"base"}:
        check_config(arms[name])
    assert arms["base"].optim.steps == 0
    assert {cfg.optim.steps for name, cfg in arms.items() if name != "base"} == {full.optim.steps}
    assert tasks["synthetic"].photos == 0
    task = tasks["input"]
    assert (task.cycle_rgb, task.cycle_mask, task.cycle_perceptual, task.semantic) == (0, 0, 0, 0)
    assert task.input_rgb > 0
    assert tasks["pix"].cycle_rgb > 0
    assert tasks["pix"].cycle_limits[0] < tasks["pix"].cycle_limits[1]
    assert len(set(tasks["pix-flat"].cycle_limits)) == 1
    assert (tasks["pix"].stop_gradient, tasks["end-to-end"].stop_gradient) == (True, False)
    assert [arms[a].data.photo_share for a in ("pix", "pix-50", "pix-25")] == [1.0, 0.5, 0.25]
    assert (tasks["sem"].semantic_hardest, tasks["sem-naive"].semantic_hardest) == (True, False)
    semantic = {name for name, task in tasks.items() if task.semantic}
    assert semantic == set(CLIP_ARMS)


def test_arms_with_clip_need_its_weights() -> None:
    options = Real3DMini()
    assert list(options.experiment().arms) == list(REAL3D_ARMS)
    networks = replace(options.config.networks, clip_weights="clip.pt")
    options = replace(options, config=replace(options.config, networks=networks))
    assert list(options.experiment().arms) == [*REAL3D_ARMS, *CLIP_ARMS]


def test_no_held_out_mesh_is_ever_photographed(tmp_path: Path) -> None:
    folder = meshes(tmp_path)
    held_out, training = split([str(folder)], 4, seed=0)
    assert len(held_out) == 4
    assert {path.parent.name for path in held_out.values()} == {"blue", "green"}
    assert not set(held_out) & set(training)
    assert len(held_out) + len(training) == 12
    # nor a copy of one under another name
    path = next(iter(held_out.values()))
    (path.parent / "zz_copy.ply").write_bytes(path.read_bytes())
    held_out, training = split([str(folder)], 4, seed=0)
    files = {path.read_bytes() for path in held_out.values()}
    assert not files & {path.read_bytes() for path in training.values()}
    assert split([str(folder)], 4, seed=1)[0] != held_out
    with pytest.raises(ExperimentError, match="too few to hold out 9"):
        split([str(folder)], 9, seed=0)


def test_at_most_half_of_a_folder_is_held_out(tmp_path: Path) -> None:
    (tmp_path / "few").mkdir()
    for k in range(4):
        cube(tmp_path / "few", f"f{k}.ply", (k, 0, 0))
    (tmp_path / "many").mkdir()
    for k in range(20):
        cube(tmp_path / "many", f"m{k}.ply", (k, 1, 0))
    held_out, training = split([str(tmp_path)], 10, seed=0)
    assert sum("few" in name for name in held_out) == 2
    assert sum("few" in name for name in training) == 2


def test_lights_never_clip_colours() -> None:
    for seed in range(50):
        light = lighting(np.random.default_rng(seed))  # checks itself
        assert 2 <= len(light.lights) <= 3


def test_looking_down_shows_the_top(tmp_path: Path) -> None:
    mesh = load_mesh(cube(tmp_path))
    top = mesh.normals[:, 2] > 0.99
    down = tilted(mesh, np.radians(30.0))
    assert down.normals[top, 0] == pytest.approx(np.full(top.sum(), 0.5), abs=1e-5)
    point = np.array([1.0, 1.0, 1.0, 1.0])
    moved = down.transform @ point
    assert np.linalg.norm(down.vertices - moved[:3], axis=1).min() < 1e-5


@pytest.mark.usefixtures("can_draw")
def test_photographs_differ_and_are_made_once(tmp_path: Path) -> None:
    mesh, model = load_mesh(cube(tmp_path, "blue.ply", BLUE)), micro_config()
    with MeshRenderer() as renderer:
        first = photograph(renderer, mesh, model, 24, "0/a")
        assert np.array_equal(first, photograph(renderer, mesh, model, 24, "0/a"))
        assert not np.array_equal(first, photograph(renderer, mesh, model, 24, "0/b"))
    assert (first.shape, first.dtype) == ((24, 24, 4), np.uint8)
    solid = first[..., 3] == 255
    assert 0.05 < solid.mean() < 0.95
    assert first[solid][:, 2].min() > 40  # lit, and blue
    assert first[solid][:, :2].max() == 0

    (tmp_path / "broken.glb").write_bytes(b"glTF, but no more")
    files = {"blue": tmp_path / "blue.ply", "broken": tmp_path / "broken.glb"}
    photographs = Photographs(files, tmp_path / "out" / "photos", model, 24, 0)
    assert photographs.missing() == ["blue", "broken"]
    assert list(photographs.render()) == ["broken"]
    (picture,) = (tmp_path / "out" / "photos").iterdir()
    with Image.open(picture) as image:
        assert (image.mode, image.size) == ("RGBA", (24, 24))
    assert photographs.missing() == []
    before = picture.stat().st_mtime_ns
    assert list(photographs.render()) == ["broken"]
    assert picture.stat().st_mtime_ns == before
    with pytest.raises(ExperimentError, match="made otherwise"):
        replace(photographs, seed=1).render()


@pytest.mark.usefixtures("can_draw")
def test_the_judge_scores_every_held_out_mesh(tmp_path: Path) -> None:
    cfg = real3d_small()
    cfg = replace(cfg, model=micro_config(), run=replace(cfg.run, out=str(tmp_path / "out")))
    options = Real3DMini(
        meshes=(str(meshes(tmp_path / "meshes", 3)),),
        objects=3,
        views=2,
        size=8,
        resolution=8,
        points=50,
        config=cfg,
    )
    prepared = options.experiment().prepare(False)
    assert isinstance(prepared.config, Config)
    assert prepared.config.data.photos == str(tmp_path / "out" / "photos")
    assert prepared.conditions["photographs"] == 3
    scores = evaluate(LRM(cfg.model).eval(), prepared.config, prepared.settings)
    assert set(scores) == {"psnr", "ssim", "chamfer", "fscore"}
    for values in scores.values():
        assert set(values) == set(prepared.settings["meshes"])
    assert all(value is not None and value > 0 for value in scores["psnr"].values())


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"views": 0}, "--views must be at least 1"),
        ({"objects": 0}, "--objects must be at least 1"),
        ({"photos": 0}, "--self-training.photos must be at least 1"),
        ({"own": "x"}, "--data.photos is what this experiment makes"),
    ],
)
def test_requests_that_make_no_sense(changed: dict, words: str) -> None:
    cfg = real3d_small()
    photos, own = changed.pop("photos", 4), changed.pop("own", "")
    cfg = replace(
        cfg,
        self_training=replace(cfg.self_training, photos=photos),
        data=replace(cfg.data, photos=own),
    )
    with pytest.raises(ValueError, match=words):
        Real3DMini(config=cfg, **changed).check()


def test_meshes_must_be_named_where_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastrecon.experiments.real3d.MESHES", Path("nowhere"))
    with pytest.raises(ExperimentError, match="with --meshes"):
        Real3DMini().experiment().prepare(True)
