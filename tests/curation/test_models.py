"""Networks in front of the curation, with stand-ins for transformers' pipelines."""

from __future__ import annotations

import io
import sys
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from fastrecon.cli import main
from fastrecon.curation import models
from fastrecon.curation.coco import CurationError
from fastrecon.curation.models import Loaded, load_pipeline
from tests.curation.made_set import add, manifest, pack, picture, shard_arguments, write_set
from tests.curation.scenes import Scene, Shape, draw


class Networks:
    """Answers as transformers' pipelines do, about one scene; counts the pictures it is shown."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.asked: list[tuple[str, str]] = []
        self.batches: list[int] = []

    def load(self, task: str, model: str, device: str) -> Any:
        return getattr(self, task.replace("-", "_"))

    def image_segmentation(
        self, shown: list[Image.Image], batch_size: int, **options: Any
    ) -> list[list[dict[str, Any]]]:
        assert options == {"subtask": "instance", "threshold": 0.3}
        return [self._instances(picture) for picture in self._seen("segment", shown, batch_size)]

    def _instances(self, shown: Image.Image) -> list[dict[str, Any]]:
        found = []
        for k, mask in enumerate(self.scene.masks):
            whole = np.zeros(mask.shape, np.uint8)
            whole[mask.window][mask.inside] = 255
            found.append({"score": 0.9, "label": ["cup", "bus"][k], "mask": Image.fromarray(whole)})
        return found

    def depth_estimation(self, shown: list[Image.Image], batch_size: int) -> list[dict[str, Any]]:
        depth = self.scene.depth("disparity")[None].astype(np.float32)
        return [{"predicted_depth": depth} for _ in self._seen("depth", shown, batch_size)]

    def _seen(self, task: str, shown: list[Image.Image], batch_size: int) -> list[Image.Image]:
        assert batch_size == len(shown)
        assert len({picture.size for picture in shown}) == 1
        self.batches.append(len(shown))
        self.asked += [(task, picture.mode) for picture in shown]
        return shown


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
    monkeypatch.setattr(models, "load_pipeline", networks.load)
    asked = ["curate", str(photos), "-o", str(out), "--workers", "0", "--no-sheets"]
    asked += ["--depth-kind", "disparity", "--segment", "S", "--depth", "D"]
    assert main(asked) == 1
    lines = manifest(out)
    assert lines["torn.jpg"]["status"] == "failed"
    for name in ("a.png", "deep/b.webp"):
        assert [i["reason"] for i in lines[name]["instances"]] == ["", "category"]
        assert [i["category"] for i in lines[name]["instances"]] == ["cup", "bus"]
    assert sorted(networks.asked) == [("depth", "RGB")] * 2 + [("segment", "RGB")] * 2
    assert networks.batches == [2, 2]
    # Again: nothing is computed twice. And what was computed serves another run.
    assert main(asked) == 1
    assert len(networks.asked) == 4
    again = ["curate", str(photos), "-o", str(tmp_path / "again"), "--workers", "0"]
    again += ["--instances", str(out / "instances"), "--depth-maps", str(out / "depth")]
    again += ["--depth-kind", "disparity", "--no-sheets", "--deny"]
    assert main(again) == 0
    found = manifest(tmp_path / "again")["a.png"]["instances"]
    assert [i["reason"] for i in found] == ["", "occluded"]


def test_networks_look_at_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """Samples with nothing but a picture; what is found is kept beside, and used again."""
    scene = draw([Shape("box", (110, 150), (55, 55), 2)], 320, 320)
    content = write_set(tmp_path, {f"{k}.png": scene for k in range(3)})
    (path,) = pack(tmp_path, content, 1, "png")
    file = io.BytesIO()
    Image.fromarray(picture(scene)).save(file, format="PNG")
    with tarfile.open(path, "w") as tar:
        for key in "abc":
            add(tar, f"{key}.png", file.getvalue())
        add(tar, "torn.png", file.getvalue()[:400])
        add(tar, "text.json", b"{}")
    networks = Networks(scene)
    monkeypatch.setattr(models, "load_pipeline", networks.load)
    asked = shard_arguments(tmp_path, tmp_path / "out", 0, "--segment", "S", "--depth", "D")
    assert main([*asked, "--batch-size", "2"]) == 1
    lines = manifest(tmp_path / "out")
    assert [i["reason"] for i in lines["000/a.png"]["instances"]] == [""]
    assert "damaged" in lines["000/torn.png"]["reason"]
    assert "no picture" in lines["000/text"]["reason"]
    assert sorted(networks.batches) == [1, 1, 2, 2]
    (tmp_path / "out" / "shards" / "000.jsonl").unlink()
    assert main(asked) == 1
    assert len(networks.asked) == 6
    # Another network does not pass its findings off as this one's.
    capsys.readouterr()
    assert main([*asked, "--segment", "T"]) == 1
    assert "what --segment S found" in capsys.readouterr().err


def test_pictures_of_one_size_share_a_batch() -> None:
    """In the order in which they came, whatever the order in which the network got them."""
    sizes = [(8, 8), (9, 8), (8, 8), (8, 8), (9, 8)]
    pictures = [Image.new("RGB", size, (k, 0, 0)) for k, size in enumerate(sizes)]
    batches = []

    def pipe(shown: list[Image.Image], batch_size: int) -> list[dict[str, Any]]:
        batches.append([picture.size for picture in shown])
        return [{"predicted_depth": np.asarray(picture)[..., 0]} for picture in shown]

    loaded = Loaded(models.Networks(batch_size=2))
    loaded._depth = pipe
    found = [np.load(io.BytesIO(data)) for data in loaded.depths(pictures)]
    assert [depth.max() for depth in found] == [0, 1, 2, 3, 4]
    assert batches == [[(8, 8)] * 2, [(8, 8)], [(9, 8)] * 2]


def test_a_network_that_runs_out_of_memory_says_so() -> None:
    def pipe(*args: Any, **options: Any) -> Any:
        raise RuntimeError("CUDA out of memory.\nTried to allocate")

    loaded = Loaded(models.Networks(batch_size=2))
    loaded._depth = pipe
    with pytest.raises(CurationError, match=r"out of memory.*lower --batch-size"):
        loaded.depths([Image.new("RGB", (8, 8))])


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
