"""One call for every layout."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from ..camera_files import CollectionError
from ..shard_index import find_shards, open_shards
from .co3d import CO3D, is_co3d
from .collection import Collection
from .folders import FolderCollection, find_objects
from .mvimgnet import MVImgNet
from .packed import ShardCollection
from .real import Intrinsics

Layout = Literal["auto", "gobjaverse", "zero123", "nerf", "co3d", "mvimgnet", "shards"]
KNOWN = ("gobjaverse", "zero123", "nerf", "co3d", "mvimgnet", "shards")
SOUGHT = (
    "NNNNN/NNNNN.json (gobjaverse), NNN.npy beside NNN.png (zero123), transforms.json (nerf), "
    "frame_annotations.jgz (co3d), sparse/0 (mvimgnet) or .tar files (shards)"
)


def open_collection(
    path: str | os.PathLike[str],
    layout: str = "auto",
    *,
    size: int = 0,
    intrinsics: Intrinsics = "protocol",
) -> Collection:
    """A set of objects with posed pictures.

    Objects are found in subfolders of any depth. Opening lists folders but reads no picture; for
    sets of many thousand objects `fastrecon data pack` makes shards, which open at once.

    Args:
        path: a folder (of one object or of many), or a tar file.
        layout: "gobjaverse", "zero123", "nerf" (transforms.json, OmniObject3D), "co3d",
            "mvimgnet", "shards", or "auto".
        size: pictures larger than this many pixels are reduced; 0 gives them as they are.
        intrinsics: of photographs (CO3D, MVImgNet), see `posed.real`.

    Raises:
        CollectionError: nothing there, or something is damaged; the message says what to do.
        ValueError: the layout is not known.
    """
    root = Path(path)
    if layout != "auto" and layout not in KNOWN:
        raise ValueError(f'layout must be "auto" or one of {", ".join(KNOWN)}, got {layout!r}')
    if not root.exists():
        raise CollectionError(f"{root} does not exist; check the path")
    found, folders = detect_layout(root, layout)
    if found == "shards":
        return ShardCollection(root, open_shards(root), size)
    if found == "co3d":
        return CO3D(root, size, intrinsics)
    if found == "mvimgnet":
        return MVImgNet(root, folders, size, intrinsics)
    if found:
        return FolderCollection(root, found, folders, size)
    looked = SOUGHT if layout == "auto" else f"the layout {layout}"
    raise CollectionError(
        f"{root} has no objects with posed pictures; looked for {looked}. Single pictures are read "
        "by open_photos"
    )


def detect_layout(root: Path, layout: str = "auto") -> tuple[str, dict[str, Path]]:
    """The layout of what is at a path ("" if none), and objects' folders if they are folders."""
    if layout in ("auto", "shards") and find_shards(root):
        return "shards", {}
    if layout in ("auto", "co3d") and root.is_dir() and is_co3d(root):
        return "co3d", {}
    if layout in ("shards", "co3d") or not root.is_dir():
        return "", {}
    return find_objects(root, layout)
