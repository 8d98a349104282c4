"""Where the samples of tar shards lie, so that any of them is read without the others.

``shards.json`` beside the shards holds the samples' names and positions. An entry counts as long as
its shard's size is the recorded one; shards without are walked through, header by header. Of
pictures with depth it also holds the classes: ``classes``, all names in their order, and for every
shard the ``labels`` of its samples.
"""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO, Any

from ..checkpoint import CheckpointError, write_atomic
from .camera_files import TRANSFORMS, CollectionError
from .tar_members import END_MARK, Window, end_of, walk

INDEX = "shards.json"
FORMAT = 1
POSED, PHOTOS, RGBD = "posed", "photos", "rgbd"
SAID = {POSED: "posed views", PHOTOS: "single pictures", RGBD: "pictures with depth"}
READ_BY = {POSED: "open_collection", PHOTOS: "open_photos", RGBD: "open_rgbd"}
PHOTO_ENDINGS = ("png", "webp")
DEPTH_FIELD = "depth.png"
CLASS_FIELDS = ("json", "cls")
"""Of pictures with depth: an object with the class's name as "class", or that name alone."""
CLASS_BYTES = 1 << 20
"""The most that such a field may have."""
ESCAPES = (("%", "%25"), (".", "%2E"))
"""Of names: webdataset's keys end at the first dot."""


@dataclass(frozen=True)
class Shard:
    """A tar file and its samples: sample k lies in bytes ``offsets[k]`` to ``offsets[k + 1]``."""

    path: Path
    size: int
    kind: str  # "posed", "photos", "rgbd" or "" when there is no sample
    names: tuple[str, ...]
    offsets: tuple[int, ...]
    classes: tuple[str, ...] = ()  # of "rgbd", those of all the index's shards
    labels: tuple[int, ...] = ()  # the samples' places among them

    def members(self, k: int) -> dict[str, tuple[int, int]]:
        """Fields of a sample (what follows the key's dot): first byte and number of bytes.

        Raises:
            CollectionError: the shard is not as the index has it.
        """
        start, end = self.offsets[k : k + 2]
        with self._open() as file:
            return self._members(Window(file, start, end), k, start)

    def contents(self, k: int) -> dict[str, bytes]:
        """Fields of a sample and their contents, read at once.

        Raises:
            CollectionError: the shard is not as the index has it, or cannot be read.
        """
        start, end = self.offsets[k : k + 2]
        data = self.read((start, end - start))
        members = self._members(io.BytesIO(data + bytes(END_MARK)), k, 0)
        return {field: data[at : at + size] for field, (at, size) in members.items()}

    def _members(self, file: Any, k: int, start: int) -> dict[str, tuple[int, int]]:
        """Fields of sample k out of a tar file of its own; positions are ``start`` and on."""
        end = start + self.offsets[k + 1] - self.offsets[k]
        last = start
        fields: dict[str, tuple[int, int]] = {}
        for member in walk(file, self.path):
            last = start + end_of(member)
            if not member.isfile():
                continue
            key, field = split_name(member.name)
            if key != self.names[k]:
                raise self._damaged(f"{key!r} lies where {self.names[k]!r} should")
            if field in fields:
                raise self._damaged(f"{member.name!r} is there twice")
            fields[field] = (start + member.offset_data, member.size)
        if not fields or last != end:
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
    fields: list[dict[str, tuple[int, int]]] = []
    end = 0
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            for member in walk(file, path):
                end = end_of(member)
                if not member.isfile():
                    continue
                name, field = split_name(member.name)
                if not names or names[-1] != name:
                    names.append(name)
                    offsets.append(member.offset)
                    fields.append({})
                if field in fields[-1]:
                    raise CollectionError(f"{path} holds {member.name!r} twice; {again}")
                fields[-1][field] = (member.offset_data, member.size)
            file.seek(end)
            if len(file.read(END_MARK)) < END_MARK:
                raise CollectionError(f"{path} is cut short at byte {size}; {again}")
            said = _classes_said(file, fields)
    except OSError as error:
        raise CollectionError(f"{path} cannot be read ({error}); {again}") from error
    if any(said):
        return _rgbd_shard(path, size, names, [*offsets, end], said)
    kinds = {_kind(found.keys()) for found in fields}
    if len(kinds) > 1 or None in kinds:
        raise CollectionError(
            f"{path} is no shard of posed views (with {TRANSFORMS}), of single pictures (one PNG "
            f"or WebP each) or of pictures with depth (with {DEPTH_FIELD}, and the class in "
            f"{' or '.join(CLASS_FIELDS)}); {again}"
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
    listed: list[dict[str, Any]] = [
        {"file": shard.path.name, "bytes": shard.size, "kind": shard.kind, "offsets": shard.offsets}
        for shard in shards
    ]
    if any(shard.kind == RGBD for shard in shards):
        extra["classes"], labels = common_classes(shards)
        for entry, numbers in zip(listed, labels, strict=True):
            entry["labels"] = numbers
    samples = [name for shard in shards for name in shard.names]
    return json.dumps({"format": FORMAT, **extra, "shards": listed, "samples": samples}).encode()


def common_classes(shards: Sequence[Shard]) -> tuple[tuple[str, ...], list[tuple[int, ...]]]:
    """The classes of all shards in the order of their names, and every shard's labels in it."""
    classes = tuple(sorted({name for known in {s.classes for s in shards} for name in known}))
    place = {name: k for k, name in enumerate(classes)}
    labels = []
    for shard in shards:
        moved = [place[name] for name in shard.classes]
        same = shard.classes == classes
        labels.append(shard.labels if same else tuple(moved[k] for k in shard.labels))
    return classes, labels


def indexed_shards(index: dict[str, Any], folder: Path) -> dict[str, Shard]:
    """The shards that an index tells of, by file name.

    Raises:
        KeyError, TypeError, ValueError: the index is damaged.
    """
    found, first = {}, 0
    classes = tuple(map(str, index.get("classes", ())))
    if sorted({*classes}) != [*classes]:
        raise ValueError("classes out of order")
    for entry in index.get("shards", []):
        offsets = tuple(entry["offsets"])
        names = tuple(index["samples"][first : first + len(offsets) - 1])
        if len(names) + 1 != len(offsets):
            raise ValueError("fewer samples than positions")
        size, kind = entry["bytes"], entry["kind"]
        bounds = (0, *offsets, size - END_MARK)
        if not all(isinstance(x, int) for x in bounds) or any(b < a for a, b in pairwise(bounds)):
            raise ValueError("positions out of order")
        if kind not in (*SAID, "") or not all(isinstance(name, str) for name in names):
            raise ValueError("unknown kind of samples")
        known, labels = (classes, tuple(entry["labels"])) if kind == RGBD else ((), ())
        known_labels = all(type(k) is int and 0 <= k < len(known) for k in labels)
        if kind == RGBD and not (known_labels and len(labels) == len(names)):
            raise ValueError("labels of no class")
        shard = Shard(folder / entry["file"], size, kind, names, offsets, known, labels)
        found[entry["file"]], first = shard, first + len(names)
    return found


def find_shards(path: Path) -> list[Path]:
    """A tar file, or those in a folder, in order of their names."""
    if path.is_file():
        return [path] if path.suffix == ".tar" else []
    return sorted(p for p in path.glob("*.tar") if not p.name.startswith("."))


def open_shards(path: Path, kinds: Sequence[str] = (POSED, PHOTOS)) -> list[Shard]:
    """The shards of a folder, or one tar file; ``shards.json`` is mended where it can be.

    Args:
        kinds: of samples that the caller understands.

    Raises:
        CollectionError: a shard is damaged, missing or of another kind, two samples have one name,
            or a name leads out of its folder.
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
        if shard.names and shard.kind not in kinds:
            raise CollectionError(
                f"{shard.path} holds {SAID[shard.kind]}, not {' or '.join(SAID[k] for k in kinds)};"
                f" name another folder, or read it with {READ_BY[shard.kind]}"
            )
        for name in shard.names:
            if name.startswith("/") or (".." in name and ".." in name.split("/")):
                raise CollectionError(
                    f"{shard.path} holds {name!r}, which leads out of a folder; rename or remove it"
                )
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


def _kind(fields: Set[str]) -> str | None:
    if TRANSFORMS in fields:
        return POSED
    return PHOTOS if len(fields & set(PHOTO_ENDINGS)) == 1 else None


def _classes_said(file: IO[bytes], fields: Sequence[dict[str, tuple[int, int]]]) -> list[str]:
    """The class that each sample of a shard with depth says ("": none)."""
    if not any(DEPTH_FIELD in found for found in fields):
        return []
    said = []
    for found in fields:
        field = next((field for field in CLASS_FIELDS if field in found), "")
        at, size = found.get(field, (0, 0))
        file.seek(at)
        said.append(_class_name(field, file.read(size)) if 0 < size <= CLASS_BYTES else "")
    return said


def _class_name(field: str, data: bytes) -> str:
    try:
        name = json.loads(data)["class"] if field == "json" else data.decode().strip()
    except (ValueError, KeyError, TypeError, RecursionError):
        return ""
    return name if isinstance(name, str) else ""


def _rgbd_shard(
    path: Path, size: int, names: Sequence[str], offsets: Sequence[int], said: Sequence[str]
) -> Shard:
    if not all(said):
        raise CollectionError(
            f"{path} says no class of {names[said.index('')]!r}; every sample of pictures with "
            f'depth needs its class, KEY.json with {{"class": name}} or KEY.cls with the name'
        )
    classes = tuple(sorted(set(said)))
    place = {name: k for k, name in enumerate(classes)}
    labels = tuple(place[name] for name in said)
    return Shard(path, size, RGBD, tuple(names), tuple(offsets), classes, labels)
