"""Reading COCO files and depth maps, whole and damaged."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from fastrecon.curation.coco import CurationError, decode, read_coco
from fastrecon.curation.depth_maps import load_depth
from fastrecon.curation.occlusion import DepthKind

H, W = 20, 30
CATEGORIES = [{"id": 3, "name": "chair"}]


def one(**annotation: Any) -> dict:
    """A file with one picture and one annotation."""
    return {
        "images": [{"id": 7, "file_name": "a/b.jpg", "width": W, "height": H}],
        "annotations": [
            {"id": 5, "image_id": 7, "category_id": 3, "segmentation": square(), **annotation}
        ],
        "categories": CATEGORIES,
    }


def square() -> list[list[float]]:
    return [[4, 6, 14, 6, 14, 11, 4, 11]]  # 10 x 5 pixels from column 4, row 6


def whole() -> np.ndarray:
    mask = np.zeros((H, W), np.uint8, order="F")
    mask[6:11, 4:14] = 1
    return mask


def runs(mask: np.ndarray) -> list[int]:
    """Uncompressed run lengths, column by column, beginning with zeros."""
    flat = mask.ravel(order="F")
    ends = np.flatnonzero(np.diff(flat)) + 1
    lengths = np.diff(np.concatenate([[0], ends, [flat.size]])).tolist()
    return [0, *lengths] if flat[0] else lengths


def read(folder: Path, content: object) -> list:
    (folder / "coco.json").write_text(json.dumps(content))
    return read_coco(folder / "coco.json")


def compressed(mask: np.ndarray) -> dict:
    found: Any = coco.encode(np.asfortranarray(mask))
    return {"size": [H, W], "counts": found["counts"].decode()}


@pytest.mark.parametrize(
    "segmentation",
    [square(), {"size": [H, W], "counts": runs(whole())}, compressed(whole())],
    ids=["polygon", "runs", "compressed"],
)
def test_all_forms_of_a_mask(tmp_path: Path, segmentation: object) -> None:
    (entry,) = read(tmp_path, one(segmentation=segmentation, score=0.4, iscrowd=1))
    (instance,) = decode(entry)
    assert (entry.name, entry.size, entry.problem) == ("a/b.jpg", (H, W), "")
    assert (instance.id, instance.category, instance.score) == (5, "chair", 0.4)
    assert instance.crowd
    assert instance.mask is not None
    assert instance.mask.box == (4, 6, 10, 5)
    assert instance.mask.inside.all()


def test_compressed_runs_of_any_length(tmp_path: Path) -> None:
    """Long and short runs, negative differences: the sum is checked before a mask is made."""
    rng = np.random.default_rng(0)
    for share in (0.001, 0.05, 0.5, 0.95, 1.0):
        mask = (rng.random((H, W)) < share).astype(np.uint8)
        mask[0, 0] = 1
        (instance,) = decode(read(tmp_path, one(segmentation=compressed(mask)))[0])
        assert instance.mask is not None
        assert np.array_equal(instance.mask.inside, mask[instance.mask.window] > 0)


def test_several_polygons_and_empty_ones(tmp_path: Path) -> None:
    (entry,) = read(tmp_path, one(segmentation=[*square(), [20, 1, 24, 1, 24, 3, 20, 3], [1, 2]]))
    mask = decode(entry)[0].mask
    assert mask is not None
    assert mask.box == (4, 1, 20, 10)
    empty: list[Any] = [[], [[3, 3, 4, 4]], {"size": [H, W], "counts": [H * W]}]
    for segmentation in empty:
        (entry,) = read(tmp_path, one(segmentation=segmentation))
        assert decode(entry)[0].mask is None


@pytest.mark.parametrize(
    ("segmentation", "says"),
    [
        ({"size": [H + 1, W], "counts": [630]}, "is 30 x 21 px, the picture 30 x 20"),
        ({"size": [H, W], "counts": [5]}, "do not add up to 600"),  # uninitialised memory otherwise
        ({"size": [H, W], "counts": [700]}, "do not add up"),
        ({"size": [H, W], "counts": [-1, 601]}, "do not add up"),
        ({"size": [H, W], "counts": [0.5, 599.5]}, "do not add up"),
        ({"size": [H, W], "counts": "0"}, "do not add up"),
        ({"size": [H, W], "counts": ""}, "cut short"),
        ({"size": [H, W], "counts": "ooooooooooooooooooooo0"}, "too large"),
        ({"size": [H, W], "counts": "\x01"}, "cut short"),
        ({"size": [H, W]}, "counts"),
        ([[1, 2, 3, 4, 5]], "not pairs"),
        ([[1e9, 1, 2, 3, 4, 5]], "not pairs"),
        ([["a"] * 6], "damaged"),
        (5, "damaged"),
    ],
)
def test_damaged_masks(tmp_path: Path, segmentation: object, says: str) -> None:
    (entry,) = read(tmp_path, one(segmentation=segmentation))
    with pytest.raises(CurationError, match=says) as caught:
        decode(entry)
    assert "annotation 5" in str(caught.value)


def test_a_folder_of_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        content = one()
        content["images"][0]["file_name"] = f"{name}.jpg"
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    entries = read_coco(tmp_path)
    assert [e.name for e in entries] == ["a.jpg", "b.jpg"]
    (tmp_path / "again.json").write_text(json.dumps(content))
    assert "listed twice" in read_coco(tmp_path)[1].problem


def test_files_that_are_not_coco(tmp_path: Path) -> None:
    path = tmp_path / "coco.json"
    with pytest.raises(CurationError, match="does not exist"):
        read_coco(path)
    path.write_text(json.dumps(one())[:-5])
    with pytest.raises(CurationError, match="not whole JSON"):
        read_coco(path)
    with pytest.raises(CurationError, match="list of results without their pictures"):
        read(tmp_path, [{"image_id": 1}])
    for content in ({}, 3, {"images": [{}], "annotations": []}, {"images": []}):
        with pytest.raises(CurationError, match="not laid out as COCO's"):
            read(tmp_path, content)
    (tmp_path / "empty").mkdir()
    with pytest.raises(CurationError, match=r"no \.json"):
        read_coco(tmp_path / "empty")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"segmentation": None}, None),
        ({"category_id": "x"}, "annotation 5 is damaged"),
        ({"score": "high"}, "annotation 5 is damaged"),
    ],
)
def test_a_damaged_annotation_is_its_pictures_problem(
    tmp_path: Path, change: dict, says: str | None
) -> None:
    (entry,) = read(tmp_path, one(**change))
    if says is None:
        with pytest.raises(CurationError, match="annotation 5"):
            decode(entry)
    else:
        assert says in entry.problem


def test_problems_of_single_pictures(tmp_path: Path) -> None:
    content = one()
    content["annotations"] += [dict(content["annotations"][0], image_id=99)]
    (good, orphan) = read(tmp_path, content)
    assert good.problem == ""
    assert orphan.problem == "1 annotations are of image_id 99, which coco.json does not list"
    content["annotations"][1]["image_id"] = 7
    assert "annotation id 5 occurs twice" in read(tmp_path, content)[0].problem
    for name in ("../x.jpg", "/etc/x.jpg", "C:/x.jpg", "a/../../x.jpg", ""):
        content = one()
        content["images"][0]["file_name"] = name
        assert "file_name" in read(tmp_path, content)[0].problem
    (entry,) = read(tmp_path, one(category_id=4))
    assert entry.annotations[0].category is None
    content = one()
    del content["categories"]
    assert read(tmp_path, content)[0].annotations[0].category == ""


def test_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (entry,) = read(tmp_path, one())
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    with pytest.raises(ImportError, match=r'pip install "fastrecon\[curate\]"'):
        decode(entry)


def grey(folder: Path, values: np.ndarray, name: str = "b.png") -> None:
    Image.fromarray(values).save(folder / name)


def test_depth_maps_are_read_as_they_are(tmp_path: Path) -> None:
    values = np.arange(H * W).reshape(H, W)
    deep = (values * 100).astype(np.uint16)
    grey(tmp_path, deep)
    assert np.array_equal(load_depth(tmp_path, "b.jpg", (H, W), "metric"), deep)
    grey(tmp_path, (values % 256).astype(np.uint8))
    assert np.array_equal(load_depth(tmp_path, "b.jpg", (H, W), "metric"), values % 256)
    # .npy comes first, and may have a leading 1 as networks leave it.
    np.save(tmp_path / "b.npy", (values + 0.5).astype(np.float16)[None])
    found = load_depth(tmp_path, "b.jpg", (H, W), "disparity")
    assert np.array_equal(found, (values + 0.5).astype(np.float16))
    # Twice the resolution: the nearest of its pixels.
    doubled = load_depth(tmp_path, "b.jpg", (2 * H, 2 * W), "disparity")
    assert np.array_equal(doubled, found.repeat(2, 0).repeat(2, 1))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros((H, W)), "no depth in it"),
        (np.full((H, W), np.inf), "no depth in it"),
        (np.full((H, W), np.nan), "no depth in it"),
        (np.full((H, W), 3.0), r"constant \(3\)"),
        (np.full((H, W), 3, np.uint16), r"constant \(3\)"),
        (np.arange(H * W, dtype=float).reshape(W, H), "other proportions"),
        (np.zeros((H, W, 3)), r"must hold numbers \(H, W\)"),
        (np.zeros((H, W), complex), "must hold numbers"),
        (np.array([None] * 4), "no depth map or damaged"),
    ],
)
@pytest.mark.parametrize("kind", ["disparity", "metric"])
def test_depth_maps_that_say_nothing(
    tmp_path: Path, values: np.ndarray, says: str, kind: DepthKind
) -> None:
    np.save(tmp_path / "b.npy", values, allow_pickle=True)
    with pytest.raises(CurationError, match=says):
        load_depth(tmp_path, "b.jpg", (H, W), kind)


def test_depth_files_that_cannot_be_read(tmp_path: Path) -> None:
    def load() -> None:
        load_depth(tmp_path, "b.jpg", (H, W), "metric")

    with pytest.raises(CurationError, match=r"no depth map .*b\.npy, \.npz or \.png"):
        load()
    grey(tmp_path, np.zeros((H, W, 3), np.uint8))
    with pytest.raises(CurationError, match="not colours"):
        load()
    (tmp_path / "b.png").write_bytes(b"\x89PNG\r\n\x1a\n cut")
    with pytest.raises(CurationError, match="damaged"):
        load()
    (tmp_path / "b.npy").write_bytes(b"")
    with pytest.raises(CurationError, match="damaged"):
        load()
