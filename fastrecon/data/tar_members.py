"""The members of a tar file, or of a part of one, where they lie."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .camera_files import CollectionError

END_MARK = 2 * tarfile.BLOCKSIZE


def walk(file: Any, path: Path) -> Iterator[tarfile.TarInfo]:
    """What a tar file holds, in order: files, and whatever else there is.

    Args:
        path: for messages.

    Raises:
        CollectionError: cut short or damaged.
    """
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            yield from tar
    except (tarfile.TarError, ValueError, OverflowError, EOFError) as error:
        raise CollectionError(
            f"{path} is cut short or damaged ({error}); copy or pack it again, or delete it to do "
            "without its objects"
        ) from error


def end_of(member: tarfile.TarInfo) -> int:
    """The byte behind a member and what fills its last block."""
    if not member.isreg():
        return member.offset_data
    return member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


class Window(io.RawIOBase):
    """A part of a file as a file; after it come the zeros that end a tar file."""

    def __init__(self, file: Any, start: int, end: int) -> None:
        self._file, self._start, self._size = file, start, end - start
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_SET
        self._at = offset
        return self._at

    def tell(self) -> int:
        return self._at

    def read(self, size: int = -1) -> bytes:
        stop = self._size + END_MARK
        size = max(0, stop - self._at) if size < 0 else min(size, max(0, stop - self._at))
        inside = max(0, min(size, self._size - self._at))
        self._file.seek(self._start + self._at)
        data = self._file.read(inside) if inside else b""
        assert data is not None
        data += bytes(size - inside) if len(data) == inside else b""
        self._at += len(data)
        return data
