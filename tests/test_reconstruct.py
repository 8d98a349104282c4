"""`fastrecon reconstruct` from the outside: files in, files out, and what it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from fastrecon.cli import main
from fastrecon.models.lrm import LRM
from fastrecon.reconstruct import Options, folders
from tests.micro import micro_config

QUICK = ["--resolution", "12", "--frames", "3", "--size", "16", "--device", "cpu"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of random weights whose densities straddle the level at which it cuts."""
    torch.manual_seed(0)
    lrm = LRM(micro_config(mesh_level=0.37))
    folder = tmp_path_factory.mktemp("weights")
    lrm.save_pretrained(folder)
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    rgba = np.zeros((24, 24, 4), np.uint8)
    rgba[6:18, 6:18] = [200, 60, 20, 255]
    path = tmp_path / "cup.png"
    Image.fromarray(rgba).save(path)
    return path


@pytest.mark.parametrize("kind", ["glb", "obj", "ply"])
def test_writes_everything_and_says_where(
    weights: Path, picture: Path, tmp_path: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["reconstruct", str(picture), "--weights", str(weights), "--out", str(out)]
    assert main([*argv, *QUICK, "--mesh", kind]) == 0
    names = {path.name for path in (out / "cup").iterdir()}
    pictures = {"turntable.gif", "depth.png", "normal.png", "input.png", "contact_sheet.png"}
    assert names == pictures | {f"mesh.{kind}"}
    mesh = trimesh.load(out / "cup" / f"mesh.{kind}", force="mesh")
    assert isinstance(mesh, trimesh.Trimesh)
    assert len(mesh.vertices) > 3
    gif = Image.open(out / "cup" / "turntable.gif")
    assert getattr(gif, "n_frames", 1) == 3
    assert gif.size == (16, 16)
    said = capsys.readouterr().out
    assert str(out / "cup") in said
    assert f"mesh.{kind}" in said


def test_one_bad_picture_does_not_stop_the_others(
    weights: Path, picture: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    argv = ["reconstruct", "missing.png", str(picture), "--weights", str(weights)]
    assert main([*argv, "--out", str(out), *QUICK]) == 1
    said = capsys.readouterr().out
    assert "missing.png does not exist; check the path" in said
    assert "1 of 2 pictures failed: missing.png" in said
    assert (out / "cup" / "mesh.glb").exists()


def test_pictures_of_the_same_name_get_their_own_folders() -> None:
    images = tuple(Path(p) for p in ("a/x.png", "b/x.jpg", "x-2.png", "c/x.png"))
    names = [f.name for f in folders(Options(images))]
    assert len(set(names)) == 4
    assert names[0] == "x"


def test_a_full_disk_leaves_no_half_written_file(
    weights: Path,
    picture: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    import os

    replace = os.replace

    def full(source: str, target: str) -> None:
        if str(target).endswith("turntable.gif"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    out = tmp_path / "out"
    argv = ["reconstruct", str(picture), "--weights", str(weights), "--out", str(out)]
    assert main([*argv, *QUICK]) == 1
    assert "No space left on device" in capsys.readouterr().out
    left = {path.name for path in (out / "cup").iterdir()}
    assert left == {"input.png", "depth.png", "normal.png", "contact_sheet.png"}


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--weights", "/no/such/folder"], "/no/such/folder"),
        (["--size", "2"], "--size must be at least 8, got 2"),
        (["--device", "tpu9"], "--device 'tpu9' is not a device"),
    ],
)
def test_mistakes_end_in_one_line(
    weights: Path,
    picture: Path,
    argv: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["reconstruct", str(picture), "--weights", str(weights), *argv]) == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is available")
def test_cuda_without_a_gpu(
    weights: Path, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["reconstruct", str(picture), "--weights", str(weights), "--device", "cuda"]
    assert main(argv) == 1
    assert "no CUDA device is available; use --device cpu" in capsys.readouterr().err
