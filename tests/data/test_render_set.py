"""`fastrecon data render` from the outside: meshes in, folders out, whatever happens between."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from fastrecon.cli import main
from fastrecon.data import render_set as module
from fastrecon.data.layouts import read_nerf, read_zero123
from fastrecon.data.meshes.render import MeshRenderer
from fastrecon.data.render_options import RenderOptions
from fastrecon.data.render_set import find_meshes
from tests.data.meshes.made_meshes import BLUE, GREEN, RED, cube, textured_quad

QUICK = ["--views", "3", "--size", "16", "--backend", "rays"]
ROOT = Path(__file__).parents[2]


@pytest.fixture
def meshes(tmp_path: Path) -> Path:
    folder = tmp_path / "meshes"
    (folder / "deep").mkdir(parents=True)
    for name, colour in (("a.ply", RED), ("b.obj", GREEN), ("deep/c.glb", BLUE)):
        cube(folder, name, colour)
    (folder / "notes.txt").write_text("no mesh")
    return folder


def render(*arguments: object) -> int:
    return main(["data", "render", *map(str, arguments), *QUICK])


def manifest(out: Path) -> dict[str, dict]:
    lines = (out / "manifest.jsonl").read_text().splitlines()
    return {line["name"]: line for line in map(json.loads, lines)}


def snapshot(out: Path) -> dict[str, int]:
    """Every file of the objects, and when it was written."""
    return {
        str(path.relative_to(out)): path.stat().st_mtime_ns
        for path in out.rglob("*")
        if path.is_file() and path.parent != out
    }


def test_folders_files_and_globs(meshes: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert render(meshes, "-o", out) == 0
    assert "3 meshes: 3 rendered, 0 already there, 0 failed" in capsys.readouterr().out
    for name, colour in (("a", RED), ("b", GREEN), ("deep__c", BLUE)):
        views = read_zero123(out / name)
        assert views.rgba.shape == (3, 4, 16, 16)
        assert torch.allclose(views.c2w, read_nerf(out / name).c2w, atol=1e-12)
        hue = views.rgba[0, :3, 8, 8]
        assert torch.equal(hue > 0, torch.tensor(colour) > 0)
        assert views.depth is not None
        assert 1.2 < views.depth[0, 8, 8] < 1.9
    lines = manifest(out)
    assert list(lines) == ["a", "b", "deep__c"]
    assert lines["a"]["status"] == "ok"
    assert (lines["a"]["faces"], lines["a"]["views"]) == (12, 3)
    assert list(find_meshes([str(meshes / "*.ply"), str(meshes / "b.obj")])) == ["a", "b"]


def test_the_object_fits_every_picture(meshes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    argv = ["data", "render", str(meshes / "a.ply"), "-o", str(out), "--size", "96"]
    argv += ["--views", "3", "--elevations", "-60", "0", "45", "--backend", "rays"]
    assert main(argv) == 0
    views = read_nerf(out / "a")
    assert len(views.c2w) == 9
    border = torch.ones(96, 96, dtype=torch.bool)
    border[1:-1, 1:-1] = False
    assert (views.rgba[:, 3][:, border] == 0).all()
    assert (views.rgba[:, 3].amax((-1, -2)) == 1).all()
    assert (views.c2w[:, :3, 3].norm(dim=-1) - 1.9).abs().max() < 1e-6
    said = json.loads((out / "a" / "transforms.json").read_text())
    corner = np.array(said["mesh_to_world"]) @ [1, 1, 1, 1]
    assert np.linalg.norm(corner[:3]) == pytest.approx(said["radius"])


def test_random_cameras_are_each_objects_own(meshes: Path) -> None:
    options = RenderOptions((str(meshes),), cameras="random", views=50, elevations=(-30, 60))
    cameras = options.c2w("a")
    assert torch.equal(cameras, options.c2w("a"))
    assert not torch.equal(cameras, options.c2w("b"))
    height = cameras[:, 2, 3] / 1.9
    assert -0.5001 <= height.min() < -0.3
    assert 0.7 < height.max() <= 0.8661
    other = RenderOptions((str(meshes),), cameras="random", views=50, seed=1)
    assert not torch.equal(cameras, other.c2w("a"))


def test_a_damaged_mesh_does_not_stop_the_others(meshes: Path, tmp_path: Path, capsys) -> None:
    (meshes / "aa.glb").write_bytes(b"glTF")
    textured_quad(meshes, name="quad")
    (meshes / "quad.png").unlink()
    out = tmp_path / "out"
    assert render(meshes, "-o", out) == 1
    said = capsys.readouterr().out
    assert "5 meshes: 3 rendered, 0 already there, 2 failed" in said
    assert "manifest.jsonl" in said
    lines = manifest(out)
    assert lines["aa"]["status"] == "failed"
    assert "cut short" in lines["aa"]["reason"]
    assert "quad.png" in lines["quad"]["reason"]
    assert not (out / "aa").exists()
    cube(meshes, "aa.glb")  # mended: the next run takes it up
    assert render(meshes, "-o", out) == 1
    assert "5 meshes: 1 rendered, 3 already there, 1 failed" in capsys.readouterr().out
    assert manifest(out)["aa"]["status"] == "ok"


def test_missing_textures_in_plain_colour(tmp_path: Path) -> None:
    path = textured_quad(tmp_path)
    (tmp_path / "quad.png").unlink()
    assert render(path, "-o", tmp_path / "out", "--missing-texture", "colour") == 0
    assert "quad.png" in manifest(tmp_path / "out")["quad"]["notes"][0]


def test_a_second_run_redoes_nothing(
    meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    assert render(meshes, "-o", out) == 0
    before = snapshot(out)

    def unneeded(*arguments: object) -> MeshRenderer:
        raise AssertionError("a finished set starts no renderer")

    monkeypatch.setattr(module, "MeshRenderer", unneeded)
    assert render(meshes, "-o", out) == 0
    assert snapshot(out) == before


def test_interrupted_in_the_middle_of_an_object(
    meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The power fails while b's files are written: a stays, b is redone, nothing is half there."""
    out, write = tmp_path / "out", module.write_flushed

    def power_cut(path: Path, data: bytes) -> None:
        write(path, data)
        if path.name == "001.png" and ".partial-b" in str(path):
            raise SystemExit(9)

    monkeypatch.setattr(module, "write_flushed", power_cut)
    # what a killed process cannot do either: tidy up
    monkeypatch.setattr("fastrecon.data.folders.shutil.rmtree", lambda *a, **k: None)
    with pytest.raises(SystemExit):
        render(meshes, "-o", out)
    monkeypatch.undo()
    assert sorted(p.name for p in out.iterdir() if p.is_dir())[1:] == ["a"]
    assert list(out.glob(".partial-b*/001.png"))
    before = snapshot(out)
    assert render(meshes, "-o", out) == 0
    assert not list(out.glob(".partial-*"))
    after = snapshot(out)
    assert all(after[name] == before[name] for name in before if name.startswith("a/"))
    assert set(manifest(out)) == {"a", "b", "deep__c"}
    assert len(read_nerf(out / "b").c2w) == 3


def test_a_line_that_the_manifest_lacks_comes_back(meshes: Path, tmp_path: Path) -> None:
    """Killed between an object's folder and its line, and in the middle of a line."""
    out = tmp_path / "out"
    assert render(meshes, "-o", out) == 0
    whole = (out / "manifest.jsonl").read_text()
    (out / "manifest.jsonl").write_text(whole[: len(whole) // 2])
    assert render(meshes, "-o", out) == 0
    assert (out / "manifest.jsonl").read_text() == whole


def test_told_to_stop_between_objects(
    meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """SIGTERM while b is drawn: b is finished, the next run does the rest."""
    out, draw = tmp_path / "out", module._render

    def told(renderer: MeshRenderer, name: str, path: Path, options: RenderOptions):
        if name == "b":
            signal.raise_signal(signal.SIGTERM)
        return draw(renderer, name, path, options)

    monkeypatch.setattr(module, "_render", told)
    assert render(meshes, "-o", out) == 128 + signal.SIGTERM
    assert "stopped; 2 of 3 meshes done, all files whole" in capsys.readouterr().out
    monkeypatch.undo()
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["a", "b"]
    before = snapshot(out)
    assert render(meshes, "-o", out) == 0
    assert "3 meshes: 1 rendered, 2 already there" in capsys.readouterr().out
    assert {name: snapshot(out)[name] for name in before} == before


def test_other_settings_are_refused(meshes: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    assert render(meshes, "-o", out) == 0
    before = snapshot(out)
    assert render(meshes, "-o", out, "--fov", "50", "--light", "none") == 1
    said = capsys.readouterr().err
    assert "--fov 40.0 there, 50.0 now; --light soft there, none now" in said
    assert "another --out" in said
    (out / "settings.json").write_text("{")
    assert render(meshes, "-o", out) == 1
    assert "settings.json is damaged" in capsys.readouterr().err
    (out / "settings.json").unlink()
    assert render(meshes, "-o", out) == 1
    assert "settings.json is missing although objects are there" in capsys.readouterr().err
    assert snapshot(out) == before


def test_a_full_disk(meshes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    out, write = tmp_path / "out", module.write_flushed

    def full(path: Path, data: bytes) -> None:
        if ".partial-b" in str(path) and path.name == "002.png":
            raise OSError(28, "No space left on device")
        write(path, data)

    monkeypatch.setattr(module, "write_flushed", full)
    assert render(meshes, "-o", out) == 1
    said = capsys.readouterr().err
    assert f"no room in {out}" in said
    assert "Traceback" not in said
    assert sorted(p.name for p in out.iterdir() if p.is_dir()) == ["a"]
    monkeypatch.undo()
    assert render(meshes, "-o", out) == 0


@pytest.mark.skipif(os.name == "nt", reason="folders are locked on POSIX systems only")
def test_two_runs_into_one_folder(meshes: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "out"
    out.mkdir()
    with module.only_run(out, module.RenderSetError):
        assert render(meshes, "-o", out) == 1
    assert "another run is writing to" in capsys.readouterr().err
    assert render(meshes, "-o", out) == 0


def test_shards(meshes: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert render(meshes, "-o", out, "--shards", "100") == 0
    index = json.loads((out / "shards" / "shards.json").read_text())
    assert index["samples"] == ["a", "b", "deep__c"]
    assert (out / "shards" / "000000.tar").stat().st_size > 1000


def test_names_never_collide(tmp_path: Path) -> None:
    folder = tmp_path / "meshes"
    (folder / "x y").mkdir(parents=True)
    for name in ("a.ply", "a.obj", "x y/ä ö.ply", "A.glb", "shards.ply", "ö.ply"):
        (folder / name).write_bytes(b"x")
    names = list(find_meshes([str(folder), str(folder / "a.ply")]))
    assert len(names) == len({name.lower() for name in names}) == 6
    assert "shards" not in names
    assert all(name.isascii() and "." not in name and "/" not in name for name in names)
    assert names == list(find_meshes([str(folder)]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["/no/such.glb"], "/no/such.glb does not exist"),
        ([ROOT / "kernels"], "no GLB, OBJ or PLY file in"),
        (["x.glb", "--views", "0"], "--views must be at least 1, got 0"),
        (["x.glb", "--fov", "180"], "--fov must lie between 0 and 180"),
        (["x.glb", "--distance", "0"], "--distance must be positive"),
        (["x.glb", "--radius", "2"], "--radius must be positive and less than --distance"),
        (["x.glb", "--elevations", "91"], "--elevations must be degrees from -90 to 90"),
        (["x.glb", "--shards", "0"], "--shards must be a positive number"),
        ([], "no mesh named"),
    ],
)
def test_mistakes_end_in_one_line(arguments: list, message: str, tmp_path: Path, capsys) -> None:
    argv = ["data", "render", *map(str, arguments), "--out", str(tmp_path / "out")]
    assert main(argv) in (1, 2)
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


def test_the_command_explains_itself(capsys) -> None:
    assert main(["data"]) == 2
    assert main(["data", "--help"]) == 0
    assert "render MESHES... -o OUT" in capsys.readouterr().out
    assert main(["data", "rendr"]) == 2
    assert "no command 'rendr'" in capsys.readouterr().err
    with pytest.raises(SystemExit) as stop:
        main(["data", "render", "--help"])
    assert stop.value.code == 0
    assert "--missing-texture" in capsys.readouterr().out
