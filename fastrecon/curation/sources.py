"""Where a picture and its depth come from: folders, or a sample of a shard."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .coco import CurationError, Entry
from .crops import Picture, read_picture
from .depth_maps import load_depth, read_depth
from .files import Packed
from .occlusion import Depth, DepthKind


class Source(Protocol):
    """Gives the pixels and the depth that belong to an entry."""

    def picture(self, entry: Entry) -> Picture:
        """``(H, W, 3)``; raises ``ImageError``."""
        ...

    def depth(self, entry: Entry, kind: DepthKind) -> Depth:
        """``(H, W)``; raises ``CurationError``."""
        ...


@dataclass(frozen=True)
class Folders:
    """A folder of pictures, and one of depth maps with the same names."""

    pictures: Path
    depths: Path

    def picture(self, entry: Entry) -> Picture:
        """``(H, W, 3)``; raises ``ImageError``."""
        return read_picture(self.pictures / entry.name, entry.size)

    def depth(self, entry: Entry, kind: DepthKind) -> Depth:
        """``(H, W)``; raises ``CurationError``."""
        return load_depth(self.depths, entry.name, entry.size, kind)


@dataclass(frozen=True)
class Sample:
    """The picture and the depth map of one of a shard's samples."""

    pixels: Packed
    depths: Packed | None

    def picture(self, entry: Entry) -> Picture:
        """``(H, W, 3)``; raises ``ImageError``."""
        return read_picture(self.pixels, entry.size)

    def depth(self, entry: Entry, kind: DepthKind) -> Depth:
        """``(H, W)``; raises ``CurationError``."""
        if self.depths is None:
            raise CurationError(
                f"{self.pixels} has no depth map beside it (.depth.png, .depth.npy, .depth.npz); "
                "add it to the shard, or pass --depth"
            )
        return read_depth(self.depths, entry.size, kind)
