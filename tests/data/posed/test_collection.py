"""What collections promise whatever the layout, and what they say about bad input."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastrecon.cameras import orbit_c2w
from fastrecon.data.posed import CollectionError, PosedViews, open_collection
from tests.data.posed import made_sets as made


def views_of(c2w: torch.Tensor) -> PosedViews:
    count = len(c2w)
    return PosedViews("x", torch.rand(count, 4, 2, 2), c2w, torch.arange(count).double() + 30)


def test_relative_to_is_exact() -> None:
    c2w = torch.from_numpy(made.cameras(5))
    views = views_of(c2w)
    moved = views.relative_to(2, 3.0)
    canonical = orbit_c2w(0.0, 0.0, torch.tensor(3.0).double())
    assert (moved.c2w[0] - canonical).abs().max() < 1e-12
    order = [2, 0, 1, 3, 4]
    assert torch.equal(moved.rgba, views.rgba[order])
    assert torch.equal(moved.fov_deg, views.fov_deg[order])
    scale = 3.0 / c2w[2, :3, 3].norm()
    for a, old in enumerate(order):
        for b, other in enumerate(order):
            before = torch.linalg.inv(c2w[old]) @ c2w[other]
            before[:3, 3] *= scale
            after = torch.linalg.inv(moved.c2w[a]) @ moved.c2w[b]
            assert (before - after).abs().max() < 1e-9
    # a camera that looks at the origin keeps it there
    aimed = torch.from_numpy(np.stack([made.orbit(0.7, 0.3, 2.0), made.orbit(1.7, -0.2, 1.5)]))
    turned = views_of(aimed).relative_to(0, 1.0).c2w
    assert turned[1, :3, 3].norm() == pytest.approx(0.75)
    assert (turned[1, :3, 3] / 0.75 - turned[1, :3, 2]).abs().max() < 1e-9


def test_relative_to_what_cannot_be() -> None:
    c2w = torch.from_numpy(made.cameras(2))
    with pytest.raises(ValueError, match="from 0 to 1, got 2"):
        views_of(c2w).relative_to(2, 1.0)
    with pytest.raises(ValueError, match="distance must be positive"):
        views_of(c2w).relative_to(0, 0.0)
    c2w[1, :3, 3] = 0
    with pytest.raises(CollectionError, match="view 1 of x stands at the origin"):
        views_of(c2w).relative_to(1, 1.0)


def test_many_objects_in_order_and_for_workers(tmp_path: Path) -> None:
    for name in ("b/2", "a/10", "a/9", ".partial-x", "c.d"):
        made.nerf(tmp_path / name, 1)
    collection = open_collection(str(tmp_path))
    assert collection.names == ["a/10", "a/9", "b/2", "c.d"]
    assert len(collection) == 4
    collection.views(0)
    copy = pickle.loads(pickle.dumps(collection))
    assert copy.names == collection.names
    assert torch.equal(copy.views(-1).rgba, collection.views(3).rgba)
    assert collection.views(0, [0]).name == "a/10"
    assert open_collection(tmp_path / "a" / "9").names == ["9"]
    with pytest.raises(IndexError):
        collection.views(4)
    with pytest.raises(IndexError):
        collection.views(0, [1])
    with pytest.raises(ValueError, match="at least one view"):
        collection.views(0, [])


def test_pictures_are_reduced_by_area_and_alpha(tmp_path: Path) -> None:
    made.nerf(tmp_path / "x", 1)
    rgba = np.zeros((64, 64, 4), np.uint8)
    rgba[:, :, 1] = 255  # green where it is clear, red where it is not
    rgba[:, 32:] = (200, 0, 0, 255)
    rgba[:, 33] = (0, 255, 0, 0)
    made.save(rgba, tmp_path / "x" / "images" / "r_0.png")
    assert open_collection(tmp_path, size=100).views(0).rgba.shape[-1] == 64
    small = open_collection(tmp_path, size=32).views(0).rgba[0, :, 16]
    assert small[3, 16] == pytest.approx(0.5, abs=0.01)
    assert small[:3, 16].tolist() == pytest.approx([200 / 255, 0, 0], abs=0.01)
    with pytest.raises(ValueError, match="size must be at least 0"):
        open_collection(tmp_path, size=-1)


def test_nothing_there(tmp_path: Path) -> None:
    with pytest.raises(CollectionError, match="does not exist"):
        open_collection(tmp_path / "nowhere")
    with pytest.raises(CollectionError, match=r"no objects .* sparse/0 \(mvimgnet\)"):
        open_collection(tmp_path)
    made.nerf(tmp_path / "a", 1)
    with pytest.raises(CollectionError, match="looked for the layout zero123"):
        open_collection(tmp_path, "zero123")
    with pytest.raises(ValueError, match="layout must be"):
        open_collection(tmp_path, "blender")
    made.zero123(tmp_path / "b", 1)
    with pytest.raises(CollectionError, match=r"several layouts \(nerf, zero123\)"):
        open_collection(tmp_path)
    assert open_collection(tmp_path, "zero123").names == ["b"]


def damaged(folder: Path, match: str, view: int = 0) -> None:
    with pytest.raises(CollectionError, match=match):
        open_collection(folder).views(0, [view])


def test_bad_transforms(tmp_path: Path) -> None:
    said = json.loads((made.nerf(tmp_path / "x", 2) / "transforms.json").read_text())
    path = tmp_path / "x" / "transforms.json"

    def write(**changes) -> None:
        path.write_text(json.dumps({**said, **changes}))

    path.write_text("{")
    damaged(tmp_path, r"x/transforms.json is missing or damaged")
    write(frames=[])
    damaged(tmp_path, r"transforms.json has no frames")
    write(frames=[{"file_path": "r_0"}])
    damaged(tmp_path, "transform_matrix")
    write(camera_angle_x=0)
    damaged(tmp_path, "field of view of 0 radians")
    write(camera_angle_x=None)
    damaged(tmp_path, "field of view of None")
    write(input_view=2)
    damaged(tmp_path, "no frame 2")
    poses = np.array([frame["transform_matrix"] for frame in said["frames"]])
    for change, match in (
        (np.nan, "NaN"),
        (9.0, "not a rotation"),
        ("word", "no matrix"),
    ):
        wrong = poses.astype(object)
        wrong[1, 0, 0] = change
        frames = [{"file_path": f"r_{k}", "transform_matrix": wrong[k].tolist()} for k in (0, 1)]
        write(frames=frames)
        damaged(tmp_path, match)
    write(frames=[{"file_path": "r_0", "transform_matrix": (poses[0] * [-1, 1, 1, 1]).tolist()}])
    damaged(tmp_path, "mirrored")
    write(frames=[{"file_path": "r_0", "transform_matrix": poses[0, :2].tolist()}])
    damaged(tmp_path, "shape")


def test_every_frame_may_have_its_field_of_view(tmp_path: Path) -> None:
    said = json.loads((made.nerf(tmp_path / "x", 2) / "transforms.json").read_text())
    said["frames"][1]["camera_angle_x"] = 1.0
    (tmp_path / "x" / "transforms.json").write_text(json.dumps({**said, "input_view": 1}))
    collection = open_collection(tmp_path)
    assert collection.views(0).fov_deg.tolist() == pytest.approx([40.0, np.degrees(1.0)])
    assert collection.input_view(0) == 1


def test_bad_pictures(tmp_path: Path) -> None:
    picture = made.nerf(tmp_path / "x", 2) / "images" / "r_1.png"
    whole = picture.read_bytes()
    made.save(np.zeros((32, 32, 4), np.uint8), picture)
    assert open_collection(tmp_path).views(0, [0]).rgba.shape[-1] == 64
    with pytest.raises(CollectionError, match=r"r_1 of x .* 32 x 32 px, others are 64 x 64"):
        open_collection(tmp_path).views(0)
    made.save(np.zeros((32, 64, 4), np.uint8), picture)
    damaged(tmp_path, "all must be squares", 1)
    Image.new("RGB", (64, 64)).save(picture)
    damaged(tmp_path, r"r_1.png has no alpha channel", 1)
    picture.write_bytes(whole[: len(whole) // 2])
    damaged(tmp_path, r"r_1.png is missing or damaged", 1)
    picture.write_bytes(b"")
    damaged(tmp_path, r"r_1.png is missing or damaged", 1)
    picture.unlink()
    damaged(tmp_path, r"r_1.png is missing or damaged", 1)
    assert open_collection(tmp_path).views(0, [0]).rgba.shape[0] == 1


def test_bad_gobjaverse_and_zero123(tmp_path: Path) -> None:
    path = made.gobjaverse(tmp_path / "g" / "x", 2) / "00001" / "00001.json"
    said = json.loads(path.read_text())
    for wrong, match in (
        ({**said, "x": [1.0, float("nan"), 0.0]}, "00001.json has a pose with NaN"),
        ({**said, "x": [1.0]}, "damaged pose"),
        ({**said, "y_fov": -1}, "field of view"),
        ({key: said[key] for key in said if key != "origin"}, "00001.json has no 'origin'"),
        ([], "damaged pose|has no"),
    ):
        path.write_text(json.dumps(wrong))
        damaged(tmp_path / "g", match)
    path.unlink()
    damaged(tmp_path / "g", "00001.json is missing")
    matrix = made.zero123(tmp_path / "z" / "x", 2) / "001.npy"
    np.save(matrix, np.full((3, 4), np.nan))
    damaged(tmp_path / "z", "001.npy has a pose with NaN")
    np.save(matrix, np.eye(2))
    damaged(tmp_path / "z", r"001.npy is not a \(3, 4\) camera")


def test_bad_co3d(tmp_path: Path) -> None:
    shots = made.photos()
    made.co3d(tmp_path, shots)
    place = tmp_path / "apple" / "1_2_3"
    mask, image = place / "masks" / "frame000002.png", place / "images" / "frame000002.jpg"
    Image.new("L", (20, 90)).save(mask)
    damaged(tmp_path, r"frame000002.png is for 20 x 90 px, but .*000002.jpg has 200 x 150")
    made.save(shots[1].mask, mask)
    image.write_bytes(b"\xff\xd8")
    damaged(tmp_path, r"frame000002.jpg is missing or damaged")
    shutil.copy(image.with_name("frame000001.jpg"), image)
    (place / "pointcloud.ply").write_bytes(b"ply\nnonsense")
    damaged(tmp_path, "pointcloud.ply is missing or damaged|no point of the object")
    (place / "pointcloud.ply").unlink()
    damaged(tmp_path, "pointcloud.ply is missing")
    made.ply(place / "pointcloud.ply", made.CLOUD)
    for path in place.glob("masks/*"):
        made.save(np.zeros((150, 200), np.uint8), path)
    damaged(tmp_path, "no view of apple/1_2_3 .* all masks are empty")
    made.jgz(tmp_path / "apple" / "frame_annotations.jgz", [])
    damaged(tmp_path, "no frame of 1_2_3")
    made.jgz(
        tmp_path / "apple" / "frame_annotations.jgz",
        [
            {
                "sequence_name": "1_2_3",
                "frame_number": 4,
                "mask": {"path": "x"},
                "viewpoint": {"R": 1},
            }
        ],
    )
    damaged(tmp_path, "damaged frame 4")
    (tmp_path / "apple" / "sequence_annotations.jgz").write_bytes(b"no gzip")
    damaged(tmp_path, "sequence_annotations.jgz is missing or damaged")
    made.jgz(tmp_path / "apple" / "sequence_annotations.jgz", [{"sequence_name": "1"}])
    damaged(tmp_path, "no sequence with a point cloud")


def test_bad_mvimgnet(tmp_path: Path) -> None:
    made.mvimgnet(tmp_path, made.photos())
    sparse = tmp_path / "7" / "0a1b" / "sparse" / "0"
    for name in ("cameras.bin", "images.bin", "points3D.bin"):
        whole = (sparse / name).read_bytes()
        (sparse / name).write_bytes(whole[:50])
        damaged(tmp_path, f"{name} is missing or damaged")
        (sparse / name).unlink()
        damaged(tmp_path, f"{name} is missing or damaged")
        (sparse / name).write_bytes(whole)
    with pytest.raises(ValueError, match="intrinsics must be"):
        open_collection(tmp_path, intrinsics="guessed")  # type: ignore[arg-type]
    shutil.rmtree(tmp_path / "7" / "0a1b" / "masks")
    damaged(tmp_path, r"masks/000.jpg.png is missing")
    (sparse / "cameras.bin").unlink()
    (sparse / "cameras.txt").write_text("1 OPENCV_FISHEYE 200 150 1 2 3 4 5 6 7 8\n")
    damaged(tmp_path, "camera model OPENCV_FISHEYE; undistort")
