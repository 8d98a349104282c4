"""Networks in front of the curation, with stand-ins for transformers' pipelines."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastrecon import curate_cli
from fastrecon.cli import main
from fastrecon.curation.models import load_pipeline
from tests.curation.made_set import manifest, picture
from tests.curation.scenes import Scene, Shape, draw


class Networks:
    """Answers as transformers' pipelines do, about one scene; counts the pictures it is shown."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.asked: list[tuple[str, str]] = []

    def load(self, task: str, model: str, device: str) -> Any:
        return getattr(self, task.replace("-", "_"))

    def image_segmentation(self, shown: Image.Image, **options: Any) -> list[dict[str, Any]]:
        assert options == {"subtask": "instance", "threshold": 0.3}
        self.asked.append(("segment", shown.mode))
        found = []
        for k, mask in enumerate(self.scene.masks):
            whole = np.zeros(mask.shape, np.uint8)
            whole[mask.window][mask.inside] = 255
            found.append({"score": 0.9, "label": ["cup", "bus"][k], "mask": Image.fromarray(whole)})
        return found

    def depth_estimation(self, shown: Image.Image) -> dict[str, Any]:
        self.asked.append(("depth", shown.mode))
        return {"predicted_depth": self.scene.depth("disparity")[None].astype(np.float32)}


def test_networks_leave_what_a_user_may_bring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shapes = [Shape("box", (110, 150), (55, 55), 2), Shape("box", (190, 170), (60, 60), 3)]
    scene = draw(shapes, 320, 320)
    photos, out = tmp_path / "photos", tmp_path / "out"
    (photos / "deep").mkdir(parents=True)
    Image.fromarray(picture(scene)).save(photos / "a.png")
    Image.fromarray(picture(scene)).convert("RGBA").save(photos / "deep" / "b.webp", lossless=True)
    (photos / "torn.jpg").write_bytes(b"\xff\xd8 no")
    networks = Networks(scene)
    monkeypatch.setattr(curate_cli, "load_pipeline", networks.load)
    asked = ["curate", str(photos), "-o", str(out), "--workers", "0", "--no-sheets"]
    asked += ["--depth-kind", "disparity", "--segment", "S", "--depth", "D"]
    assert main(asked) == 1
    lines = manifest(out)
    assert lines["torn.jpg"]["status"] == "failed"
    for name in ("a.png", "deep/b.webp"):
        assert [i["reason"] for i in lines[name]["instances"]] == ["", "category"]
        assert [i["category"] for i in lines[name]["instances"]] == ["cup", "bus"]
    assert sorted(networks.asked) == [("depth", "RGB")] * 2 + [("segment", "RGB")] * 2
    # Again: nothing is computed twice. And what was computed serves another run.
    assert main(asked) == 1
    assert len(networks.asked) == 4
    again = ["curate", str(photos), "-o", str(tmp_path / "again"), "--workers", "0"]
    again += ["--instances", str(out / "instances"), "--depth-maps", str(out / "depth")]
    again += ["--depth-kind", "disparity", "--no-sheets", "--deny"]
    assert main(again) == 0
    found = manifest(tmp_path / "again")["a.png"]["instances"]
    assert [i["reason"] for i in found] == ["", "occluded"]


def test_no_picture_no_network(tmp_path: Path, capsys) -> None:
    asked = ["curate", str(tmp_path), "--depth-kind", "metric", "--segment", "S", "--depth", "D"]
    assert main([*asked, "-o", str(tmp_path / "out")]) == 1
    assert "no picture" in capsys.readouterr().err


def test_without_transformers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r'"fastrecon\[curate\]"; or pass --depth-maps'):
        load_pipeline("depth-estimation", "some/model", "cpu")
    with pytest.raises(ImportError, match="or pass --instances"):
        load_pipeline("image-segmentation", "some/model", "cpu")
