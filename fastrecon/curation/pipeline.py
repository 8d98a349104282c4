"""Many pictures, several processes, one manifest: what ``fastrecon curate`` does.

Workers decide and write crops; this process alone writes the manifest, when a picture's crops are
there. A run that was stopped continues where it was.
"""

from __future__ import annotations

import contextlib
import uuid
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from tqdm import tqdm

from ..run_folder import SETTINGS, keep_settings, only_run
from ..signals import StopRequest
from .batches import SHARDS, Batch, Outcome, curate_files, curate_shard
from .coco import CurationError, Entry, coco_masks
from .crops import write_whole
from .decide import Job, Record, curate_picture
from .journal import ATTEMPTS, DIED
from .manifest import Manifest, write_report
from .pool import Work, here, on_processes
from .scale import on_ray
from .shard_folder import (
    entry_batches,
    merge_manifests,
    refuse_foreign,
    remove_unfinished,
    shard_batches,
)

T = TypeVar("T")
R = TypeVar("R")
FORMAT = 1
"""Of what is written; a run does not continue a folder of another one."""
TOGETHER = 16
"""Pictures of a folder in one item of a cluster's work."""


def curate(entries: Sequence[Entry], job: Job, workers: int, ray: bool = False) -> int:
    """Curate pictures, as `coco.read_coco` lists them. Returns the exit code.

    0: all done; 1: some pictures failed, the manifest says why; 128 + signal: stopped by SIGINT or
    SIGTERM, the same call continues.

    Args:
        workers: processes; 0 works in this one.
        ray: work on the Ray cluster that is connected (`scale.cluster`) instead.

    Raises:
        CurationError, ValueError: the message says why; finished pictures are whole.
        OSError: the output cannot be written; finished pictures are whole.
    """
    _check_folders(job)
    if (job.out / SHARDS).is_dir():
        raise CurationError(f"{job.out} holds a run with shards; use another --out")
    entries = _distinct(entries)
    failed = 0
    with _writing(job) as stop, Manifest(job.out) as manifest:
        todo = [entry for entry in entries if entry.name not in manifest.done]
        with (
            contextlib.closing(_records(todo, job, workers, ray, stop)) as work,
            tqdm(total=len(entries), unit="picture", disable=None) as bar,
        ):
            bar.update(len(entries) - len(todo))
            for record in work:
                manifest.add(record)
                bar.update()
                if record.status == "failed":
                    failed += 1
                    tqdm.write(f"{record.image}: {record.reason}")
        if stop.signum is not None:
            return 128 + stop.signum
    return 1 if failed else 0


def curate_into_shards(
    pictures: Sequence[Entry] | Sequence[Path],
    job: Job,
    workers: int,
    ray: bool = False,
    size: int = 256,
) -> int:
    """Curate pictures into OUT/shards/; see `batches`. Returns the exit code, as `curate` does.

    Args:
        pictures: entries of a folder, or input shards (`samples.find_shards`); each of these gives
            an output shard of its name.
        workers, ray: as `curate` has them.
        size: pictures of a folder that go into one shard.

    Raises:
        As `curate` does; finished shards are whole.
    """
    shards = [item for item in pictures if isinstance(item, Path)]
    entries = [item for item in pictures if isinstance(item, Entry)]
    if entries:
        _check_folders(job)
    refuse_foreign(job.out, job.out / SETTINGS, shards)
    with _writing(job) as stop:
        remove_unfinished(job.out)
        (job.out / SHARDS).mkdir(exist_ok=True)
        todo = entry_batches(_distinct(entries), job.out, size) + shard_batches(shards, job.out)
        count = len(shards) + sum(len(batch.entries) for batch in todo)
        lost: list[Record] = []
        work = Work(todo, partial(curate_shard, job=job), _lost, ATTEMPTS)
        with (
            contextlib.closing(_results(work, workers, ray, stop)) as outcomes,
            tqdm(total=count, unit="shard" if shards else "picture", disable=None) as bar,
        ):
            bar.update(count - sum(len(batch.entries) or 1 for batch in todo))
            for outcome in outcomes:
                lost += outcome.records
                bar.update(1 if shards else outcome.pictures)
                for record in outcome.failed:
                    tqdm.write(f"{record.image}: {record.reason}")
        merge_manifests(job.out, lost)
        if stop.signum is not None:
            return 128 + stop.signum
    return 1 if write_report(job.out)["pictures"]["failed"] else 0


def _check_folders(job: Job) -> None:
    for folder, option in ((job.images, "images"), (job.depth, "depth-maps")):
        if not folder.is_dir():
            raise CurationError(f"--{option} {folder} is no folder; check the path")


@contextlib.contextmanager
def _writing(job: Job) -> Iterator[StopRequest]:
    """Be the one that writes to a run's folder."""
    job.filters.check()
    job.occlusion.check()
    coco_masks()  # a missing extra is said before the work
    job.out.mkdir(parents=True, exist_ok=True)
    with only_run(job.out, CurationError), StopRequest() as stop:
        keep_settings(job.out, _settings(job), CurationError, holds="crops", write=write_whole)
        yield stop


def _results(work: Work[T, R], workers: int, ray: bool, stop: StopRequest) -> Generator[R]:
    if ray:
        return on_ray(work, stop)
    return on_processes(work, workers, stop) if workers else here(work, stop)


def _records(
    todo: Sequence[Entry], job: Job, workers: int, ray: bool, stop: StopRequest
) -> Generator[Record]:
    """Records of a folder's pictures; a cluster gets some of these at a time."""
    if not ray:
        yield from _results(Work(todo, partial(curate_picture, job=job), _dead), workers, ray, stop)
        return
    run = uuid.uuid4().hex
    starts = range(0, len(todo), TOGETHER)
    batches = [Batch(f"{k:06d}", run, tuple(todo[k : k + TOGETHER])) for k in starts]
    work = Work(batches, partial(curate_files, job=job), _lost, ATTEMPTS)
    for outcome in on_ray(work, stop):
        yield from outcome.records


def _dead(entry: Entry) -> Record:
    return Record(entry.name, "failed", DIED)


def _lost(batch: Batch) -> Outcome:
    names = [entry.name for entry in batch.entries] or [f"{batch.name}.tar"]
    records = tuple(Record(name, "failed", DIED) for name in names)
    return Outcome(batch.name, len(batch.entries), records, records)


def _distinct(entries: Sequence[Entry]) -> list[Entry]:
    """Refuse pictures whose crops would have the same names (a.jpg beside a.png)."""
    stems = Counter(entry.name.rpartition(".")[0].lower() or entry.name for entry in entries)
    return [
        replace(entry, problem="another picture differs by its ending or letter case; rename one")
        if stems[entry.name.rpartition(".")[0].lower() or entry.name] > 1 and not entry.problem
        else entry
        for entry in entries
    ]


def _settings(job: Job) -> dict[str, Any]:
    """What crops are a function of, besides the pictures."""
    kept = {"images", "depth", "out"}
    return {"format": FORMAT, **_flat({k: v for k, v in asdict(job).items() if k not in kept})}


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    """Nested settings with names joined by dots."""
    flat = {}
    for key, value in tree.items():
        inner = _flat(value) if isinstance(value, dict) else {"": value}
        flat |= {f"{key}.{name}" if name else key: found for name, found in inner.items()}
    return flat
