"""Shards of posed views, as `fastrecon data pack` and `fastrecon data render` write them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from ..camera_files import AGAIN, TRANSFORMS, Cameras, CollectionError, parse_json
from ..camera_files import transforms_cameras as frames_of
from ..picture_files import PNG, decode_rgba
from ..shard_index import POSED, READ_BY, SAID, Shard
from .collection import Collection, Kept, Picture


class Samples:
    """The samples of shards of one kind by their index, over all shards.

    Raises:
        CollectionError: no sample, or a shard of another kind.
    """

    def __init__(self, path: Path, shards: Sequence[Shard], kind: str) -> None:
        self.shards = [shard for shard in shards if shard.names]
        if not self.shards:
            raise CollectionError(f"{path} has no shard with a sample in it; check the path")
        for shard in self.shards:
            if shard.kind != kind:
                raise CollectionError(
                    f"{shard.path} holds {SAID[shard.kind]}, not {SAID[kind]}; name another "
                    f"folder, or read it with {READ_BY[shard.kind]}"
                )
        self.names = [name for shard in self.shards for name in shard.names]
        self._ends = list(accumulate(len(shard.names) for shard in self.shards))
        self._members: Kept[dict[str, tuple[int, int]]] = Kept()

    def home(self, index: int) -> tuple[Shard, int]:
        """The shard of a sample, and its place there."""
        k = bisect_right(self._ends, index)
        return self.shards[k], index - (self._ends[k] - len(self.shards[k].names))

    def members(self, index: int) -> dict[str, tuple[int, int]]:
        """Fields of a sample and where they lie."""
        known = self._members.get(index)
        if known is None:
            shard, k = self.home(index)
            known = self._members.put(index, shard.members(k))
        return known

    def read(self, index: int, field: str) -> tuple[bytes, str]:
        """A field's contents, and what it is called in messages.

        Raises:
            CollectionError: the sample has no such field, or the shard is damaged.
        """
        shard = self.home(index)[0]
        label = f"{self.names[index]}.{field} in {shard.path}"
        place = self.members(index).get(field)
        if place is None:
            raise CollectionError(f"{label} is missing; {AGAIN}")
        return shard.read(place), label


class ShardCollection(Collection):
    """Objects in tar shards; only what is asked for is read."""

    layout = "shards"

    def __init__(self, path: Path, shards: Sequence[Shard], size: int = 0) -> None:
        self._samples = Samples(path, shards, POSED)
        super().__init__(path, self._samples.names, size)

    def _cameras(self, index: int) -> Cameras:
        data, label = self._samples.read(index, TRANSFORMS)
        return frames_of(parse_json(data, label), label)

    def _picture(self, index: int, view: int) -> Picture:
        name = self.cameras(index).names[view].removesuffix(".png")
        data, label = self._samples.read(index, f"{name}.png")
        return Picture(decode_rgba(data, label), data if data.startswith(PNG) else None)
