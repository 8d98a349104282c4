"""Views as files: what is written is what is read back, and means what the documents say."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from fastrecon.cameras import camera_rays, orbit_c2w
from fastrecon.data.camera_files import CollectionError
from fastrecon.data.layouts import (
    read_nerf,
    read_zero123,
    transforms_json,
    view_files,
    view_names,
)
from fastrecon.data.procedural.scene import Pictures

C2W = orbit_c2w(torch.tensor([0.0, 2.0]).double(), torch.tensor([0.0, 0.4]).double(), 2.0)
SCALE = 2.4 / 65535


@pytest.fixture
def pictures() -> Pictures:
    """A ball of radius 0.4, in rainbow colours, with half-covered pixels."""
    rays_o, rays_d = camera_rays(C2W.float(), 24, 24, 40.0)
    along = -(rays_o * rays_d).sum(-1)
    inside = 0.16 - ((rays_o**2).sum(-1) - along**2)
    depth = along - inside.clamp_min(0).sqrt()
    normal = torch.nn.functional.normalize(rays_o + depth[..., None] * rays_d, dim=-1)
    alpha = torch.where(inside > 0, torch.where(inside > 0.05, 1.0, 0.5), 0.0)
    shown = (alpha > 0)[..., None]
    rgba = torch.cat([(normal + 1) / 2 * shown, alpha[..., None]], -1)
    return Pictures(
        rgba.permute(0, 3, 1, 2)[None],
        (depth * shown[..., 0])[None],
        (normal * shown).permute(0, 3, 1, 2)[None],
    )


def write(folder: Path, pictures: Pictures, layout: str) -> Path:
    for kind in ("depth", "normal"):
        (folder / kind).mkdir(parents=True)
    for name, data in view_files(pictures, C2W, SCALE, view_names(2), layout):  # type: ignore[arg-type]
        (folder / name).write_bytes(data)
    transforms = transforms_json(C2W, 40.0, 24, SCALE, {"radius": 0.4})
    (folder / "transforms.json").write_bytes(transforms)
    return folder


@pytest.mark.parametrize("layout", ["nerf", "zero123"])
def test_round_trip(tmp_path: Path, pictures: Pictures, layout: str) -> None:
    folder = write(tmp_path / "ball", pictures, layout)
    views = read_nerf(folder) if layout == "nerf" else read_zero123(folder)
    assert torch.allclose(views.rgba, pictures.rgba[0], atol=0.5 / 255 + 1e-6)
    assert torch.allclose(views.c2w, C2W, atol=1e-12)
    assert views.fov_deg == pytest.approx(40.0)
    assert views.depth is not None
    assert views.normal is not None
    assert torch.allclose(views.depth, pictures.depth[0], atol=2e-5)  # 16 bits over 2 units
    assert torch.equal(views.depth == 0, pictures.depth[0] == 0)
    shown = pictures.rgba[0, :, 3] > 0
    agreement = (views.normal * pictures.normal[0]).sum(1)[shown]
    assert agreement.min() > math.cos(math.radians(0.5))
    assert (views.normal.norm(dim=1)[~shown] == 0).all()


def project(matrix: Tensor, point: Tensor) -> Tensor:
    """Pixel (x, y) of a world point, by a world-to-camera matrix of OpenGL axes, 24 x 24 at 40."""
    x, y, z = (matrix[:3, :3] @ point + matrix[:3, 3]).tolist()
    focal = 12 / math.tan(math.radians(20))
    return torch.tensor([12 + focal * x / -z, 12 - focal * y / -z])


def test_what_the_files_mean(tmp_path: Path, pictures: Pictures) -> None:
    """A point of the surface, from a pixel's depth, projects back to that pixel by the .npy."""
    folder = write(tmp_path / "ball", pictures, "zero123")
    said = json.loads((folder / "transforms.json").read_text())
    assert said["camera_angle_x"] == pytest.approx(math.radians(40))
    assert [frame["file_path"] for frame in said["frames"]] == ["./000", "./001"]
    assert (said["w"], said["h"], said["radius"]) == (24, 24, 0.4)
    depth = np.asarray(Image.open(folder / "depth" / "001.png"))
    assert depth.dtype == np.uint16
    c2w = torch.tensor(said["frames"][1]["transform_matrix"]).double()
    rays_o, rays_d = camera_rays(c2w, 24, 24, 40.0)
    point = rays_o[10, 13] + float(depth[10, 13]) * said["depth_scale"] * rays_d[10, 13]
    assert point.norm() == pytest.approx(0.4, abs=1e-4)
    matrix = torch.from_numpy(np.load(folder / "001.npy"))
    assert matrix.shape == (3, 4)
    assert torch.allclose(project(matrix, point), torch.tensor([13.5, 10.5]), atol=1e-3)
    normal = np.asarray(Image.open(folder / "normal" / "001.png"))[10, 13] / 127.5 - 1
    assert normal == pytest.approx((point / 0.4).numpy(), abs=0.01)
    assert np.asarray(Image.open(folder / "000.png")).shape == (24, 24, 4)


def test_folders_that_others_wrote(tmp_path: Path, pictures: Pictures) -> None:
    """NeRF's synthetic scenes have no depth; Zero123's renders no transforms.json either."""
    folder = write(tmp_path / "ball", pictures, "zero123")
    transforms = json.loads((folder / "transforms.json").read_text())
    del transforms["depth_scale"]
    (folder / "transforms.json").write_text(json.dumps(transforms))
    for kind in ("depth", "normal"):
        for path in (folder / kind).iterdir():
            path.unlink()
        (folder / kind).rmdir()
    views = read_nerf(folder)
    assert views.depth is None
    assert views.normal is None
    (folder / "transforms.json").unlink()
    views = read_zero123(folder)
    assert views.fov_deg == 49.1
    assert torch.allclose(views.c2w, C2W, atol=1e-12)


def test_many_views_stay_in_order() -> None:
    assert view_names(2) == ["000", "001"]
    names = view_names(1001)
    assert (names[0], names[-1]) == ("0000", "1000")
    assert sorted(names) == names


def test_damage_is_named(tmp_path: Path, pictures: Pictures) -> None:
    folder = write(tmp_path / "ball", pictures, "zero123")
    (folder / "001.npy").write_bytes(b"no array")
    with pytest.raises(CollectionError, match=r"001.npy is not a \(3, 4\) camera"):
        read_zero123(folder)
    (folder / "001.png").write_bytes((folder / "001.png").read_bytes()[:90])
    with pytest.raises(CollectionError, match=r"001.png is missing or damaged"):
        read_nerf(folder)
    (folder / "transforms.json").write_text('{"frames": [{}]}')
    with pytest.raises(CollectionError, match="file_path"):
        read_nerf(folder)
    (folder / "transforms.json").write_text("{")
    with pytest.raises(CollectionError, match=r"transforms.json is missing or damaged"):
        read_nerf(folder)
    with pytest.raises(CollectionError, match=r"has no NNN.npy"):
        read_zero123(tmp_path)


def test_arguments(pictures: Pictures) -> None:
    with pytest.raises(ValueError, match="layout must be"):
        list(view_files(pictures, C2W, SCALE, view_names(2), "blender"))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="of one object"):
        list(view_files(pictures, C2W[:1], SCALE, view_names(1), "nerf"))
    with pytest.raises(ValueError, match=r"depth_scale .* is too small for distances up to 1\.9"):
        list(view_files(pictures, C2W, SCALE / 2, view_names(2), "nerf"))
