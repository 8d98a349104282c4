"""CO3D: categories with ``frame_annotations.jgz``, ``sequence_annotations.jgz`` and their files.

Cameras are PyTorch3D's: a world point is a row that R multiplies from the right before T is added,
and the camera has x to the left, y up and z forward. Focal lengths and principal points are in NDC,
of half the picture's shorter side ("ndc_isotropic") or of half of each ("ndc_norm_image_bounds"),
with x to the left and y up too. The world is COLMAP's, so that up is no axis.
"""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from ..camera_files import AGAIN, CollectionError, Matrix, inverse
from ..picture_files import read_bytes
from .collection import Kept
from .real import Frame, Intrinsics, RealCollection

FRAMES = "frame_annotations.jgz"
SEQUENCES = "sequence_annotations.jgz"
PYTORCH3D_TO_OPENGL = np.diag([-1.0, 1.0, -1.0])


def is_co3d(path: Path) -> bool:
    """Whether a folder is CO3D's, or one of its categories."""
    return bool(_categories(path))


class CO3D(RealCollection):
    """Sequences of CO3D that have a point cloud, as "category/sequence".

    A category's annotations are one file of up to hundreds of MB, which is read when one of its
    objects is first asked for, and kept for that category alone; pack what training reads.
    """

    layout = "co3d"
    votes = False  # the clouds are of the objects

    def __init__(self, path: Path, size: int = 0, intrinsics: Intrinsics = "protocol") -> None:
        self._clouds: dict[str, str] = {}
        self._roots: dict[str, Path] = {}
        for folder in _categories(path):
            for entry in _load(folder / SEQUENCES):
                cloud = (entry.get("point_cloud") or {}).get("path")
                if cloud:
                    name = f"{entry.get('category') or folder.name}/{entry['sequence_name']}"
                    self._clouds[name] = cloud
                    self._roots[name] = folder
        if not self._clouds:
            raise CollectionError(
                f"{path} has no sequence with a point cloud in its {SEQUENCES}; poses cannot be "
                "centred without"
            )
        super().__init__(path, sorted(self._clouds), size, intrinsics)
        self._annotations: Kept[dict[str, list[dict[str, Any]]]] = Kept(1)
        self._order = sorted({str(folder) for folder in self._roots.values()})

    def _frames(self, index: int) -> list[Frame]:
        folder = self._roots[self.names[index]]
        key = self._order.index(str(folder))
        known = self._annotations.get(key) or self._annotations.put(key, _by_sequence(folder))
        sequence = self.names[index].rpartition("/")[2]
        found = [
            _frame(entry, folder)
            for entry in sorted(known.get(sequence, []), key=lambda entry: entry["frame_number"])
        ]
        if not found:
            raise CollectionError(
                f"{folder / FRAMES} has no frame of {sequence} with a camera and a mask; {AGAIN}"
            )
        return found

    def _points(self, index: int) -> Matrix:
        import trimesh

        name = self.names[index]
        path = self._roots[name].parent / self._clouds[name]
        if not path.is_file():
            raise CollectionError(f"{path} is missing or damaged (no such file); {AGAIN}")
        try:
            with path.open("rb") as file:
                points = np.asarray(getattr(trimesh.load(file, file_type="ply"), "vertices", ()))
        except Exception as error:  # whatever a damaged file makes the parser stumble over
            raise CollectionError(f"{path} is missing or damaged ({error}); {AGAIN}") from error
        return points.reshape(-1, 3).astype(np.float64)


def _categories(path: Path) -> list[Path]:
    if (path / FRAMES).is_file():
        return [path.absolute()]
    return sorted(file.parent.absolute() for file in path.glob(f"*/{FRAMES}"))


def _load(path: Path) -> list[dict[str, Any]]:
    try:
        return [dict(entry) for entry in json.loads(gzip.decompress(read_bytes(path)))]
    except (OSError, EOFError, ValueError, TypeError, zlib.error) as error:
        if isinstance(error, CollectionError):
            raise
        raise CollectionError(f"{path} is missing or damaged ({error}); {AGAIN}") from error


def _by_sequence(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """What is needed of a category's frames, those with a camera and a mask."""
    found: dict[str, list[dict[str, Any]]] = {}
    kept = ("frame_number", "image", "mask", "viewpoint")
    for entry in _load(folder / FRAMES):
        if entry.get("viewpoint") and (entry.get("mask") or {}).get("path"):
            short = {key: entry[key] for key in kept if key in entry}
            found.setdefault(str(entry.get("sequence_name")), []).append(short)
    return found


def _frame(entry: dict[str, Any], folder: Path) -> Frame:
    try:
        camera, image = entry["viewpoint"], entry["image"]
        height, width = (int(side) for side in image["size"])
        half = np.array([width, height]) / 2
        kind = camera.get("intrinsics_format", "ndc_norm_image_bounds").lower()
        if kind not in ("ndc_isotropic", "ndc_norm_image_bounds"):
            raise ValueError(f"intrinsics_format {kind!r}")
        unit = half if kind == "ndc_norm_image_bounds" else np.full(2, half.min())
        focal = np.asarray(camera["focal_length"], np.float64) * unit
        principal = half - np.asarray(camera["principal_point"], np.float64) * unit
        w2c = np.eye(4)
        w2c[:3, :3] = PYTORCH3D_TO_OPENGL @ np.asarray(camera["R"], np.float64).T
        w2c[:3, 3] = PYTORCH3D_TO_OPENGL @ np.asarray(camera["T"], np.float64)
        return Frame(
            Path(image["path"]).name,
            folder.parent / image["path"],
            folder.parent / entry["mask"]["path"],
            (width, height),
            (float(focal[0]), float(focal[1])),
            (float(principal[0]), float(principal[1])),
            inverse(w2c),
        )
    except (KeyError, TypeError, ValueError, np.linalg.LinAlgError) as error:
        raise CollectionError(
            f"{folder / FRAMES} has a damaged frame {entry.get('frame_number')} "
            f"({type(error).__name__}: {error}); {AGAIN}"
        ) from error
