"""Shards of photographs: tar files whose samples hold a picture, its instances and its depth.

A sample is what shares a key, the name up to the first dot, as the library webdataset has it:
``key.jpg`` (or .jpeg, .png, .webp), ``key.json`` with COCO's annotations of that picture, and
``key.depth.png`` (or .npy, .npz). The JSON is an object like a COCO file with one picture, an
object with ``annotations`` alone, or just their list; without ``categories`` an annotation may
have its category's name as ``category``. What networks found is in a second tar file of the same
keys, which comes first.
"""

from __future__ import annotations

import contextlib
import glob
import json
import tarfile
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import ImageError
from .coco import CurationError, Entry, as_annotation, twice
from .crops import upright_size
from .files import Packed
from .sources import Sample

PICTURES = ("jpg", "jpeg", "png", "webp", "bmp")
DEPTHS = ("depth.npy", "depth.npz", "depth.png")
INSTANCES = "json"
PROBLEM = "problem.txt"
"""Why a network has not found anything about a sample."""
HEAD = 1 << 16
"""Bytes at a shard's beginning that tell it from others of its length."""
BROKEN = (tarfile.TarError, OSError, EOFError, zlib.error, ValueError)
"""What reading a damaged tar file raises."""


def find_shards(patterns: Sequence[str]) -> list[Path]:
    """Tar files by their names, by patterns (``in/*.tar``) or by their folders, sorted.

    Raises:
        CurationError: nothing is there, or two would give output of the same name.
    """
    found: set[Path] = set()
    for pattern in patterns:
        path = Path(pattern)
        paths = path.glob("*.tar") if path.is_dir() else map(Path, glob.glob(pattern))
        shards = {p.absolute() for p in paths if p.is_file()}
        if not shards:
            raise CurationError(f"--shards {pattern} names no .tar file; check the path")
        found |= shards
    names = Counter(path.stem for path in found)
    again = next((name for name in sorted(names) if names[name] > 1), None)
    if again is not None:
        raise CurationError(
            f"two shards are called {again}.tar, which also names what is made of them; curate "
            "each folder into an --out of its own"
        )
    return sorted(found)


def fingerprint(path: Path) -> dict[str, int]:
    """What tells a shard from another one that has taken its name. Raises ``CurationError``."""
    try:
        with path.open("rb") as file:
            return {"bytes": path.stat().st_size, "crc32_of_head": zlib.crc32(file.read(HEAD))}
    except OSError as error:
        raise CurationError(f"{path} cannot be read ({error})") from error


class ShardError(CurationError):
    """A shard that cannot be read; the message says why and what to do."""


class Shard:
    """An input shard, open to be read. A context manager.

    Args:
        path: a tar file.
        found: a tar file of what networks found about its samples, if there is one.

    Raises:
        ShardError: not a tar file that is whole.
    """

    def __init__(self, path: Path, found: Path | None = None) -> None:
        self.path = path
        self._fields: dict[str, dict[str, tuple[tarfile.TarFile, tarfile.TarInfo]]] = {}
        self._problems: dict[str, str] = {}
        self._open = contextlib.ExitStack()
        with contextlib.ExitStack() as undo:
            undo.callback(self._open.close)
            self._scan(path)
            self.keys = list(self._fields)
            """Of the samples, in their order."""
            if found is not None and found.is_file():
                own, self._fields = self._fields, {}
                self._scan(found)
                self._fields = {key: {**own[key], **self._fields.get(key, {})} for key in own}
            undo.pop_all()

    def __enter__(self) -> Shard:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._open.close()

    def picture(self, key: str) -> Packed | None:
        """The picture of a sample as the shard has it. Raises ``ShardError``."""
        field = next((field for field in PICTURES if field in self._fields[key]), None)
        return None if field is None else self._read(key, field)

    def name(self, key: str) -> str:
        """A sample's name among all: that of its shard, its key, the ending of its picture."""
        field = next((field for field in PICTURES if field in self._fields[key]), None)
        return f"{self.path.stem}/{key}" + (f".{field}" if field else "")

    def sample(self, key: str) -> tuple[Entry, Sample | None]:
        """A picture with its annotations, and where its pixels are; None if there are none.

        Raises:
            ShardError: the shard cannot be read.
        """
        name = self.name(key)
        picture = self.picture(key)
        if picture is None:
            kinds = ", ".join(f".{field}" for field in PICTURES)
            return Entry(name, (0, 0), problem=f"the sample has no picture ({kinds})"), None
        if key in self._problems:
            return Entry(name, (0, 0), problem=self._problems[key]), None
        if PROBLEM in self._fields[key]:
            text = self._read(key, PROBLEM).data.decode(errors="replace")
            return Entry(name, (0, 0), problem=text), None
        depth = next((field for field in DEPTHS if field in self._fields[key]), None)
        where = Sample(picture, None if depth is None else self._read(key, depth))
        try:
            if INSTANCES not in self._fields[key]:
                raise CurationError(
                    f"{self.path.name} has no {key}.{INSTANCES} with COCO's annotations; add it, "
                    "or pass --segment"
                )
            return _entry(self._read(key, INSTANCES), name, picture), where
        except (CurationError, ImageError) as error:
            return Entry(name, (0, 0), problem=str(error)), None

    def _scan(self, path: Path) -> None:
        """Note every file's place; a damaged tar file is found out before any work."""
        try:
            tar = self._open.enter_context(tarfile.open(path, "r:"))  # noqa: SIM115
            members = tar.getmembers()
        except BROKEN as error:
            raise ShardError(
                f"{path} is no whole tar file ({error}); fetch or pack it again"
            ) from error
        for member in members:
            place = PurePosixPath(member.name)
            if not member.isfile() or place.name.startswith("."):
                continue
            base, _, field = place.name.partition(".")
            key, field = place.with_name(base).as_posix(), field.lower()
            if place.is_absolute() or ".." in place.parts:
                self._problems[key] = f"the key {key!r} leaves the shard; rename it"
            fields = self._fields.setdefault(key, {})
            if field in fields:
                self._problems[key] = f"{path.name} has two {key}.{field}; keep one of the two"
            fields[field] = (tar, member)

    def _read(self, key: str, field: str) -> Packed:
        tar, member = self._fields[key][field]
        try:
            file = tar.extractfile(member)
            assert file is not None
            data = file.read()
        except BROKEN as error:
            raise ShardError(f"{self.path} cannot be read ({error}); fetch it again") from error
        return Packed(f"{self.path.name}: {member.name}", data)


def _entry(file: Packed, name: str, picture: Packed) -> Entry:
    """The annotations of a sample. Raises ``CurationError``, ``ImageError``."""
    try:
        content: Any = json.loads(file.data)
    except (ValueError, RecursionError) as error:
        raise CurationError(f"{file} is not whole JSON ({error})") from error
    whole: Any = {"annotations": content} if isinstance(content, list) else content
    if not isinstance(whole, dict) or not isinstance(whole.get("annotations"), list):
        raise CurationError(
            f"{file} has no annotations; it must be COCO's: a list of annotations (segmentation, "
            'category_id, score), or {"annotations": [the list], "categories": [...]}; or pass '
            "--segment"
        )
    try:
        images: list[Any] = list(whole.get("images") or [whole])
        if len(images) != 1:
            raise ValueError(f"it lists {len(images)} pictures, a sample is one")
        names = {int(c["id"]): str(c["name"]) for c in whole.get("categories") or []}
        annotations = tuple(as_annotation(a, k, names) for k, a in enumerate(whole["annotations"]))
        if len({a["image_id"] for a in whole["annotations"] if "image_id" in a}) > 1:
            raise ValueError("its annotations are of several pictures")
        size = (0, 0)
        if "width" in images[0] and "height" in images[0]:
            size = (int(images[0]["height"]), int(images[0]["width"]))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CurationError(f"{file} is damaged ({type(error).__name__}: {error})") from error
    if min(size) < 1:
        size = upright_size(picture)
    return Entry(name, size, annotations, twice(annotations))


def samples(shard: Shard) -> Iterator[tuple[str, Entry, Sample | None]]:
    """Key, picture and source of all samples. Raises ``ShardError``."""
    for key in shard.keys:
        yield key, *shard.sample(key)
