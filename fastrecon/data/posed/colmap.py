"""COLMAP's sparse models, binary or text: cameras, pictures' poses, points."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..camera_files import AGAIN, CollectionError
from ..picture_files import read_bytes

Points = NDArray[np.float64]

PERSPECTIVE = {0: "SIMPLE_PINHOLE", 1: "PINHOLE", 2: "SIMPLE_RADIAL", 3: "RADIAL", 4: "OPENCV"}
PERSPECTIVE[6] = "FULL_OPENCV"
PARAMETERS = {"SIMPLE_PINHOLE": 3, "PINHOLE": 4, "SIMPLE_RADIAL": 4, "RADIAL": 5, "OPENCV": 8}
PARAMETERS["FULL_OPENCV"] = 12
ONE_FOCAL = ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL")


@dataclass(frozen=True)
class Lens:
    """A camera's intrinsics in pixels; distortion is left out."""

    width: int
    height: int
    focal: tuple[float, float]
    principal: tuple[float, float]  # from the picture's top left corner


@dataclass(frozen=True, eq=False)
class Model:
    """A sparse reconstruction."""

    lenses: dict[str, Lens]  # by picture, in the order of their names
    w2c: dict[str, Points]  # (4, 4), OpenCV axes, by picture
    points: Points  # (N, 3)


def read_model(folder: Path) -> Model:
    """Read ``cameras``, ``images`` and ``points3D``, as .bin files or else as .txt files.

    Raises:
        CollectionError: a file is missing or damaged, or a camera is not a perspective one.
    """
    cameras = _read(folder, "cameras", _cameras_bin, _cameras_txt)
    images = _read(folder, "images", _images_bin, _images_txt)
    points = _read(folder, "points3D", _points_bin, _points_txt)
    lenses, poses = {}, {}
    for name, camera, pose in sorted(images):
        if camera not in cameras:
            raise CollectionError(f"{folder} has no camera {camera}, that of {name}; {AGAIN}")
        lenses[name], poses[name] = cameras[camera], _w2c(pose)
    return Model(lenses, poses, np.array(points, np.float64).reshape(-1, 3))


def _read(
    folder: Path,
    name: str,
    binary: Callable[[io.BytesIO], Any],
    text: Callable[[Iterator[str]], Any],
) -> Any:
    path = folder / f"{name}.bin"
    if not path.exists() and (folder / f"{name}.txt").exists():
        path = folder / f"{name}.txt"
    data = read_bytes(path)
    try:
        if path.suffix == ".bin":
            return binary(io.BytesIO(data))
        lines = iter(data.decode().splitlines())
        return text(line for line in lines if not line.startswith("#"))
    except (ValueError, KeyError, IndexError, OverflowError, struct.error) as error:
        raise CollectionError(f"{path} is missing or damaged ({error}); {AGAIN}") from error


def _take(file: io.BytesIO, layout: str) -> tuple[Any, ...]:
    layout = "<" + layout
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _cameras_bin(file: io.BytesIO) -> dict[int, Lens]:
    found = {}
    for _ in range(_take(file, "Q")[0]):
        number, kind, width, height = _take(file, "iiQQ")
        model = PERSPECTIVE.get(kind, f"number {kind}")
        found[number] = _lens(
            model, width, height, list(_take(file, f"{PARAMETERS.get(model, 0)}d"))
        )
    return found


def _cameras_txt(lines: Iterator[str]) -> dict[int, Lens]:
    found = {}
    for words in filter(None, map(str.split, lines)):
        values = [float(word) for word in words[4:]]
        found[int(words[0])] = _lens(words[1], int(words[2]), int(words[3]), values)
    return found


def _lens(model: str, width: int, height: int, values: list[float]) -> Lens:
    if model not in PARAMETERS:
        raise ValueError(f"camera model {model}; undistort the pictures with COLMAP first")
    if not np.isfinite(values).all() or len(values) != PARAMETERS[model]:
        raise ValueError(f"a {model} camera with parameters {values}")
    if model in ONE_FOCAL:
        values = [values[0], *values]
    return Lens(width, height, (values[0], values[1]), (values[2], values[3]))


Image = tuple[str, int, tuple[float, ...]]
"""Name, camera, and the quaternion (w, x, y, z) and translation of world-to-camera."""


def _images_bin(file: io.BytesIO) -> list[Image]:
    found = []
    for _ in range(_take(file, "Q")[0]):
        _, *pose, camera = _take(file, "i7di")
        name = bytearray()
        while (letter := file.read(1)) != b"\0":
            if not letter:
                raise ValueError("it ends within a name")
            name += letter
        file.seek(24 * _take(file, "Q")[0], io.SEEK_CUR)  # the picture's key points
        found.append((name.decode(), camera, tuple(pose)))
    return found


def _images_txt(lines: Iterator[str]) -> list[Image]:
    found = []
    for line in lines:
        words = line.split(maxsplit=9)
        if words:
            found.append((words[9].strip(), int(words[8]), tuple(map(float, words[1:8]))))
            next(lines, None)  # the picture's key points
    return found


def _points_bin(file: io.BytesIO) -> list[tuple[float, ...]]:
    found = []
    for _ in range(_take(file, "Q")[0]):
        found.append(_take(file, "Q3d3Bd")[1:4])
        file.seek(8 * _take(file, "Q")[0], io.SEEK_CUR)  # where it was seen
    return found


def _points_txt(lines: Iterator[str]) -> list[tuple[float, ...]]:
    return [tuple(map(float, words[1:4])) for words in map(str.split, lines) if words]


def _w2c(pose: tuple[float, ...]) -> Points:
    """(4, 4) from a quaternion (w, x, y, z) and a translation."""
    from scipy.spatial.transform import Rotation

    w, x, y, z = pose[:4]
    matrix = np.eye(4)
    matrix[:3, :3] = Rotation.from_quat([x, y, z, w]).as_matrix()
    matrix[:3, 3] = pose[4:]
    return matrix
