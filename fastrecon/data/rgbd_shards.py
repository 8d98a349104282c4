"""Pictures with depth in tar shards, as ``fastrecon data pack`` writes them.

A sample is ``KEY.jpg`` (or jpeg, png, webp), ``KEY.depth.png`` (16 bits, 0 near) and ``KEY.json``,
``{"class": name}``; KEY is ``class/stem``, with its dots as %2E. Both pictures are the files of the
folder byte for byte. ``shards.json`` beside the shards says where samples lie (``shard_index.py``)
and holds all classes in the order of their names, which is how they are numbered, in the folder
too. Shards that others have written may say the class in ``KEY.cls``, a name as text; one tar
without its ``shards.json`` numbers only the classes that are in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .camera_files import CollectionError
from .posed.packed import Samples
from .rgbd import ENDINGS, File, RGBDError, RGBDFolder, RGBDSet, decoded, open_rgbd
from .shard_index import (
    CLASS_FIELDS,
    DEPTH_FIELD,
    INDEX,
    RGBD,
    common_classes,
    find_shards,
    open_shards,
)

PICTURE_FIELDS = tuple(ending[1:] for ending in ENDINGS)


class RGBDShards(RGBDSet):
    """Pictures with depth in tar shards; a sample is read at once, without what is beside it.

    Raises:
        RGBDError: no sample, or a shard is damaged, missing or of another kind.
    """

    def __init__(self, root: Path) -> None:
        try:
            shards = open_shards(root, (RGBD,))
            self._samples = Samples(root, shards, RGBD)
        except CollectionError as error:
            raise RGBDError(str(error)) from error
        classes, labels = common_classes(self._samples.shards)
        super().__init__(root, classes, self._samples.names)
        self._labels = [k for some in labels for k in some]

    def __reduce__(self) -> tuple[Any, ...]:
        return open_rgbd, (str(self.root),)

    @property
    def files(self) -> Sequence[tuple[Path, int]]:
        """The shards that the pictures lie in and their classes' numbers."""
        homes = [shard.path for shard in self._samples.shards for _ in shard.names]
        return list(zip(homes, self._labels, strict=True))

    def class_of(self, index: int) -> int:
        """See `RGBDSet`."""
        return self._labels[index]

    def stored(self, index: int) -> tuple[File, File]:
        """See `RGBDSet`."""
        index = range(len(self))[index]
        shard, k = self._samples.home(index)
        try:
            found = shard.contents(k)
        except CollectionError as error:
            raise RGBDError(str(error)) from error
        pictures = [field for field in PICTURE_FIELDS if field in found]
        name = self.names[index]
        if len(pictures) != 1:
            raise RGBDError(
                f"{name} in {shard.path} has {' and '.join(pictures) or 'no picture'}; it needs "
                f"one of {', '.join(PICTURE_FIELDS)}, pack it again"
            )
        if DEPTH_FIELD not in found:
            raise RGBDError(f"{name}.{DEPTH_FIELD} in {shard.path} is missing; pack it again")
        picture, depth = (
            File(found[field], f"{name}.{field} in {shard.path}", field)
            for field in (pictures[0], DEPTH_FIELD)
        )
        return picture, depth


def is_packed(path: Path) -> bool:
    """Whether `open_rgbd` reads shards there, and not class folders that have tar files beside."""
    if not find_shards(path):
        return False
    return path.is_file() or (path / INDEX).exists() or not is_folder(path)


def is_folder(path: Path) -> bool:
    """Whether there are class folders of pictures with depth, or one such folder."""
    try:
        return bool(RGBDFolder(path))
    except RGBDError:
        return False


def sample_fields(source: RGBDSet, index: int) -> list[tuple[str, bytes]]:
    """The fields of a sample, its files as they are stored.

    Raises:
        RGBDError: missing, damaged, of different sizes, or a depth that says nothing.
    """
    picture, depth = source.stored(index)
    decoded(picture, depth)
    said = json.dumps({"class": source.classes[source.class_of(index)]}).encode()
    return [(picture.ending, picture.data), (DEPTH_FIELD, depth.data), (CLASS_FIELDS[0], said)]
