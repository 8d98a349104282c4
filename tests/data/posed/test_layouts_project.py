"""In every layout, points that were drawn through known cameras lie where the cameras that are
read back see them: what catches OpenCV, PyTorch3D, NDC and axis mistakes."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fastrecon.cameras import pixel_rays
from fastrecon.data.posed import Collection, PosedViews, open_collection
from tests.data.posed import made_sets as made

RENDERED: dict[str, Callable[[Path], Path]] = {
    "gobjaverse": made.gobjaverse,
    "zero123": made.zero123,
    "nerf": made.nerf,
}


def pixels(views: PosedViews, k: int) -> np.ndarray:
    return (views.rgba[k] * 255).round().byte().permute(1, 2, 0).numpy()


def worst(views: PosedViews, points: np.ndarray, fov: np.ndarray | None = None) -> float:
    """Largest distance over the views, of at least half of the points."""
    found = []
    for k in range(len(views.c2w)):
        angle = float(views.fov_deg[k]) if fov is None else float(fov[k])
        found += made.offsets(pixels(views, k), points, views.c2w[k].numpy(), angle)
    assert len(found) >= 2 * len(views.c2w)
    return max(found)


@pytest.mark.parametrize("layout", RENDERED)
def test_rendered_layouts(tmp_path: Path, layout: str) -> None:
    RENDERED[layout](tmp_path / "deep" / "er" / "object")
    for chosen in ("auto", layout):
        collection = open_collection(tmp_path, chosen)
        assert (collection.layout, collection.names) == (layout, ["deep/er/object"])
        assert collection.n_views(0) == 3
        views = collection.views(0)
        assert views.rgba.shape == (3, 4, 64, 64)
        assert (views.rgba.dtype, views.c2w.dtype) == (torch.float32, torch.float64)
        assert torch.allclose(views.c2w, torch.from_numpy(made.cameras()), atol=1e-9)
        assert views.fov_deg.tolist() == pytest.approx([49.1 if layout == "zero123" else 40.0] * 3)
        assert worst(views, made.POINTS) < 0.35
    some = open_collection(tmp_path).views(0, [2, 0, 2])
    assert torch.equal(some.rgba, views.rgba[[2, 0, 2]])
    assert torch.equal(some.c2w, views.c2w[[2, 0, 2]])


def test_the_projection_of_the_tests_is_that_of_the_cameras() -> None:
    c2w = made.cameras()[1]
    at = made.project(made.POINTS, c2w, made.focal_of(made.FOV, 64), (32, 32))
    rays_o, rays_d = pixel_rays(torch.from_numpy(c2w), torch.from_numpy(at), 64, 64, made.FOV)
    along = torch.from_numpy(made.POINTS) - rays_o
    assert torch.linalg.cross(along, rays_d).norm(dim=-1).max() < 1e-9


def similarity(views: PosedViews, shots: list[made.Photo]) -> tuple[np.ndarray, float]:
    """Centre and scale between the data set's world and that of the views, from positions."""
    there = np.stack([shot.c2w[:3, 3] for shot in shots])
    here = views.c2w[:, :3, 3].numpy()
    scale = np.linalg.norm(there[0] - there[-1]) / np.linalg.norm(here[0] - here[-1])
    return there[0] - scale * here[0], float(scale)


REAL: dict[str, Callable[[Path, list[made.Photo]], Path]] = {
    "co3d isotropic": lambda root, shots: made.co3d(root, shots, "ndc_isotropic"),
    "co3d bounds": lambda root, shots: made.co3d(root, shots, "ndc_norm_image_bounds"),
    "mvimgnet bin": lambda root, shots: made.mvimgnet(root, shots, True),
    "mvimgnet txt": lambda root, shots: made.mvimgnet(root, shots, False),
}


def opened(path: Path, kind: str, **more) -> Collection:
    collection = open_collection(path, **more)
    assert collection.layout == kind.split()[0]
    assert collection.names == ["apple/1_2_3" if kind[0] == "c" else "7/0a1b"]
    return collection


@pytest.mark.parametrize("kind", REAL)
def test_photographs_as_they_were_measured(tmp_path: Path, kind: str) -> None:
    """The principal point is off the picture's centre, and off it in the crop."""
    shots = made.photos(offset=(5.0, -4.0))
    views = opened(REAL[kind](tmp_path, shots), kind, intrinsics="measured").views(0)
    centre, scale = similarity(views, shots)
    moved = (made.to_world(made.POINTS) - centre) / scale
    assert worst(views, moved) < 0.6
    # the cloud's centre is the object's, whatever is in the background
    assert np.linalg.norm(moved.mean(0)) < 0.02
    assert 0.9 < np.linalg.norm(moved, axis=1).max() < 1.3
    side = views.rgba.shape[-1]
    for k, shot in enumerate(shots):
        assert math.tan(math.radians(views.fov_deg[k]) / 2) == pytest.approx(side / 2 / shot.focal)


@pytest.mark.parametrize("kind", REAL)
def test_photographs_by_the_protocol(tmp_path: Path, kind: str) -> None:
    shots = made.photos()
    collection = opened(REAL[kind](tmp_path, shots), kind)
    views = collection.views(0)
    assert collection.input_view(0) == 2  # its mask is centred best
    assert float(views.fov_deg[2]) == pytest.approx(39.6)
    ratio = np.tan(np.radians(views.fov_deg.numpy()) / 2) / math.tan(math.radians(39.6) / 2)
    assert ratio == pytest.approx([shots[2].focal / shot.focal for shot in shots])
    rows, columns = np.nonzero(shots[2].mask)
    reach = max(columns.max() + 1 - 100, 100 - columns.min(), rows.max() + 1 - 75, 75 - rows.min())
    side = views.rgba.shape[-1]
    assert 0 <= side - 1.6 * 2 * reach < 2
    centre, scale = similarity(views, shots)
    moved = (made.to_world(made.POINTS) - centre) / scale
    lens = np.array([2 * math.degrees(math.atan(side / 2 / shot.focal)) for shot in shots])
    assert worst(views, moved, lens) < 0.8
    background = views.rgba[:, 3] == 0
    assert background.any()
    assert (views.rgba[:, :3].amax(1)[background] == 0).all()
    small = opened(tmp_path, kind, size=32).views(0, [1])
    assert small.rgba.shape == (1, 4, 32, 32)
    assert torch.equal(small.fov_deg, views.fov_deg[1:2])


def test_masks_of_other_sizes_and_places(tmp_path: Path) -> None:
    """MVImgNet's masks come as a tree of their own, some of them smaller than the pictures."""
    shots = made.photos()
    made.mvimgnet(tmp_path / "image", shots)
    masks = tmp_path / "image" / "7" / "0a1b" / "masks"
    before = open_collection(tmp_path / "image").views(0)
    for path in masks.iterdir():
        Image.open(path).resize((100, 75), Image.Resampling.NEAREST).save(path)
    (tmp_path / "mask" / "7").mkdir(parents=True)
    masks.rename(tmp_path / "mask" / "7" / "0a1b")
    for root, name in ((tmp_path, "image/7/0a1b"), (tmp_path / "image", "7/0a1b")):
        collection = open_collection(root)
        assert collection.names == [name]
        after = collection.views(0)
        assert abs(after.rgba.shape[-1] - before.rgba.shape[-1]) <= 4
        assert torch.allclose(after.c2w, before.c2w, atol=0.05)


def test_frames_without_the_object_are_left_out(tmp_path: Path) -> None:
    shots = made.photos()
    shots[0].mask[:] = 0
    collection = open_collection(made.co3d(tmp_path, shots))
    assert collection.n_views(0) == 3
    assert collection.input_view(0) == 1
    assert collection.cameras(0).names[0] == "frame000002.jpg"
