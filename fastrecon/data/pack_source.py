"""What ``fastrecon data pack`` reads: sets of posed views, of single pictures, or with depth."""

from __future__ import annotations

from pathlib import Path

from .posed import Collection, PhotoSet, open_collection, open_photos
from .posed.opening import detect_layout
from .posed.real import Intrinsics
from .rgbd import RGBDError, RGBDFolder, RGBDSet, open_rgbd
from .rgbd_shards import is_folder, is_packed
from .shard_index import PHOTOS, POSED, RGBD, SAID, find_shards, open_shards

Source = Collection | PhotoSet | RGBDSet


def open_source(path: Path, layout: str, size: int, intrinsics: Intrinsics) -> Source:
    """The set at a path; see `pack.PackOptions`.

    Raises:
        CollectionError, RGBDError: nothing there, or it cannot be packed as asked.
    """
    if layout == "auto" and path.exists():
        layout = _found_layout(path)
    if layout == RGBD:
        return _packable(open_rgbd(str(path)), size)
    if layout == PHOTOS:
        return open_photos(path, size=size)
    return open_collection(path, layout, size=size, intrinsics=intrinsics)


def kind_of(source: Source) -> str:
    """The kind of its shards."""
    if isinstance(source, RGBDSet):
        return RGBD
    return POSED if isinstance(source, Collection) else PHOTOS


def left_out(source: Source) -> str:
    """What is not in the set although it lies there, for the user; may be empty."""
    if isinstance(source, RGBDFolder) and source.without_depth:
        return (
            f"{source.without_depth} pictures have no depth and are left out; fastrecon data depth "
            "makes it"
        )
    return ""


def _found_layout(path: Path) -> str:
    """What lies at a path: "rgbd", "photos", or "auto" for posed views."""
    if is_packed(path):
        kinds = {shard.kind for shard in open_shards(path, tuple(SAID)) if shard.names}
        return "auto" if POSED in kinds else RGBD if RGBD in kinds else PHOTOS
    if not find_shards(path) and detect_layout(path)[0]:
        return "auto"
    return RGBD if is_folder(path) else PHOTOS


def _packable(source: RGBDSet, size: int) -> RGBDSet:
    if size:
        raise RGBDError("pictures with depth are packed as they are; leave out --size")
    taken: dict[str, int] = {}
    for index, name in enumerate(source.names):
        other = taken.setdefault(name, index)
        if other != index:
            first, second = (source.files[k][0] for k in (other, index))
            raise RGBDError(f"{first} and {second} share one depth; remove or rename one")
    return source
