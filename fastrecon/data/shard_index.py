"""Where the samples of tar shards lie, so that any of them is read without the others.

``shards.json`` beside the shards holds the samples' names and positions. An entry counts as long as
its shard's size is the recorded one; shards without are walked through, header by header.
"""

from __future__ import annotations

import contextlib
import io
import json
import tarfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..checkpoint import CheckpointError, write_atomic
from .camera_files import TRANSFORMS, CollectionError

INDEX = "shards.json"
FORMAT = 1
POSED, PHOTOS = "posed", "photos"
PHOTO_ENDINGS = ("png", "webp")
END_MARK = 2 * tarfile.BLOCKSIZE
ESCAPES = (("%", "%25"), (".", "%2E"))
"""Of names: webdataset's keys end at the first dot."""


@dataclass(frozen=True)
class Shard:
    """A tar file and its samples: sample k lies in bytes ``offsets[k]`` to ``offsets[k + 1]``."""

    path: Path
    size: int
    kind: str  # "posed", "photos" or "" when there is no sample
    names: tuple[str, ...]
    offsets: tuple[int, ...]

    def members(self, k: int) -> dict[str, tuple[int, int]]:
        """Fields of a sample (what follows the key's dot): first byte and number of bytes.

        Raises:
            CollectionError: the shard is not as the index has it.
        """
        with self._open() as file:
            window = _Window(file, self.offsets[k], self.offsets[k + 1])
            found = list(_walk(window, self.path))
        start, end = self.offsets[k : k + 2]
        fields = {}
        for member in found:
            key, field = split_name(member.name)
            if key != self.names[k]:
                raise self._damaged(f"{key!r} lies where {self.names[k]!r} should")
            fields[field] = (start + member.offset_data, member.size)
        if not found or start + _end(found[-1]) != end:
            raise self._damaged(f"{self.names[k]!r} does not end where it should")
        return fields

    def read(self, place: tuple[int, int]) -> bytes:
        """Bytes of the file, as `members` has them.

        Raises:
            CollectionError: the file has become shorter, or cannot be read.
        """
        with self._open() as file:
            file.seek(place[0])
            data = file.read(place[1])
        if len(data) < place[1]:
            raise self._damaged(f"it ends at byte {place[0] + len(data)}")
        return data

    @contextlib.contextmanager
    def _open(self) -> Iterator[Any]:
        try:
            with self.path.open("rb", buffering=0) as file:
                yield file
        except OSError as error:
            raise CollectionError(f"{self.path} cannot be read ({error}); copy it again") from error

    def _damaged(self, why: str) -> CollectionError:
        return CollectionError(
            f"{self.path} is damaged or was replaced ({why}); copy or pack it again, and delete "
            f"{self.path.with_name(INDEX)} if the file is meant to be another"
        )


def key_of(name: str) -> str:
    """A sample's name as a key of webdataset."""
    for plain, escaped in ESCAPES:
        name = name.replace(plain, escaped)
    return name


def split_name(member: str) -> tuple[str, str]:
    """The sample's name and the field of a member of a tar file."""
    folder, slash, base = member.removeprefix("./").rpartition("/")
    key, _, field = base.partition(".")
    key = folder + slash + key
    for plain, escaped in reversed(ESCAPES):
        key = key.replace(escaped, plain)
    return key, field


def scan_shard(path: Path) -> Shard:
    """Walk through a tar file.

    Raises:
        CollectionError: unreadable, cut short, damaged, or not a shard of posed views or pictures.
    """
    again = "copy or pack it again, or delete it to do without its objects"
    names: list[str] = []
    offsets: list[int] = []
    fields: list[set[str]] = []
    end = 0
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            for member in _walk(file, path):
                name, field = split_name(member.name)
                if not names or names[-1] != name:
                    names.append(name)
                    offsets.append(member.offset)
                    fields.append(set())
                fields[-1].add(field)
                end = _end(member)
            file.seek(end)
            if len(file.read(END_MARK)) < END_MARK:
                raise CollectionError(f"{path} is cut short at byte {size}; {again}")
    except OSError as error:
        raise CollectionError(f"{path} cannot be read ({error}); {again}") from error
    kinds = {_kind(found) for found in fields}
    if len(kinds) > 1 or None in kinds:
        raise CollectionError(
            f"{path} is no shard of posed views (with {TRANSFORMS}) or of single pictures (one PNG "
            f"or WebP each); {again}"
        )
    kind = next(iter(kinds), None) or ""
    return Shard(path, size, kind, tuple(names), (*offsets, end))


def read_index(folder: Path) -> dict[str, Any]:
    """The contents of ``shards.json``; empty if there is none that this version understands."""
    try:
        found = dict(json.loads((folder / INDEX).read_text()))
        return found if found.get("format") == FORMAT else {}
    except (OSError, ValueError, TypeError):
        return {}


def index_bytes(shards: Sequence[Shard], **extra: Any) -> bytes:
    """The contents of ``shards.json``, with further entries."""
    listed = [
        {"file": shard.path.name, "bytes": shard.size, "kind": shard.kind, "offsets": shard.offsets}
        for shard in shards
    ]
    samples = [name for shard in shards for name in shard.names]
    return json.dumps({"format": FORMAT, **extra, "shards": listed, "samples": samples}).encode()


def indexed_shards(index: dict[str, Any], folder: Path) -> dict[str, Shard]:
    """The shards that an index tells of, by file name.

    Raises:
        KeyError, TypeError, ValueError: the index is damaged.
    """
    found, first = {}, 0
    for entry in index.get("shards", []):
        offsets = tuple(entry["offsets"])
        names = tuple(index["samples"][first : first + len(offsets) - 1])
        if len(names) + 1 != len(offsets):
            raise ValueError("fewer samples than positions")
        shard = Shard(folder / entry["file"], entry["bytes"], entry["kind"], names, offsets)
        found[entry["file"]], first = shard, first + len(names)
    return found


def find_shards(path: Path) -> list[Path]:
    """A tar file, or those in a folder, in order of their names."""
    if path.is_file():
        return [path] if path.suffix == ".tar" else []
    return sorted(p for p in path.glob("*.tar") if not p.name.startswith("."))


def open_shards(path: Path) -> list[Shard]:
    """The shards of a folder, or one tar file; ``shards.json`` is mended where it can be.

    Raises:
        CollectionError: a shard is damaged or missing, or two samples have one name.
    """
    folder = path if path.is_dir() else path.parent
    files = find_shards(path)
    index = read_index(folder)
    try:
        known = indexed_shards(index, folder)
    except (KeyError, TypeError, ValueError, AttributeError):
        index, known = {}, {}
    missing = set() if path.is_file() else known.keys() - {file.name for file in files}
    if missing:
        raise CollectionError(
            f"{folder / sorted(missing)[0]} is missing, although {folder / INDEX} names it; copy "
            f"it again, or delete {INDEX} to do without its objects"
        )
    shards = []
    for file in files:
        shard = known.get(file.name)
        fits = shard is not None and shard.size == file.stat().st_size
        shards.append(shard if shard and fits else scan_shard(file))
    homes: dict[str, Path] = {}
    for shard in shards:
        for name in shard.names:
            if name in homes:
                raise CollectionError(
                    f"{shard.path} holds {name!r} a second time, after {homes[name]}; names must "
                    "be distinct, remove or rename one"
                )
            homes[name] = shard.path
    if path.is_dir() and any(known.get(shard.path.name) is not shard for shard in shards):
        kept = {key: index[key] for key in index.keys() - {"format", "shards", "samples"}}
        with contextlib.suppress(CheckpointError):  # a folder that only others may write
            write_atomic(folder / INDEX, index_bytes(shards, **kept))
    return shards


def _kind(fields: set[str]) -> str | None:
    if TRANSFORMS in fields:
        return POSED
    return PHOTOS if len(fields & set(PHOTO_ENDINGS)) == 1 else None


def _walk(file: Any, path: Path) -> Iterator[tarfile.TarInfo]:
    """The regular files in a tar file."""
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if member.isfile():
                    yield member
    except tarfile.TarError as error:
        raise CollectionError(
            f"{path} is cut short or damaged ({error}); copy or pack it again, or delete it to do "
            "without its objects"
        ) from error


def _end(member: tarfile.TarInfo) -> int:
    return member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE


class _Window(io.RawIOBase):
    """A part of a file as a file; after it come the zeros that end a tar file."""

    def __init__(self, file: io.RawIOBase, start: int, end: int) -> None:
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
