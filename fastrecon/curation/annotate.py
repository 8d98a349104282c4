"""Networks in front of the curation: what they find is kept in files that serve other runs.

For a folder these are the very files that a user may bring, ``instances/*.json`` in COCO's layout
and ``depth/*.npy``; for a shard, one beside it in a folder of their own, with ``key.json`` and
``key.depth.npy``. What is there is not computed again.
"""

from __future__ import annotations

import io
import os
import tarfile
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from PIL import Image

from ..errors import ImageError
from .crops import TEMPORARY, upright, write_whole
from .files import File
from .journal import DIED, Journal
from .models import Loaded
from .samples import PROBLEM, Shard, ShardError

INSTANCES, DEPTH = ".json", ".npy"
DEPTH_IN_SHARDS = ".depth.npy"
ON_THE_WAY = 4
"""Batches of a network that are decoded together, so that equal sizes meet."""
Wrong = dict[str, str]
"""What is wrong with which picture."""


@dataclass(frozen=True)
class Pictures:
    """Pictures of a folder that networks look at, and where their files go."""

    images: Path
    names: tuple[str, ...]
    instances: Path | None  # None: these are there already
    depths: Path | None
    run: str

    @property
    def count(self) -> int:
        """How many pictures these are."""
        return len(self.names)

    @property
    def outputs(self) -> list[tuple[Path, str]]:
        """Folders and endings of what is made of every picture."""
        both = ((self.instances, INSTANCES), (self.depths, DEPTH))
        return [(folder, ending) for folder, ending in both if folder]

    def missing(self) -> list[str]:
        """Names of the pictures of which something has not been made."""
        return [
            name
            for name in self.names
            if not all(_target(folder, name, e).exists() for folder, e in self.outputs)
        ]


@dataclass(frozen=True)
class Samples:
    """A shard whose samples networks look at, and the one that takes what they find."""

    shard: Path
    found: Path
    run: str
    count: int = 1


Look = Pictures | Samples


def annotate(look: Look, load: Callable[[], Loaded]) -> tuple[int, Wrong]:
    """Have networks look at pictures and write what they find.

    A shard that cannot be read is left to the curation to complain about.

    Args:
        load: gives the networks, quickly when called again.

    Returns:
        How many pictures or shards these were, and what is wrong with which.

    Raises:
        CurationError: a network fails.
        OSError: the files cannot be written.
    """
    wrong = _folder(look, load) if isinstance(look, Pictures) else _shard(look, load)
    return look.count, wrong


def lost(look: Look) -> tuple[int, Wrong]:
    """The same for pictures whose processes kept dying."""
    names = look.names if isinstance(look, Pictures) else [f"{look.shard.stem}.tar"]
    return look.count, dict.fromkeys(names, DIED)


def _folder(look: Pictures, load: Callable[[], Loaded]) -> Wrong:
    wrong: Wrong = {}
    folder = look.outputs[0][0]
    files: list[tuple[str, File]] = [(name, look.images / name) for name in look.missing()]
    note = folder / f"{TEMPORARY}{uuid.uuid5(uuid.NAMESPACE_URL, repr(look.names)).hex}.at"
    with Journal(note, look.run) as journal:
        if journal.fatal_start():
            return dict.fromkeys(look.names, DIED)
        loaded = load()
        for some in _decoded(files, journal, wrong, loaded.networks.batch_size):
            names, pictures = zip(*some, strict=True)
            made = []
            if look.instances:
                made.append((look.instances, INSTANCES, loaded.instances(names, pictures)))
            if look.depths:
                made.append((look.depths, DEPTH, loaded.depths(pictures)))
            for where, ending, contents in made:
                for name, content in zip(names, contents, strict=True):
                    write_whole(_target(where, name, ending), content)
    return wrong


def _shard(look: Samples, load: Callable[[], Loaded]) -> Wrong:
    partial = look.found.with_name(f"{TEMPORARY}{look.found.name}")
    look.found.parent.mkdir(parents=True, exist_ok=True)
    try:
        with Journal(partial.with_suffix(".at"), look.run) as journal, Shard(look.shard) as shard:
            if journal.fatal_start():
                raise ShardError(DIED)
            temporary = partial.with_name(f"{partial.stem}-{uuid.uuid4().hex[:8]}.tar")
            try:
                with temporary.open("wb") as file:
                    wrong = _fill(file, shard, journal, load())
                os.replace(temporary, look.found)
            finally:
                temporary.unlink(missing_ok=True)
    except ShardError as error:
        return {f"{look.shard.stem}.tar": str(error)}
    return {shard.name(key): text for key, text in wrong.items()}


def _fill(file: IO[bytes], shard: Shard, journal: Journal, loaded: Loaded) -> Wrong:
    wrong: Wrong = {}
    with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
        files = ((key, picture) for key in shard.keys if (picture := shard.picture(key)))
        for some in _decoded(files, journal, wrong, loaded.networks.batch_size):
            keys, pictures = zip(*some, strict=True)
            if loaded.networks.segment:
                names = [shard.name(key) for key in keys]
                _add(tar, keys, INSTANCES, loaded.instances(names, pictures))
            if loaded.networks.depth:
                _add(tar, keys, DEPTH_IN_SHARDS, loaded.depths(pictures))
        _add(tar, list(wrong), f".{PROBLEM}", [text.encode() for text in wrong.values()])
    file.flush()
    os.fsync(file.fileno())
    return wrong


def _decoded(
    files: Iterable[tuple[str, File]],
    journal: Journal,
    wrong: Wrong,
    batch_size: int,
) -> Iterator[list[tuple[str, Image.Image]]]:
    """Pictures, some at a time; those that cannot be read are added to ``wrong``."""
    some: list[tuple[str, Image.Image]] = []
    for name, file in files:
        if journal.fatal(name):
            wrong[name] = DIED
            continue
        journal.begin(name)
        try:
            some.append((name, upright(file)))
        except ImageError as error:
            wrong[name] = str(error)
        if len(some) == ON_THE_WAY * batch_size:
            yield some
            some = []
    if some:
        yield some


def _add(tar: tarfile.TarFile, keys: Sequence[str], ending: str, contents: list[bytes]) -> None:
    for key, content in zip(keys, contents, strict=True):
        member = tarfile.TarInfo(key + ending)
        member.size, member.mode = len(content), 0o644
        tar.addfile(member, io.BytesIO(content))


def _target(folder: Path, name: str, ending: str) -> Path:
    return folder / Path(name).with_suffix(ending)
