"""OUT/shards/ as a whole: which batches are done, what is next, and the manifest over all."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Any

from .batches import MANIFEST_ENDING, SHARDS, Batch
from .coco import CurationError, Entry
from .crops import TEMPORARY
from .decide import Record
from .manifest import MANIFEST
from .samples import fingerprint


def refuse_foreign(out: Path, settings: Path, inputs: Iterable[Path]) -> None:
    """Keep away from what this command has not made, or made as files.

    Raises:
        CurationError: OUT/shards/ has other shards, or the input; or OUT has another kind of run.
    """
    folder = (out / SHARDS).resolve()
    if any(path.resolve().parent == folder for path in inputs):
        raise CurationError(f"{folder} has the input, and would get the output; use another --out")
    if not settings.exists() and any(folder.glob("*.tar")):
        raise CurationError(f"{folder} has shards of something else; use another --out")
    if (out / MANIFEST).exists() and not folder.is_dir():
        raise CurationError(f"{out} holds a run with crops as files; use another --out")


def remove_unfinished(out: Path) -> None:
    """Delete what killed runs left: shards without their manifest, and temporary files."""
    folder = out / SHARDS
    for path in [*folder.glob("*.tar")]:
        if not path.with_suffix(MANIFEST_ENDING).exists():
            path.unlink()
    for path in [*folder.glob(f"{TEMPORARY}*"), *out.glob(f"{TEMPORARY}*.at")]:
        path.unlink()


def shard_batches(shards: Sequence[Path], out: Path) -> list[Batch]:
    """A batch for every input shard that has none yet.

    Raises:
        CurationError: what is done is of another shard with this name.
    """
    run = uuid.uuid4().hex
    todo = []
    for path in shards:
        done = out / SHARDS / f"{path.stem}{MANIFEST_ENDING}"
        if not done.exists():
            todo.append(Batch(path.stem, run, shard=path))
            continue
        head, _ = _read(done)
        now = fingerprint(path)
        if {key: head.get(key) for key in now} != now:
            raise CurationError(
                f"{path} is not what {done} was made of; delete that file to do it again, or use "
                "another --out"
            )
    return todo


def entry_batches(entries: Sequence[Entry], out: Path, size: int) -> list[Batch]:
    """Batches of ``size`` pictures of those that are in no shard yet, under free names."""
    done: set[str] = set()
    names = set()
    for path in _manifests(out):
        names.add(path.stem)
        done.update(line["image"] for line in _read(path)[1])
    todo = [entry for entry in entries if entry.name not in done]
    run = uuid.uuid4().hex
    free = (name for k in count() if (name := f"{k:06d}") not in names)
    starts = range(0, len(todo), size)
    return [
        Batch(name, run, tuple(todo[start : start + size]))
        for name, start in zip(islice(free, len(starts)), starts, strict=True)
    ]


def merge_manifests(out: Path, more: Sequence[Record]) -> None:
    """Write OUT/manifest.jsonl anew: the lines of all batches that are done, and ``more``."""
    temporary = out / f"{TEMPORARY}{MANIFEST}"
    with temporary.open("w", encoding="utf-8") as file:
        for path in _manifests(out):
            file.writelines(json.dumps(line) + "\n" for line in _read(path)[1])
        file.writelines(json.dumps(record.line()) + "\n" for record in more)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, out / MANIFEST)


def _manifests(out: Path) -> list[Path]:
    found = (out / SHARDS).glob(f"*{MANIFEST_ENDING}")
    return sorted(path for path in found if not path.name.startswith(TEMPORARY))


def _read(path: Path) -> tuple[Mapping[str, Any], Iterator[dict[str, Any]]]:
    """The first line of a batch's manifest, and those about pictures, read one by one."""
    file = path.open(encoding="utf-8")

    def lines() -> Iterator[dict[str, Any]]:
        with file:
            for text in file:
                yield load(text)

    def load(text: str) -> dict[str, Any]:
        try:
            found = json.loads(text)
            if not isinstance(found, dict):
                raise ValueError("not an object")
            return found
        except ValueError as error:
            raise CurationError(
                f"{path} is damaged ({error}); delete it, and its pictures are done again"
            ) from error

    return load(file.readline()), lines()
