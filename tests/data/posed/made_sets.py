"""Tiny data sets in every layout, drawn from known points through known cameras."""

from __future__ import annotations

import gzip
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from fastrecon.cameras import orbit_c2w

POINTS = np.array([[0.0, 0, 0.3], [0.25, 0, -0.2], [-0.2, 0.2, 0], [0, -0.3, 0.05]])
COLOURS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]], np.uint8)
SIZE = 64
FOV = 40.0
TO_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
TO_PYTORCH3D = np.diag([-1.0, 1.0, -1.0, 1.0])
CLOUD = (POINTS[:, None] + 0.03 * np.random.default_rng(1).standard_normal((1, 60, 3))).reshape(
    -1, 3
)


def orbit(*where: float) -> np.ndarray:
    return orbit_c2w(*torch.tensor(where, dtype=torch.float64)).numpy()


def cameras(count: int = 3) -> np.ndarray:
    """OpenGL poses that roll, and do not quite look at the origin: no axis is like another."""
    angles = np.linspace(0.3, 2.6, count)
    found = []
    for k, angle in enumerate(angles):
        c2w = orbit(float(angle), 0.2 + 0.2 * k, 1.7 + 0.1 * k)
        roll = np.eye(4)
        c, s = math.cos(0.3 * k + 0.2), math.sin(0.3 * k + 0.2)
        roll[:2, :2] = [[c, -s], [s, c]]
        c2w = c2w @ roll
        c2w[:3, 3] += [0.02, -0.03 * k, 0.03]
        found.append(c2w)
    return np.stack(found)


def project(points: np.ndarray, c2w: np.ndarray, focal: float, centre: tuple) -> np.ndarray:
    """Pixels (N, 2) of points by the pinhole model of OpenGL cameras."""
    local = (points - c2w[:3, 3]) @ c2w[:3, :3]
    return np.stack(
        [
            centre[0] + focal * local[:, 0] / -local[:, 2],
            centre[1] + focal * local[:, 1] / local[:, 2],
        ],
        -1,
    )


def focal_of(fov_deg: float, size: int) -> float:
    return size / 2 / math.tan(math.radians(fov_deg) / 2)


def draw(pixels: np.ndarray, width: int, height: int, radius: float = 2.5) -> np.ndarray:
    """RGBA with a disc of every point's colour."""
    y, x = np.mgrid[:height, :width] + 0.5
    rgba = np.zeros((height, width, 4), np.uint8)
    for (px, py), colour in zip(pixels, COLOURS, strict=True):
        rgba[(x - px) ** 2 + (y - py) ** 2 < radius**2] = [*colour, 255]
    return rgba


def rendered(c2w: np.ndarray, size: int = SIZE, fov: float = FOV) -> np.ndarray:
    return draw(project(POINTS, c2w, focal_of(fov, size), (size / 2, size / 2)), size, size)


def offsets(rgba: np.ndarray, points: np.ndarray, c2w: np.ndarray, fov: float) -> list[float]:
    """How far every point that shows wholly lies from where the camera sees it, pixels."""
    size = rgba.shape[0]
    found = []
    pixels = project(points, c2w, focal_of(fov, size), (size / 2, size / 2))
    y, x = np.mgrid[:size, :size] + 0.5
    for pixel, colour in zip(pixels, COLOURS, strict=True):
        same = np.abs(rgba[..., :3].astype(int) - colour).max(-1) < 90
        same &= rgba[..., 3] > 128
        others = np.linalg.norm(pixels - pixel, axis=1)
        near = (others > 0) & (others < 10)
        if near.any() or not (pixel > 8).all() or not (pixel < size - 8).all():
            continue
        assert same.any(), f"no pixel of colour {colour}"
        found.append(math.hypot(x[same].mean() - pixel[0], y[same].mean() - pixel[1]))
    return found


def save(rgba: np.ndarray, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rgba).save(path)


def gobjaverse(folder: Path, count: int = 3) -> Path:
    for k, c2w in enumerate(cameras(count)):
        place = folder / f"{k:05d}"
        save(rendered(c2w), place / f"{k:05d}.png")
        x, y, z, origin = (c2w @ TO_OPENCV)[:3].T.tolist()
        angle = math.radians(FOV)
        said = {"x": x, "y": y, "z": z, "origin": origin, "x_fov": angle, "y_fov": angle}
        (place / f"{k:05d}.json").write_text(json.dumps({**said, "bbox": [[0, 0, 0]] * 2}))
    return folder


def zero123(folder: Path, count: int = 3) -> Path:
    for k, c2w in enumerate(cameras(count)):
        save(rendered(c2w, fov=49.1), folder / f"{k:03d}.png")
        np.save(folder / f"{k:03d}.npy", np.linalg.inv(c2w)[:3])
    return folder


def nerf(folder: Path, count: int = 3) -> Path:
    frames = []
    for k, c2w in enumerate(cameras(count)):
        save(rendered(c2w), folder / "images" / f"r_{k}.png")
        frames.append({"file_path": f"r_{k}", "transform_matrix": c2w.tolist()})
    said = {"camera_angle_x": math.radians(FOV), "frames": frames}
    (folder / "transforms.json").write_text(json.dumps(said))
    return folder


@dataclass
class Photo:
    """A photograph of the points on a grey body, with its mask and pinhole camera."""

    rgb: np.ndarray
    mask: np.ndarray
    c2w: np.ndarray  # in the data set's own units
    focal: float
    centre: tuple[float, float]


TURN, SHIFT, UNIT = orbit(0.4, -0.7, 1.0)[:3, :3], [3.0, -2.0, 5.0], 4.0


def to_world(points: np.ndarray) -> np.ndarray:
    """From the points' own axes to a world with another origin, unit and up."""
    return points * UNIT @ TURN.T + SHIFT


def photos(count: int = 4, width: int = 200, height: int = 150, offset=(0.0, 0.0)) -> list[Photo]:
    """Photographs with different focal lengths; the third is centred best."""
    rng = np.random.default_rng(0)
    found = []
    for k, c2w in enumerate(cameras(count)):
        focal = 150.0 + 6 * k
        centre = (width / 2 + offset[0], height / 2 + offset[1])
        c2w = c2w.copy()
        c2w[:3, 3] = 1.9 * c2w[:3, 2] + 0.06 * abs(k - 2) * c2w[:3, 0]
        pixels = project(POINTS, c2w, focal, centre)
        middle = project(np.zeros((1, 3)), c2w, focal, centre)[0]
        y, x = np.mgrid[:height, :width] + 0.5
        inside = (x - middle[0]) ** 2 + (y - middle[1]) ** 2 < 42**2
        rgb = rng.integers(0, 80, (height, width, 3)).astype(np.uint8)
        rgb[inside] = 128
        drawn = draw(pixels, width, height, 3.5)
        shown = drawn[..., 3] > 0
        rgb[shown] = drawn[shown][:, :3]
        world = np.eye(4)
        world[:3, :3] = TURN @ c2w[:3, :3]
        world[:3, 3] = to_world(c2w[None, :3, 3])[0]
        found.append(Photo(rgb, inside.astype(np.uint8) * 255, world, focal, centre))
    return found


def ply(path: Path, points: np.ndarray) -> None:
    head = f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n"
    head += "".join(f"property float {axis}\n" for axis in "xyz") + "end_header\n"
    path.write_bytes(head.encode() + points.astype("<f4").tobytes())


def jgz(path: Path, entries: list) -> None:
    path.write_bytes(gzip.compress(json.dumps(entries).encode()))


def co3d(root: Path, shots: list[Photo], kind: str = "ndc_isotropic") -> Path:
    """One sequence "apple/1_2_3", and one without a point cloud."""
    place = root / "apple" / "1_2_3"
    frames = []
    for k, shot in enumerate(shots):
        height, width = shot.mask.shape
        image, mask = f"images/frame{k + 1:06d}.jpg", f"masks/frame{k + 1:06d}.png"
        (place / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(shot.rgb).save(place / image, quality=100, subsampling=0)
        save(shot.mask, place / mask)
        w2c = TO_PYTORCH3D @ np.linalg.inv(shot.c2w)
        half = np.array([width, height]) / 2
        unit = np.full(2, half.min()) if kind == "ndc_isotropic" else half
        viewpoint = {
            "R": w2c[:3, :3].T.tolist(),
            "T": w2c[:3, 3].tolist(),
            "focal_length": (shot.focal / unit).tolist(),
            "principal_point": ((half - shot.centre) / unit).tolist(),
            "intrinsics_format": kind,
        }
        frames.append(
            {
                "sequence_name": "1_2_3",
                "frame_number": k + 1,
                "image": {"path": f"apple/1_2_3/{image}", "size": [height, width]},
                "mask": {"path": f"apple/1_2_3/{mask}", "mass": 1.0},
                "viewpoint": viewpoint,
            }
        )
    ply(place / "pointcloud.ply", to_world(CLOUD))
    jgz(root / "apple" / "frame_annotations.jgz", frames[::-1])
    cloud = {"path": "apple/1_2_3/pointcloud.ply", "quality_score": 1.0}
    entries = [{"sequence_name": "1_2_3", "category": "apple", "point_cloud": cloud}]
    entries.append({"sequence_name": "9_9_9", "category": "apple", "point_cloud": None})
    jgz(root / "apple" / "sequence_annotations.jgz", entries)
    return root


def quaternion(turn: np.ndarray) -> np.ndarray:
    from scipy.spatial.transform import Rotation

    x, y, z, w = Rotation.from_matrix(turn).as_quat()
    return np.array([w, x, y, z])


def mvimgnet(root: Path, shots: list[Photo], binary: bool = True) -> Path:
    """An instance "7/0a1b" with a camera for each picture, and points of the background too."""
    place = root / "7" / "0a1b"
    sparse = place / "sparse" / "0"
    sparse.mkdir(parents=True)
    (place / "images").mkdir()
    lenses, images = [], []
    for k, shot in enumerate(shots):
        name = f"{k:03d}.jpg"
        Image.fromarray(shot.rgb).save(place / "images" / name, quality=100, subsampling=0)
        save(shot.mask, place / "masks" / f"{name}.png")
        w2c = TO_OPENCV @ np.linalg.inv(shot.c2w)
        height, width = shot.mask.shape
        lenses.append((k + 1, width, height, [shot.focal, *shot.centre, 0.01]))
        images.append((k + 1, [*quaternion(w2c[:3, :3]), *w2c[:3, 3]], name))
    far = np.random.default_rng(2).standard_normal((300, 3))
    far = 4 * far / np.linalg.norm(far, axis=1, keepdims=True)
    points = to_world(np.concatenate([CLOUD, far]))
    images.reverse()  # COLMAP's own order is by chance
    if binary:
        packed = struct.pack("<Q", len(lenses))
        for number, width, height, values in lenses:
            packed += struct.pack("<iiQQ4d", number, 2, width, height, *values)
        (sparse / "cameras.bin").write_bytes(packed)
        packed = struct.pack("<Q", len(images))
        for number, pose, name in images:
            packed += struct.pack("<i7di", number, *pose, number) + name.encode() + b"\0"
            packed += struct.pack("<Q2dq", 1, 5.0, 6.0, -1)
        (sparse / "images.bin").write_bytes(packed)
        packed = struct.pack("<Q", len(points))
        for k, point in enumerate(points):
            packed += struct.pack("<Q3d3BdQ", k, *point, 9, 9, 9, 0.5, 2) + bytes(16)
        (sparse / "points3D.bin").write_bytes(packed)
        return root
    lines = [f"{n} SIMPLE_RADIAL {w} {h} {' '.join(map(str, v))}" for n, w, h, v in lenses]
    (sparse / "cameras.txt").write_text("\n".join(["# cameras", *lines]) + "\n")
    lines = [f"{n} {' '.join(map(repr, map(float, p)))} {n} {name}" for n, p, name in images]
    text = "# images\n" + "".join(
        f"{line}\n{'' if k % 2 else '5 6 -1'}\n" for k, line in enumerate(lines)
    )
    (sparse / "images.txt").write_text(text)
    lines = [f"{k} {x!r} {y!r} {z!r} 9 9 9 0.5 1 2" for k, (x, y, z) in enumerate(points.tolist())]
    (sparse / "points3D.txt").write_text("\n".join(["# points", *lines]) + "\n")
    return root
