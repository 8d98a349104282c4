"""Depth for folders of pictures, with a stand-in for the network, and a random small one."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fastrecon.cli import main
from fastrecon.curation import models
from fastrecon.data.depth_command import DepthError, depth_values
from fastrecon.data.rgbd import open_rgbd

RAMP = np.linspace(1.0, 5.0, 26, dtype=np.float32)


class Network:
    """Disparity that grows to the right; pictures that are all black are flat to it."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.then: Any = None

    def load(self, task: str, model: str, device: str) -> Any:
        assert (task, device) == ("depth-estimation", "cpu")
        return self

    def __call__(self, shown: list[Image.Image], batch_size: int) -> list[dict[str, Any]]:
        self.batches.append(len(shown))
        if self.then:
            self.then()
        return [{"predicted_depth": self.see(picture)} for picture in shown]

    def see(self, picture: Image.Image) -> torch.Tensor:
        assert picture.mode == "RGB"
        width, height = picture.size
        ramp = np.interp(np.linspace(0, 1, width), np.linspace(0, 1, 26), RAMP)
        flat = not np.asarray(picture).any()
        return torch.from_numpy(np.tile(0 * ramp + 3 if flat else ramp, (height, 1))).float()


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Network:
    network = Network()
    monkeypatch.setattr(models, "load_pipeline", network.load)
    return network


def draw(path: Path, grey: int = 100, size: tuple[int, int] = (26, 20)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (grey, grey, grey)).save(path)


def run(folder: Path, *args: str) -> int:
    return main(["data", "depth", str(folder), "--device", "cpu", *args])


def test_a_folder_becomes_a_set(tmp_path: Path, network: Network, capsys) -> None:
    for name in ("cats/a.jpg", "cats/b.png", "dogs/c.webp"):
        draw(tmp_path / name)
    draw(tmp_path / "dogs" / "wide.jpg", size=(52, 20))
    (tmp_path / "cats" / "torn.jpg").write_bytes(b"\xff\xd8 no")
    draw(tmp_path / "dogs" / "black.png", 0)
    draw(tmp_path / ".hidden" / "x.png")
    assert run(tmp_path) == 1
    said = capsys.readouterr().out
    assert "6 pictures: 4 got depth, 0 had it, 2 cannot be used" in said
    failed = json.loads((tmp_path / ".depth" / "failed.json").read_text())
    assert sorted(failed) == ["cats/torn.jpg", "dogs/black.png"]
    assert "damaged" in failed["cats/torn.jpg"]
    assert "all alike" in failed["dogs/black.png"]
    assert sorted(network.batches) == [1, 4], "one size at a time"
    samples = open_rgbd(str(tmp_path))
    assert samples.names == ["cats/a", "cats/b", "dogs/c", "dogs/wide"]
    for i in range(4):
        depth = samples.sample(i).depth
        assert float(depth.min()) == 0.0
        assert float(depth.max()) == pytest.approx(1.0, abs=2e-5)
        assert bool((depth.diff(dim=-1) <= 0).all()), "disparity grows, depth falls"

    # Again: the network looks only at what has no depth.
    before = (tmp_path / "cats" / "a_depth.png").stat().st_mtime_ns
    network.batches.clear()
    draw(tmp_path / "cats" / "new.png")
    draw(tmp_path / "cats" / "torn.jpg")
    draw(tmp_path / "dogs" / "black.png", 50)
    assert run(tmp_path) == 0
    assert network.batches == [3]
    assert (tmp_path / "cats" / "a_depth.png").stat().st_mtime_ns == before
    assert json.loads((tmp_path / ".depth" / "failed.json").read_text()) == {}
    assert run(tmp_path, "--ratio", "2") == 1
    assert "was made otherwise" in capsys.readouterr().err


def test_a_depth_of_ones_own_stays(tmp_path: Path, network: Network) -> None:
    draw(tmp_path / "a.png")
    mine = np.arange(520, dtype=np.uint16).reshape(20, 26)
    Image.fromarray(mine).save(tmp_path / "a_depth.png")
    draw(tmp_path / "b.png")
    assert run(tmp_path, "--kind", "metric") == 0
    with Image.open(tmp_path / "a_depth.png") as kept:
        assert (np.asarray(kept) == mine).all()
    with Image.open(tmp_path / "b_depth.png") as made:
        assert made.mode.startswith("I")
        values = np.asarray(made)
    assert values[0, 0] == 0, "distances: larger is farther"
    assert values[0, -1] == 65535


def test_values_by_hand() -> None:
    """Disparities 1/4 to 1/6 are distances 4 to 6; the ends are the percentiles."""
    distance = np.linspace(4.0, 6.0, 201)
    found = depth_values((7.0 / distance + 3.0)[None], (1, 201), "disparity", 1.5)
    low, high = np.percentile(1 / distance, (1, 99))
    expected = 1 / (1 / 1.5 + (1 - 1 / 1.5) * ((1 / distance - low) / (high - low)).clip(0, 1))
    assert found[0] / 65536 == pytest.approx((expected - 1) / 0.5, abs=2e-5)
    # but for the cut ends, the distances themselves
    assert found[0, 20:-20] / 65536 == pytest.approx((distance[20:-20] - 4) / 2, abs=0.02)
    metric = depth_values(distance[None], (1, 201), "metric", 1.5)
    assert metric[0, 10:-10] / 65536 == pytest.approx((distance[10:-10] - 4.02) / 1.96, abs=1e-4)
    ordinary = np.tile(np.arange(100.0), (4, 1))
    with_bad = ordinary.copy()
    with_bad[0, 0] = 1e6  # one wild value of 400 moves nothing else
    a, b = (depth_values(x, (4, 100), "metric", 1.5) for x in (ordinary, with_bad))
    assert np.abs(a[1:].astype(int) - b[1:].astype(int)).max() < 0.02 * 65536
    small = depth_values(ordinary[:, ::2], (8, 100), "metric", 1.5)
    assert small.shape == (8, 100)
    for bad in (np.full((4, 4), np.nan), np.full((4, 4), 2.0)):
        with pytest.raises(DepthError, match=r"not finite|all alike"):
            depth_values(bad, (4, 4), "metric", 1.5)


@pytest.mark.skipif(os.name == "nt", reason="signals as POSIX has them")
def test_a_stopped_run_continues(tmp_path: Path, network: Network, capsys) -> None:
    for k in range(12):
        draw(tmp_path / f"{k:02d}.png")

    def once() -> None:
        network.then = None
        os.kill(os.getpid(), signal.SIGTERM)

    network.then = once
    assert run(tmp_path, "--batch-size", "2") == 143
    assert "the same command continues" in capsys.readouterr().out
    done = len(list(tmp_path.glob("*_depth.png")))
    assert 0 < done < 12
    assert run(tmp_path, "--batch-size", "2") == 0
    assert len(list(tmp_path.glob("*_depth.png"))) == 12
    assert not list(tmp_path.glob("*.tmp*"))


def test_a_real_network(tmp_path: Path) -> None:
    """Random weights: all that can be said is that it is used."""
    transformers = pytest.importorskip("transformers", reason="needs the extra curate")
    try:
        network = transformers.DepthAnythingForDepthEstimation
        processor = transformers.DPTImageProcessor
    except (ImportError, RuntimeError) as error:  # a torchvision for another torch
        pytest.skip(f"transformers cannot load its networks here: {error}")
    backbone = transformers.Dinov2Config(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=28,
        patch_size=14,
        out_features=["stage1", "stage2"],
        reshape_hidden_states=False,
        apply_layernorm=True,
    )
    config = transformers.DepthAnythingConfig(
        backbone_config=backbone,
        patch_size=14,
        reassemble_hidden_size=16,
        reassemble_factors=[2, 1],
        neck_hidden_sizes=[8, 8],
        fusion_hidden_size=8,
        head_hidden_size=8,
    )
    torch.manual_seed(0)
    source = tmp_path / "model"
    network(config).save_pretrained(source)
    size = {"height": 28, "width": 28}
    processor(size=size, ensure_multiple_of=14).save_pretrained(source)
    rng = np.random.default_rng(0)
    folder = tmp_path / "set" / "cats"
    folder.mkdir(parents=True)
    Image.fromarray(rng.integers(0, 255, (40, 56, 3), dtype=np.uint8)).save(folder / "a.png")
    assert run(tmp_path / "set", "--model", str(source)) == 0
    sample = open_rgbd(str(tmp_path / "set")).sample(0)
    assert sample.depth.shape == (1, 40, 56)


def test_what_makes_no_sense(
    tmp_path: Path, network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    draw(tmp_path / "twins" / "a.png")
    draw(tmp_path / "twins" / "a.jpg")
    (tmp_path / "empty").mkdir()
    for args, code, words in (
        ([tmp_path / "twins"], 1, "would share one depth"),
        ([tmp_path / "empty"], 1, "no picture"),
        ([tmp_path / "nowhere"], 1, "is no folder"),
        ([tmp_path / "twins", "--ratio", "1"], 2, "--ratio must exceed 1"),
        ([tmp_path / "twins", "--batch-size", "0"], 2, "--batch-size must be at least 1"),
    ):
        assert run(args[0], *map(str, args[1:])) == code
        assert words in capsys.readouterr().err


def test_without_transformers_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    draw(tmp_path / "a.png")
    assert run(tmp_path) == 1
    said = capsys.readouterr().err
    assert 'pip install "fastrecon[curate]"' in said
    assert "--depth-maps" not in said
