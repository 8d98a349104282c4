"""Pictures that are done together: one process takes them, one shard may come of them.

Under OUT/shards/ a finished batch is ``NAME.tar``, whose samples are a crop and the manifest's word
about it (``key.png``, ``key.json``), and ``NAME.jsonl``, which is written last: a first line about
where the pictures come from, then the manifest's lines about them. A batch with its ``.jsonl`` is
done; anything else that a killed run left is not, and is written over. Without a crop there is no
``.tar``.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tarfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from .coco import CurationError, Entry
from .crops import TEMPORARY, write_whole
from .decide import Job, Record, curate_picture, examine, stem
from .journal import DIED, Journal
from .samples import Shard, fingerprint, samples
from .sources import Folders, Source

SHARDS = "shards"
MANIFEST_ENDING = ".jsonl"


@dataclass(frozen=True)
class Batch:
    """Some of a folder's pictures, or all of a shard's."""

    name: str
    run: str  # deaths of processes count within a run
    entries: tuple[Entry, ...] = ()
    shard: Path | None = None

    def journal(self, job: Job) -> Journal:
        """Of the processes that do this batch."""
        return Journal(job.out / f"{TEMPORARY}{self.name}.at", self.run)


@dataclass(frozen=True)
class Outcome:
    """What became of a batch.

    What is not in its ``.jsonl`` is in ``records``: everything without shards; else what a folder's
    run tries again, or that the input shard cannot be used.
    """

    name: str
    pictures: int = 0
    failed: tuple[Record, ...] = ()
    records: tuple[Record, ...] = ()


def curate_files(batch: Batch, job: Job) -> Outcome:
    """Curate a folder's pictures; crops become files. Raises as `decide.curate_picture` does."""
    records = []
    with batch.journal(job) as journal:
        for entry in batch.entries:
            if journal.fatal(entry.name):
                records.append(Record(entry.name, "failed", DIED))
                continue
            journal.begin(entry.name)
            records.append(curate_picture(entry, job))
    failed = tuple(record for record in records if record.status == "failed")
    return Outcome(batch.name, len(records), failed, tuple(records))


def curate_shard(batch: Batch, job: Job) -> Outcome:
    """Curate pictures into one shard, which appears whole or not at all.

    The bytes are a function of the input and the settings alone.

    Raises:
        OSError: the shard cannot be written.
        ImportError: an extra is missing; the message names it.
    """
    lost: list[Record] = []
    failed: list[Record] = []
    count = 0
    with batch.journal(job) as journal, contextlib.ExitStack() as stack:
        try:
            if journal.fatal_start():
                raise CurationError(DIED)
            pictures = stack.enter_context(_pictures(batch, job))
            writer = stack.enter_context(ShardWriter(job.out, batch))
            for key, entry, source in pictures:
                if journal.fatal(entry.name):
                    entry = Entry(entry.name, entry.size, problem=DIED)
                journal.begin(entry.name)
                record, crops = _examine(key, entry, source, job, writer.place)
                count += 1
                if record.status == "failed":
                    failed.append(record)
                    if batch.shard is None:
                        lost.append(record)
                        continue
                writer.add(record, crops)
            writer.finish()
        except CurationError as error:
            record = Record(f"{batch.name}.tar", "failed", str(error))
            return Outcome(batch.name, 0, (record,), (record,))
    return Outcome(batch.name, count, tuple(failed), tuple(lost))


def _examine(
    key: str, entry: Entry, source: Source | None, job: Job, place: str
) -> tuple[Record, dict[str, bytes]]:
    if source is None:
        return Record(entry.name, "failed", entry.problem), {}
    return examine(entry, source, job, f"{place}/{key}")


@contextlib.contextmanager
def _pictures(batch: Batch, job: Job) -> Iterator[Iterator[tuple[str, Entry, Source | None]]]:
    """Key in the output, picture and source of all pictures of a batch."""
    if batch.shard is None:
        folders = Folders(job.images, job.depth)
        yield ((_key(entry), entry, folders) for entry in batch.entries)
        return
    with Shard(batch.shard, job.depth / f"{batch.name}.tar") as shard:
        # Keys are told apart within a shard only.
        named = samples(shard)
        yield ((f"{batch.name}/{key}", entry, source) for key, entry, source in named)


def _key(entry: Entry) -> str:
    """Keys end at the first dot of their last part; `data.shard_index` has the same escapes."""
    path = PurePosixPath(stem(entry).replace("%", "%25"))
    return path.with_name(path.name.replace(".", "%2E")).as_posix()


class ShardWriter:
    """An output shard and its manifest while they are filled. A context manager.

    Nothing is seen of them before `finish`, and nothing stays of an unfinished one.
    """

    def __init__(self, out: Path, batch: Batch) -> None:
        self.folder = out / SHARDS
        self.place = f"{SHARDS}/{batch.name}.tar"
        """Before the crops' names in the manifest."""
        self._path = self.folder / f"{batch.name}.tar"
        self._lines: list[dict[str, Any]] = [{"batch": batch.name, **_origin(batch)}]
        self._crops = 0
        self._ok = batch.shard is not None
        # Of its own: a process that is taken for dead may still be writing.
        self._temporary = self.folder / f"{TEMPORARY}{batch.name}-{uuid.uuid4().hex[:8]}.tar"
        self._file: IO[bytes] | None = None
        self._tar: tarfile.TarFile | None = None

    def __enter__(self) -> ShardWriter:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._file = self._temporary.open("wb")
        self._tar = tarfile.open(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._file:
            self._file.close()
        self._temporary.unlink(missing_ok=True)

    def add(self, record: Record, crops: dict[str, bytes]) -> None:
        """Add what is known about a picture, and the crops of its instances by their names."""
        line = record.line()
        self._lines.append(line)
        for instance in line["instances"]:
            if instance["crop"]:
                name = instance["crop"].removeprefix(f"{self.place}/")
                said = json.dumps({"image": record.image, **instance}).encode()
                self._member(name, crops[instance["crop"]])
                self._member(name.removesuffix(".png") + ".json", said)
                self._crops += 1

    def finish(self) -> None:
        """Have the shard appear, and then the manifest that says that it is done."""
        assert self._file is not None
        assert self._tar is not None
        self._tar.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        if self._crops:
            os.replace(self._temporary, self._path)
        if self._ok or len(self._lines) > 1:
            text = "".join(json.dumps(line) + "\n" for line in self._lines)
            write_whole(self._path.with_suffix(MANIFEST_ENDING), text.encode())

    def _member(self, name: str, data: bytes) -> None:
        assert self._tar is not None
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(data), 0o644
        self._tar.addfile(member, io.BytesIO(data))


def _origin(batch: Batch) -> dict[str, Any]:
    if batch.shard is None:
        return {}
    return {"shard": batch.shard.name, **fingerprint(batch.shard)}
