"""Folders of rendered objects: GObjaverse, Zero123 and transforms.json (NeRF, OmniObject3D)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np

from ..camera_files import (
    AGAIN,
    TRANSFORMS,
    ZERO123_FOV,
    Cameras,
    CollectionError,
    gobjaverse_camera,
    parse_json,
    transforms_cameras,
    zero123_pose,
)
from ..picture_files import PNG, decode_rgba, read_bytes
from .collection import Collection, Picture

LAYOUTS = ("nerf", "zero123", "gobjaverse", "mvimgnet")
"""Layouts in which an object is a folder, in the order in which a folder is tried."""
TRIED = 3
"""Subfolders that are looked into for GObjaverse's cameras, should the first be damaged."""


class FolderCollection(Collection):
    """Objects that are a folder each, with pictures that need no work."""

    def __init__(self, path: Path, layout: str, folders: Mapping[str, Path], size: int = 0) -> None:
        super().__init__(path, list(folders), size)
        self.layout = layout
        self._folders = dict(folders)

    def _cameras(self, index: int) -> Cameras:
        return READERS[self.layout](self._folders[self.names[index]])

    def _picture(self, index: int, view: int) -> Picture:
        folder = self._folders[self.names[index]]
        path = picture_path(folder, self.cameras(index).names[view])
        data = read_bytes(path)
        return Picture(decode_rgba(data, str(path)), data if data.startswith(PNG) else None)


def nerf_cameras(folder: Path) -> Cameras:
    """The cameras of a folder with transforms.json."""
    label = str(folder / TRANSFORMS)
    return transforms_cameras(parse_json(read_bytes(folder / TRANSFORMS), label), label)


def zero123_cameras(folder: Path, fov_deg: float = ZERO123_FOV) -> Cameras:
    """The cameras of a folder with NNN.png and NNN.npy, which lie in a world with z up.

    Args:
        fov_deg: where the folder has no transforms.json that says it.
    """
    paths = sorted(folder.glob("*.npy"))
    if not paths:
        raise CollectionError(f"{folder} has no NNN.npy; {AGAIN}")
    poses = np.stack([zero123_pose(read_bytes(path), str(path)) for path in paths])
    if (folder / TRANSFORMS).exists():
        fov_deg = float(nerf_cameras(folder).fov_deg[0])
    return Cameras(tuple(path.stem for path in paths), poses, np.full(len(paths), fov_deg))


def gobjaverse_cameras(folder: Path) -> Cameras:
    """The cameras of a folder with NNNNN/NNNNN.json, which lie in Blender's world with z up."""
    names = sorted(entry.name for entry in os.scandir(folder) if _is_view(entry))
    if not names:
        raise CollectionError(f"{folder} has no NNNNN/NNNNN.json; {AGAIN}")
    paths = [folder / name / f"{name}.json" for name in names]
    poses, fov = zip(*(gobjaverse_camera(read_bytes(p), str(p)) for p in paths), strict=True)
    return Cameras(tuple(f"{name}/{name}" for name in names), np.stack(poses), np.array(fov))


READERS = {
    "nerf": nerf_cameras,
    "zero123": zero123_cameras,
    "gobjaverse": gobjaverse_cameras,
}


def picture_path(folder: Path, name: str) -> Path:
    """The file of a view; OmniObject3D has it in ``images/``, which its transforms do not say."""
    tried = [
        folder / place / (name + ending) for place in ("", "images") for ending in (".png", "")
    ]
    return next((path for path in tried if path.is_file()), tried[0])


def find_objects(root: Path, layout: str) -> tuple[str, dict[str, Path]]:
    """Every object's folder below ``root`` by its name (the path in between), in sorted order.

    Args:
        layout: one of `LAYOUTS`, or "auto".

    Returns:
        The layout ("" if nothing was found) and the folders.

    Raises:
        CollectionError: "auto" finds objects of several layouts.
    """
    wanted = LAYOUTS if layout == "auto" else (layout,)
    found = dict(_walk(root, wanted))
    kinds = sorted(set(found.values()))
    if len(kinds) > 1:
        raise CollectionError(
            f"{root} holds objects of several layouts ({', '.join(kinds)}); name one with layout, "
            "or name a folder inside"
        )
    names = {
        folder.relative_to(root).as_posix() if folder != root else folder.resolve().name: folder
        for folder in found
    }
    return (kinds[0] if kinds else ""), names


def _walk(folder: Path, wanted: tuple[str, ...]) -> Iterator[tuple[Path, str]]:
    """Objects' folders; what is inside of one is not looked at."""
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise CollectionError(f"{folder} cannot be read ({error}); check its rights") from error
    files = {entry.name for entry in entries if not entry.is_dir()}
    folders = sorted(entry.name for entry in entries if entry.is_dir())
    kind = next((kind for kind in wanted if _is_object(folder, kind, files, folders)), "")
    if kind:
        yield folder, kind
        return
    for name in folders:
        yield from _walk(folder / name, wanted)


def _is_object(folder: Path, layout: str, files: set[str], folders: list[str]) -> bool:
    if layout == "nerf":
        return TRANSFORMS in files
    if layout == "zero123":
        return any(name.endswith(".npy") and name[:-4] + ".png" in files for name in files)
    if layout == "mvimgnet":
        return "sparse" in folders
    views = [name for name in folders if name.isdigit()][:TRIED]
    return any((folder / name / f"{name}.json").is_file() for name in views)


def _is_view(entry: os.DirEntry[str]) -> bool:
    return entry.name.isdigit() and entry.is_dir()
