"""A folder as a user has it: pictures, a COCO file, depth maps."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from tests.curation.scenes import Scene

COLOURS = np.array(
    [[200, 60, 60], [60, 160, 90], [70, 100, 210], [230, 180, 60], [150, 80, 180], [80, 190, 200]]
)


def picture(scene: Scene) -> np.ndarray:
    """(H, W, 3): every mask in a colour of its own on a striped background."""
    height, width = scene.z.shape
    y, x = np.mgrid[:height, :width]
    shown = np.repeat((120 + 20 * ((x + y) // 16 % 2))[..., None], 3, -1).astype(np.float64)
    for k, mask in enumerate(scene.masks):
        shade = 0.8 + 0.2 * np.cos(x[mask.window] / 9)[mask.inside]
        shown[mask.window][mask.inside] = COLOURS[k % len(COLOURS)] * shade[:, None]
    return shown.astype(np.uint8)


def rle(scene: Scene, k: int) -> dict:
    """The compressed run lengths of a mask."""
    whole = np.zeros(scene.z.shape, np.uint8, order="F")
    mask = scene.masks[k]
    whole[mask.window] = mask.inside
    found: Any = coco.encode(whole)
    return {"size": list(found["size"]), "counts": found["counts"].decode()}


def write_set(folder: Path, scenes: dict[str, Scene], kind: str = "disparity") -> dict:
    """Write pictures/, depth/ and coco.json; returns what the JSON holds."""
    content: dict = {"images": [], "annotations": [], "categories": [{"id": 3, "name": "chair"}]}
    content["categories"].append({"id": 6, "name": "bus"})
    for number, (name, scene) in enumerate(scenes.items()):
        height, width = scene.z.shape
        path = folder / "pictures" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture(scene)).save(path)
        values = scene.depth("disparity" if kind == "disparity" else "metric")
        grey = np.round(values * (60000 / values.max())).astype(np.uint16)
        depth = (folder / "depth" / name).with_suffix(".png")
        depth.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(grey).save(depth)
        content["images"].append(
            {"id": number, "file_name": name, "width": width, "height": height}
        )
        for k in range(len(scene.masks)):
            content["annotations"].append(
                {
                    "id": 100 * number + k,
                    "image_id": number,
                    "category_id": 3,
                    "segmentation": rle(scene, k),
                }
            )
    save(folder, content)
    return content


def save(folder: Path, content: object) -> None:
    (folder / "coco.json").write_text(json.dumps(content))


def arguments(
    folder: Path, out: Path, kind: str = "disparity", workers: int = 0, sheets: bool = False
) -> list[str]:
    """Of `fastrecon curate` for such a folder."""
    files = ["--instances", str(folder / "coco.json"), "--depth-maps", str(folder / "depth")]
    more = ["--depth-kind", kind, "--workers", str(workers), "-o", str(out)]
    more.append("--sheets" if sheets else "--no-sheets")
    return ["curate", str(folder / "pictures"), *files, *more]


def manifest(out: Path) -> dict[str, dict]:
    """The lines of a run's manifest by picture."""
    lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    found = {line["image"]: line for line in lines}
    assert len(found) == len(lines), "a picture has two lines"
    return found


def pack(folder: Path, content: dict, shards: int = 1, ending: str = "jpg") -> list[Path]:
    """Pack a written set into in/<k>.tar, as `fastrecon curate --shards` reads them."""
    (folder / "in").mkdir(exist_ok=True)
    paths = [folder / "in" / f"{k:03d}.tar" for k in range(shards)]
    for place, path in enumerate(paths):
        with tarfile.open(path, "w") as tar:
            for image in content["images"][place::shards]:
                own = [a for a in content["annotations"] if a["image_id"] == image["id"]]
                said = {"annotations": own, "categories": content["categories"]}
                name = image["file_name"]
                key = name.rpartition(".")[0]
                add(tar, f"{key}.{ending}", (folder / "pictures" / name).read_bytes())
                add(tar, f"{key}.json", json.dumps(said).encode())
                depth = (folder / "depth" / name).with_suffix(".png")
                add(tar, f"{key}.depth.png", depth.read_bytes())
    return paths


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def shard_arguments(folder: Path, out: Path, workers: int = 0, *more: str) -> list[str]:
    """Of `fastrecon curate` for `pack`ed shards."""
    files = ["--shards", str(folder / "in" / "*.tar"), "--depth-kind", "disparity"]
    return ["curate", *files, "--workers", str(workers), "--no-sheets", "-o", str(out), *more]


def shard_bytes(out: Path) -> dict[str, bytes]:
    """What lies in OUT/shards/."""
    return {path.name: path.read_bytes() for path in sorted((out / "shards").iterdir())}
