"""Cameras of rendered views, from the files that three layouts keep beside the pictures.

All come out alike: camera-to-world matrices of OpenGL cameras (see ``fastrecon.cameras``) in the
world that the files are in, which has z up in all three layouts. Contents come as bytes under a
label, so that folders and tar shards are read by the same code.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TRANSFORMS = "transforms.json"
INPUT_VIEW = "input_view"
ZERO123_FOV = 49.1
"""Degrees; of Zero123's renders, whose folders do not say it."""
RIGID = 1e-2
"""How far a rotation's rows may be from orthonormal: files round, but do not shear."""
AGAIN = "copy or render it again, or remove the object"

Matrix = NDArray[np.float64]


class CollectionError(ValueError):
    """Views or pictures that cannot be read; the message names the file and what to do."""


@dataclass(frozen=True, eq=False)
class Cameras:
    """The cameras of V views of one object, and what their pictures are called."""

    names: tuple[str, ...]
    c2w: Matrix  # (V, 4, 4) OpenGL
    fov_deg: Matrix  # (V,) vertical
    input_view: int = 0  # the one to reconstruct from, by an evaluation's protocol


def rigid(c2w: Any, label: str) -> Matrix:
    """Poses (..., 4, 4) or (..., 3, 4) as float64 (..., 4, 4), checked.

    Raises:
        CollectionError: of another shape, not finite, or not a rotation and a position.
    """
    try:
        poses = np.asarray(c2w, np.float64)
    except (TypeError, ValueError) as error:
        raise CollectionError(f"{label} has a pose that is no matrix ({error}); {AGAIN}") from error
    if poses.shape[-2:] not in ((3, 4), (4, 4)):
        raise CollectionError(f"{label} has a pose of shape {poses.shape}, not (4, 4); {AGAIN}")
    if not np.isfinite(poses).all():
        raise CollectionError(f"{label} has a pose with NaN or infinite values; {AGAIN}")
    whole = np.zeros((*poses.shape[:-2], 4, 4))
    whole[..., :3, :] = poses[..., :3, :]
    whole[..., 3, 3] = 1.0
    turn = whole[..., :3, :3]
    error = np.abs(turn @ turn.swapaxes(-1, -2) - np.eye(3)).max(initial=0.0)
    if error > RIGID or (np.linalg.det(turn) < 0).any():
        raise CollectionError(
            f"{label} has a pose that is not a rotation and a position (off by {error:.2g}, or "
            f"mirrored); {AGAIN}"
        )
    return whole


def field_of_view(radians: Any, label: str) -> float:
    """A field of view in degrees, from radians.

    Raises:
        CollectionError: not between 0 and pi.
    """
    if isinstance(radians, (int, float)) and 0 < radians < math.pi:
        return math.degrees(radians)
    raise CollectionError(f"{label} has a field of view of {radians!r} radians; {AGAIN}")


def parse_json(data: bytes, label: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CollectionError: damaged, or something else.
    """
    try:
        return dict(json.loads(data))
    except (ValueError, TypeError) as error:
        raise CollectionError(f"{label} is missing or damaged ({error}); {AGAIN}") from error


def transforms_cameras(transforms: Mapping[str, Any], label: str) -> Cameras:
    """The frames of a transforms.json: NeRF's synthetic scenes, OmniObject3D, our own.

    ``camera_angle_x`` (radians) stands at the top, or in every frame where they differ. A frame's
    ``file_path`` may or may not have a leading ``./`` and an ending. ``input_view``, an index of
    the frames, is our own addition.

    Raises:
        CollectionError: something is not there, or makes no sense.
    """
    try:
        frames = list(transforms["frames"])
        names = tuple(str(frame["file_path"]).removeprefix("./") for frame in frames)
        c2w = [frame["transform_matrix"] for frame in frames]
        angles = [frame.get("camera_angle_x", transforms.get("camera_angle_x")) for frame in frames]
    except (KeyError, TypeError, AttributeError) as error:
        raise CollectionError(
            f"{label} has no frames with file_path and transform_matrix "
            f"({type(error).__name__}: {error}); {AGAIN}"
        ) from error
    if not frames:
        raise CollectionError(f"{label} has no frames; {AGAIN}")
    fov = np.array([field_of_view(angle, label) for angle in angles])
    chosen = transforms.get(INPUT_VIEW, 0)
    if not isinstance(chosen, int) or not 0 <= chosen < len(frames):
        raise CollectionError(f"{label} has no frame {chosen!r}, its {INPUT_VIEW}; {AGAIN}")
    return Cameras(names, rigid(c2w, label), fov, chosen)


def zero123_pose(data: bytes, label: str) -> Matrix:
    """(4, 4) from an ``NNN.npy`` of Zero123's renders: (3, 4) world-to-camera, OpenGL axes.

    Raises:
        CollectionError: damaged, or something else.
    """
    try:
        matrix = np.load(io.BytesIO(data), allow_pickle=False)
        if matrix.shape not in ((3, 4), (4, 4)):
            raise ValueError(f"its shape is {matrix.shape}")
    except (OSError, ValueError, EOFError) as error:
        raise CollectionError(f"{label} is not a (3, 4) camera ({error}); {AGAIN}") from error
    return inverse(rigid(matrix, label))


def inverse(poses: Matrix) -> Matrix:
    """World-to-camera from camera-to-world (..., 4, 4), or the other way round."""
    return np.linalg.inv(poses).astype(np.float64)


def gobjaverse_camera(data: bytes, label: str) -> tuple[Matrix, float]:
    """Pose (4, 4) and vertical field of view from an ``NNNNN.json`` of GObjaverse.

    ``x``, ``y``, ``z`` and ``origin`` are the columns of an OpenCV camera-to-world matrix (x right,
    y down, z forward) in Blender's world; ``x_fov`` and ``y_fov`` are radians.

    Raises:
        CollectionError: something is not there, or makes no sense.
    """
    said = parse_json(data, label)
    try:
        x, y, z, origin = (np.asarray(said[key], np.float64) for key in ("x", "y", "z", "origin"))
        pose = rigid(np.stack([x, -y, -z, origin], axis=-1), label)
        return pose, field_of_view(said["y_fov"], label)
    except KeyError as error:
        raise CollectionError(f"{label} has no {error}; {AGAIN}") from error
    except (TypeError, ValueError) as error:
        if isinstance(error, CollectionError):
            raise
        raise CollectionError(f"{label} has a damaged pose ({error}); {AGAIN}") from error


def frames_json(
    c2w: Any,
    fov_deg: float | Sequence[float],
    size: int,
    names: Sequence[str],
    extra: Mapping[str, Any],
) -> bytes:
    """The contents of a transforms.json for the views of an object, (V, 4, 4).

    Args:
        fov_deg: of all views, or of each.
        size: side of the pictures, pixels.
        names: of the pictures, without ending.
        extra: further entries, before the frames.
    """
    poses = np.asarray(c2w, np.float64).tolist()
    fov = [fov_deg] * len(poses) if isinstance(fov_deg, (int, float)) else list(fov_deg)
    angles = [math.radians(degrees) for degrees in fov]
    frames: list[dict[str, Any]] = [
        {"file_path": f"./{name}", "transform_matrix": pose}
        for name, pose in zip(names, poses, strict=True)
    ]
    shared = len(set(angles)) <= 1
    if not shared:
        for frame, angle in zip(frames, angles, strict=True):
            frame["camera_angle_x"] = angle
    top = {"camera_angle_x": angles[0]} if shared and angles else {}
    said = {**top, "w": size, "h": size, **extra, "frames": frames}
    return json.dumps(said, indent=1).encode()
