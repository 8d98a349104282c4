"""A file of a folder, or one of a shard in memory."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Packed:
    """A file of a shard; ``name`` is for messages and tells the format by its ending."""

    name: str
    data: bytes

    def __str__(self) -> str:
        return self.name


File = Path | Packed


def stream(file: File) -> Path | io.BytesIO:
    """What Pillow and NumPy open."""
    return io.BytesIO(file.data) if isinstance(file, Packed) else file


def ending(file: File) -> str:
    """ ".png" and the like, in lower case."""
    return Path(str(file)).suffix.lower()
