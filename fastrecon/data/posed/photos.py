"""Single pictures with alpha, from folders, shards, or a view of each object of a collection."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..camera_files import CollectionError
from ..picture_files import PNG, decode_rgba, read_bytes, reduced
from ..shard_index import PHOTO_ENDINGS, PHOTOS, POSED, Shard, find_shards, open_shards
from .collection import Collection, Picture
from .opening import detect_layout, open_collection
from .packed import Samples, ShardCollection

ENDINGS = (".png", ".webp", ".tif", ".tiff")
"""Of pictures that may have an alpha channel."""
MANIFEST, CROPS, SHARDS = "manifest.jsonl", "crops", "shards"
"""What an output folder of `fastrecon curate` has: one of the latter two."""


class PhotoSet(ABC):
    """Pictures of one object each, read when asked for; to be had from `open_photos`.

    May be pickled for worker processes, which find everything at the same path.
    """

    def __init__(self, path: Path, names: Sequence[str], size: int = 0) -> None:
        if size < 0:
            raise ValueError(f"size must be at least 0 (as stored), got {size}")
        self.path = path
        self.names = list(names)
        self.size = size

    def __len__(self) -> int:
        return len(self.names)

    def photo(self, index: int) -> NDArray[np.float32]:
        """A picture ``(H, W, 4)``, straight RGBA in [0, 1]; alpha above `OBJECT_ALPHA` is object.

        Raises:
            IndexError: there is no such picture.
            CollectionError: missing, damaged, or without alpha.
        """
        return np.divide(self.picture(index).pixels, np.float32(255), dtype=np.float32)

    def picture(self, index: int) -> Picture:
        """A picture, 8 bits, its longer side reduced to ``size``.

        Raises:
            IndexError, CollectionError: as `photo`.
        """
        found = self._picture(range(len(self.names))[index])
        small = reduced(found.pixels, self.size)
        return found if small is found.pixels else Picture(small)

    @abstractmethod
    def _picture(self, index: int) -> Picture:
        """A picture as it is stored."""


class FolderPhotos(PhotoSet):
    """Picture files below a folder; names are their paths without ending."""

    def __init__(self, path: Path, files: Sequence[str], size: int = 0) -> None:
        names = [file.rpartition(".")[0] for file in files]
        taken: dict[str, str] = {}
        for name, file in zip(names, files, strict=True):
            if name in taken:
                raise CollectionError(
                    f"{path / file} and {path / taken[name]} differ by their ending only; remove "
                    "or rename one"
                )
            taken[name] = file
        super().__init__(path, names, size)
        self._files = list(files)

    def _picture(self, index: int) -> Picture:
        path = self.path / self._files[index]
        return _decoded(read_bytes(path), str(path))


class ShardPhotos(PhotoSet):
    """Pictures in tar shards."""

    def __init__(self, path: Path, shards: Sequence[Shard], size: int = 0) -> None:
        self._samples = Samples(path, shards, PHOTOS)
        super().__init__(path, self._samples.names, size)

    def _picture(self, index: int) -> Picture:
        fields = self._samples.members(index)
        ending = next((ending for ending in PHOTO_ENDINGS if ending in fields), PHOTO_ENDINGS[0])
        return _decoded(*self._samples.read(index, ending))


class CollectionPhotos(PhotoSet):
    """The first view of every object of a collection."""

    def __init__(self, collection: Collection, size: int = 0) -> None:
        super().__init__(collection.path, collection.names, size)
        self._collection = collection

    def _picture(self, index: int) -> Picture:
        return self._collection.picture(index, 0)


def open_photos(path: str | os.PathLike[str], *, size: int = 0) -> PhotoSet:
    """Single pictures with alpha.

    Args:
        path: a folder of pictures (PNG, WebP or TIFF, in subfolders of any depth), an output folder
            of ``fastrecon curate``, shards of single pictures, or whatever `open_collection` reads,
            which gives the first view of each object.
        size: pictures with a longer side than this are reduced; 0 gives them as they are.

    Raises:
        CollectionError: nothing there, or something is damaged; the message says what to do.
    """
    root = Path(path)
    if not root.exists():
        raise CollectionError(f"{root} does not exist; check the path")
    if find_shards(root):
        shards = open_shards(root)
        if any(shard.kind == POSED for shard in shards):
            return CollectionPhotos(ShardCollection(root, shards), size)
        return ShardPhotos(root, shards, size)
    if (root / MANIFEST).is_file() and (root / CROPS).is_dir():
        return FolderPhotos(root, _curated(root), size)
    if any((root / SHARDS).glob("*.jsonl")):
        return ShardPhotos(root / SHARDS, open_shards(root / SHARDS), size)
    if detect_layout(root)[0]:
        return CollectionPhotos(open_collection(root), size)
    if root.is_file():
        raise CollectionError(f"{root} is no tar file; name the folder of pictures")
    files = sorted(
        (Path(folder) / name).relative_to(root).as_posix()
        for folder, _, names in os.walk(root)
        for name in names
        if name.lower().endswith(ENDINGS) and not name.startswith(".")
    )
    if not files:
        raise CollectionError(
            f"{root} has no pictures with alpha ({', '.join(ENDINGS)}), no shards and no posed "
            "views; fastrecon curate cuts objects out of photographs"
        )
    return FolderPhotos(root, files, size)


def _curated(root: Path) -> list[str]:
    """The crops that a curation has kept, in sorted order; what a killed run began is not named."""
    from ...curation.coco import CurationError
    from ...curation.manifest import read_manifest

    try:
        lines = list(read_manifest(root))
        crops = [found["crop"] for line in lines for found in line["instances"] if found["crop"]]
    except (CurationError, KeyError, TypeError, OSError) as error:
        raise CollectionError(
            f"{root / MANIFEST} is no manifest of fastrecon curate ({error}); name {root / CROPS} "
            "to read its pictures without"
        ) from error
    if not crops:
        raise CollectionError(f"{root / MANIFEST} names no crop: the curation has kept nothing")
    return sorted(crops)


def _decoded(data: bytes, label: str) -> Picture:
    return Picture(decode_rgba(data, label), data if data.startswith(PNG) else None)
