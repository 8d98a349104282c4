"""Folders of views packed into tar shards, as the library webdataset streams them.

One sample per object. A sample's key is the object's name; its fields are what follows the key's
dot: ``000.png``, ``000.depth.png``, ``000.normal.png``, ``000.npy`` (layout "zero123") and
``transforms.json``, with the contents that ``layouts.py`` describes. ``shards.json`` beside them
says where samples lie, see ``shard_index.py``. Reading them in order, or any of them::

    import webdataset
    for sample in webdataset.WebDataset("out/shards/{000000..000003}.tar", shardshuffle=False):
        sample["__key__"], sample["000.png"], sample["transforms.json"]

    from fastrecon.data.posed import open_collection
    open_collection("out/shards").views(7, [0, 3])
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from ..checkpoint import TEMPORARY
from .camera_files import TRANSFORMS
from .folders import flush_names, replacing_folder, write_flushed
from .shard_index import (
    END_MARK,
    INDEX,
    POSED,
    Shard,
    index_bytes,
    indexed_shards,
    key_of,
    read_index,
)


def sample_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Fields of one object's sample and the files that they come from, in order of the views."""
    for path in sorted(folder.glob("[0-9]*.png")):
        yield path.name, path
        for kind in ("depth", "normal"):
            if (folder / kind / path.name).exists():
                yield f"{path.stem}.{kind}.png", folder / kind / path.name
        if path.with_suffix(".npy").exists():
            yield f"{path.stem}.npy", path.with_suffix(".npy")
    yield TRANSFORMS, folder / TRANSFORMS


def sample_bytes(name: str, fields: Iterable[tuple[str, bytes]]) -> bytes:
    """One sample's members of a tar file, without the end mark; the same bytes every time."""
    packed = io.BytesIO()
    key = key_of(name)
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for field, data in fields:
            member = tarfile.TarInfo(f"{key}.{field}")
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
        end = packed.tell()
    return packed.getvalue()[:end]


def write_shards(folders: Sequence[Path], out: Path, max_bytes: int) -> list[Path]:
    """Pack objects' folders into ``out/000000.tar`` and so on, and ``out/shards.json``.

    Everything is written under a temporary name beside ``out``, which is replaced at the end: a
    reader sees the old shards or the new ones, all of them. Shards that already hold these objects
    stay as they are.

    Args:
        folders: finished folders of views; their names become keys and must have no dot.
        max_bytes: begin a new shard rather than exceed this; a larger object gets its own.

    Returns:
        The shards, in order.

    Raises:
        OSError: the disk is full, or ``out`` cannot be written.
    """
    if max_bytes < 1:
        raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
    names = [folder.name for folder in folders]
    dotted = next((name for name in names if "." in name), None)
    if dotted is not None:
        raise ValueError(f"keys must have no dot, got {dotted!r}; rename the folder")
    present = _present(out)
    index = read_index(out)
    same = (index.get("max_bytes"), index.get("samples")) == (max_bytes, names)
    if same and present and not _newer(folders, out):
        return [shard.path for shard in present]
    shards: list[Shard] = []
    with replacing_folder(out) as temporary:
        writer = ShardWriter(temporary, POSED)
        for folder in folders:
            fields = ((field, path.read_bytes()) for field, path in sample_files(folder))
            sample = sample_bytes(folder.name, fields)
            if not writer.holds(len(sample), max_bytes):
                shards.append(writer.finish())
            writer.add(folder.name, sample)
        if writer.names:
            shards.append(writer.finish())
        write_flushed(temporary / INDEX, index_bytes(shards, max_bytes=max_bytes))
    return [out / shard.path.name for shard in shards]


class ShardWriter:
    """Fills shards ``folder/000000.tar`` and so on, each of which appears whole or not at all."""

    def __init__(self, folder: Path, kind: str, number: int = 0) -> None:
        self.names: list[str] = []
        self._folder, self._kind, self._number = folder, kind, number
        self._offsets = [0]
        self._file: IO[bytes] | None = None

    @property
    def _unfinished(self) -> Path:
        return self._folder / f"{TEMPORARY}{self._name}"

    @property
    def _name(self) -> str:
        return f"{self._number:06d}.tar"

    def holds(self, size: int, max_bytes: int) -> bool:
        """Whether a sample still fits in the shard; one that fits in none gets its own."""
        return not self.names or self._offsets[-1] + size <= max_bytes

    def add(self, name: str, sample: bytes) -> None:
        """Append a sample as `sample_bytes` makes it."""
        if self._file is None:
            self._file = self._unfinished.open("wb")
        self._file.write(sample)
        self.names.append(name)
        self._offsets.append(self._offsets[-1] + len(sample))

    def finish(self) -> Shard:
        """Have the shard reach the disk, and begin the next."""
        assert self._file is not None
        with self._file as file:
            file.write(bytes(END_MARK))
            file.flush()
            os.fsync(file.fileno())
        path = self._folder / self._name
        os.replace(self._unfinished, path)
        flush_names(self._folder)
        offsets = tuple(self._offsets)
        shard = Shard(path, offsets[-1] + END_MARK, self._kind, tuple(self.names), offsets)
        self._number += 1
        self.names, self._offsets, self._file = [], [0], None
        return shard

    def discard(self) -> None:
        """Delete the shard that is not finished."""
        if self._file is not None:
            self._file.close()
            self._unfinished.unlink(missing_ok=True)
            self._file = None


def _newer(folders: Sequence[Path], out: Path) -> bool:
    """Whether an object was rendered after the shards were packed."""
    packed = (out / INDEX).stat().st_mtime_ns
    return any((folder / TRANSFORMS).stat().st_mtime_ns > packed for folder in folders)


def _present(out: Path) -> list[Shard]:
    """The shards that are there, if they are all whole."""
    try:
        shards = list(indexed_shards(read_index(out), out).values())
        return shards if all(s.path.stat().st_size == s.size for s in shards) else []
    except (OSError, KeyError, TypeError, ValueError, AttributeError):
        return []
