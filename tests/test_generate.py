"""`fastrecon generate`: from a class or a picture to videos and meshes, on a CPU, from checkpoints
that the tests make."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from fastrecon_kernels import RenderSettings
from PIL import Image

from fastrecon.cli import main
from fastrecon.config.g3dr import TriGenConfig
from fastrecon.data.rgbd import read_depth
from fastrecon.export.video import mp4_bytes
from fastrecon.generate import depth_bytes, file_name
from fastrecon.models.trigen import TriGen

SCENE = replace(
    TriGenConfig.tiny(), size=16, render=RenderSettings.g3dr(n_samples=8, n_importance=8)
)
SMALL = ["--frames", "2", "--resolution", "16"]


@pytest.fixture(scope="module")
def trigen(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Dense enough everywhere for a mesh."""
    torch.manual_seed(0)
    model = TriGen(SCENE)
    last = list(model.decoder.net)[-1]
    with torch.no_grad():
        last.bias[0] = 15.0  # type: ignore[index]
    folder = tmp_path_factory.mktemp("trigen")
    model.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def diffusion_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("diffusers", reason="the RGB-D models are made of diffusers' parts")
    from tests.micro_rgbd import diffusion

    folder = tmp_path_factory.mktemp("diffusion")
    diffusion().save_pretrained(folder)
    return str(folder)


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A picture of 24 x 20 pixels and its depth, a slope."""
    image, depth = tmp_path / "photo.png", tmp_path / "photo_depth.png"
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(image)
    slope = np.tile(np.linspace(0, 65535, 24), (20, 1)).astype(np.uint16)
    Image.fromarray(slope).save(depth)
    return image, depth


def run(*args: object) -> int:
    return main(["generate", *map(str, args)])


def test_label_to_scene(tmp_path: Path, trigen: str, diffusion_folder: str) -> None:
    out = tmp_path / "out"
    common = ("--class", "golden retriever", "--diffusion", diffusion_folder, "--trigen", trigen)
    assert run(*common, "-n", 2, "-o", out, "--steps", 2, *SMALL) == 0
    for index in range(2):
        folder = out / f"golden_retriever-{index:03d}"
        mesh = trimesh.load_mesh(folder / "mesh.glb")
        assert len(mesh.faces) > 0
        assert np.abs(mesh.vertices).max() <= 1.0 + 1e-3 + 2 / 15
        with Image.open(folder / "turntable.gif") as video:
            assert (video.size, getattr(video, "n_frames", 1)) == ((16, 16), 2)
        assert read_depth(folder / "depth.png").shape == (1, 16, 16)
        about = json.loads((folder / "scene.json").read_text())
        assert (about["label"], about["seed"], about["index"]) == ("golden retriever", 0, index)
        assert (about["guidance"], about["steps"]) == (3.0, 2)
    first, second = ((out / f"golden_retriever-00{k}" / "image.png").read_bytes() for k in range(2))
    assert first != second
    again = tmp_path / "again"
    assert run(*common, "-n", 2, "-o", again, "--steps", 2, *SMALL) == 0
    for name in ("depth.png", "turntable.gif", "mesh.glb"):
        made, known = (f / "golden_retriever-001" / name for f in (again, out))
        assert made.read_bytes() == known.read_bytes(), name


def test_picture_to_scene(tmp_path: Path, trigen: str, pair: tuple[Path, Path]) -> None:
    out = tmp_path / "out"
    image, depth = pair
    common = ("--image", image, "--depth", depth, "--trigen", trigen, "-o", out)
    more = ("--video", "png", "--mesh", "ply", "--super-resolution", "bicubic")
    assert run(*common, *SMALL, *more) == 0
    folder = out / "photo"
    assert sorted(p.name for p in (folder / "frames").iterdir()) == ["0000.png", "0001.png"]
    with Image.open(folder / "frames" / "0000.png") as frame:
        assert frame.size == (32, 32)
    assert (folder / "mesh.ply").exists()
    # the middle square of a slope from 0 to 1
    known = read_depth(folder / "depth.png")[0]
    assert float(known[:, 0].mean()) == pytest.approx(2.3 / 23, abs=0.02)
    assert float(known[:, -1].mean()) == pytest.approx(1 - 2.3 / 23, abs=0.02)
    assert (known.diff(dim=1) > 0).all()


def test_a_scene_without_surface_keeps_its_pictures(
    tmp_path: Path, trigen: str, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    image, depth = pair
    out = tmp_path / "out"
    args = ("--image", image, "--depth", depth, "--trigen", trigen, "-o", out, "--level", 1e6)
    assert run(*args, *SMALL) == 1
    assert "no surface" in capsys.readouterr().out
    assert (out / "photo" / "turntable.gif").exists()
    assert not (out / "photo" / "mesh.glb").exists()


@pytest.mark.parametrize(
    ("args", "code", "words"),
    [
        ((), 2, "one of --class NAME"),
        (("--class", "cat"), 2, "--diffusion FOLDER"),
        (("--class", "cat", "--caption", "a cat"), 2, "one of --class NAME"),
        (("--image", "a.png"), 2, "belong together"),
        (("--class", "cat", "--depth", "a.png", "--diffusion", "x"), 2, "belong together"),
        (("--class", "cat", "--diffusion", "x", "-n", "0"), 2, "at least 1"),
        (("--image", "a.png", "--depth", "b.png", "-n", "2"), 2, "one scene"),
        (("--image", "a.png", "--depth", "b.png"), 1, "does not exist"),
        (("--image", "a.png", "--depth", "b.png", "--device", "cuda:99"), 1, "--device"),
    ],
)
def test_misuse(
    trigen: str, args: tuple[str, ...], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("--trigen", trigen, *args) == code
    assert words in capsys.readouterr().err


def test_an_unknown_class_names_the_nearest(
    tmp_path: Path, trigen: str, diffusion_folder: str, capsys: pytest.CaptureFixture[str]
) -> None:
    known = ("--diffusion", diffusion_folder, "--trigen", trigen, "-o", tmp_path)
    assert run("--class", "golden retreiver", *known) == 1
    assert "golden retriever" in capsys.readouterr().err
    assert run("--caption", "a cat", *known) == 1
    assert "know classes, not captions" in capsys.readouterr().err


def test_a_depth_of_another_shape(
    tmp_path: Path, trigen: str, pair: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    image, depth = pair
    Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20)).save(depth)
    assert run("--image", image, "--depth", depth, "--trigen", trigen, "-o", tmp_path) == 1
    assert "24 x 20" in capsys.readouterr().err


def test_folders_are_where_they_should_be() -> None:
    assert file_name("golden retriever") == "golden_retriever"
    assert file_name("../../etc/passwd") == "etc_passwd"
    assert file_name("...") == "scene"


def test_depth_keeps_16_bits(tmp_path: Path) -> None:
    depth = torch.rand(1, 5, 7, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "d.png"
    path.write_bytes(depth_bytes(depth))
    assert float((read_depth(path) - depth).abs().max()) <= 0.5 / 65535 + 1e-7


def test_mp4() -> None:
    pytest.importorskip("imageio_ffmpeg", reason="MP4 needs the extra video")
    frames = [np.full((17, 18, 3), 40 * k, np.uint8) for k in range(4)]
    data = mp4_bytes(frames)
    assert data[4:8] == b"ftyp"
    with pytest.raises(ValueError, match="at least one frame"):
        mp4_bytes([])
