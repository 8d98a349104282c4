"""Many pictures, several processes, one manifest: what ``fastrecon curate`` does.

Workers decide and write crops; this process alone writes the manifest, when a picture's crops are
there. A run that was stopped continues where it was.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import threading
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, replace
from typing import Any

from tqdm import tqdm

from ..run_folder import only_run
from ..signals import StopRequest
from .coco import CurationError, Entry, coco_masks
from .crops import write_whole
from .decide import Job, Record, curate_picture
from .manifest import Manifest

SETTINGS = "settings.json"
FORMAT = 1
"""Of what is written; a run does not continue a folder of another one."""
AHEAD = 4
"""Pictures handed to every worker ahead of its work."""
DIED = (
    "the process that worked on it died, also when it had nothing else to do: out of memory, or a "
    "file that crashes a decoder"
)


def curate(entries: Sequence[Entry], job: Job, workers: int) -> int:
    """Curate pictures, as `coco.read_coco` lists them. Returns the exit code.

    0: all done; 1: some pictures failed, the manifest says why; 128 + signal: stopped by SIGINT or
    SIGTERM, the same call continues.

    Args:
        workers: processes; 0 works in this one.

    Raises:
        CurationError, ValueError: the message says why; finished pictures are whole.
        OSError: the output cannot be written; finished pictures are whole.
    """
    job.filters.check()
    job.occlusion.check()
    coco_masks()  # a missing extra is said before the work
    for folder, option in ((job.images, "images"), (job.depth, "depth-maps")):
        if not folder.is_dir():
            raise CurationError(f"--{option} {folder} is no folder; check the path")
    entries = _distinct(entries)
    job.out.mkdir(parents=True, exist_ok=True)
    failed = 0
    with only_run(job.out, CurationError), StopRequest() as stop:
        _check_settings(job)
        with Manifest(job.out) as manifest:
            todo = [entry for entry in entries if entry.name not in manifest.done]
            work = _serial(todo, job) if workers == 0 else _parallel(todo, job, workers, stop)
            with contextlib.closing(work), tqdm(total=len(entries), unit="picture") as bar:
                bar.update(len(entries) - len(todo))
                for record in work:
                    manifest.add(record)
                    bar.update()
                    if record.status == "failed":
                        failed += 1
                        tqdm.write(f"{record.image}: {record.reason}")
                    if stop.signum is not None and workers == 0:
                        break
            if stop.signum is not None:
                return 128 + stop.signum
    return 1 if failed else 0


def _distinct(entries: Sequence[Entry]) -> list[Entry]:
    """Refuse pictures whose crops would have the same names (a.jpg beside a.png)."""
    stems = Counter(entry.name.rpartition(".")[0].lower() or entry.name for entry in entries)
    return [
        replace(entry, problem="another picture differs by its ending or letter case; rename one")
        if stems[entry.name.rpartition(".")[0].lower() or entry.name] > 1 and not entry.problem
        else entry
        for entry in entries
    ]


def _serial(todo: Sequence[Entry], job: Job) -> Generator[Record]:
    for entry in todo:
        yield curate_picture(entry, job)


def _parallel(
    todo: Sequence[Entry], job: Job, workers: int, stop: StopRequest
) -> Generator[Record]:
    """Records as they are finished; none is begun once a stop is requested.

    When a worker dies, nobody knows over which picture. Those that were under way are done again
    one by one, each in a process of its own, so that the fatal one is known.
    """
    waiting = list(reversed(todo))
    while waiting and stop.signum is None:
        flying: dict[Future[Record], Entry] = {}
        suspects: list[Entry] = []
        with _pool(workers) as pool:
            while (waiting or flying) and not suspects:
                while waiting and len(flying) < AHEAD * workers and stop.signum is None:
                    entry = waiting.pop()
                    try:
                        flying[pool.submit(curate_picture, entry, job)] = entry
                    except BrokenProcessPool:
                        suspects.append(entry)
                        break
                if not flying:
                    break
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    entry = flying.pop(future)
                    try:
                        yield future.result()
                    except BrokenProcessPool:
                        suspects.append(entry)
            if suspects:  # the pool is broken: all that is left has failed or will not change
                for future, entry in flying.items():
                    if future.exception() is None:
                        yield future.result()
                    else:
                        suspects.append(entry)
        for entry in suspects:
            if stop.signum is not None:
                return
            with _pool(1) as alone:
                _try_out(alone)
                try:
                    yield alone.submit(curate_picture, entry, job).result()
                except BrokenProcessPool:
                    yield Record(entry.name, "failed", DIED)


def _try_out(pool: ProcessPoolExecutor) -> None:
    """Tell processes that never start from a picture that kills them."""
    try:
        pool.submit(os.getpid).result()
    except BrokenProcessPool as error:
        raise CurationError(
            "worker processes do not start (their own message is above); use --workers 0, and in a "
            'script of your own call this under `if __name__ == "__main__":`'
        ) from error


@contextlib.contextmanager
def _pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Fresh processes, as a fork of one with threads may hang."""
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _begin() -> None:
    """In a worker: leave Ctrl-C to the parent, and do not outlive it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()


def _check_settings(job: Job) -> None:
    """Refuse to mix crops of different settings in one folder."""
    path = job.out / SETTINGS
    kept = {"images", "depth", "out"}
    wanted: dict[str, Any] = {k: v for k, v in asdict(job).items() if k not in kept}
    wanted = json.loads(json.dumps({"format": FORMAT, **_flat(wanted)}))
    if not path.exists():
        write_whole(path, json.dumps(wanted, indent=1).encode())
        return
    try:
        present = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise CurationError(f"{path} is damaged ({error}); use another --out") from error
    changes = [
        f"{key} {present.get(key)} there, {wanted.get(key)} now"
        for key in sorted({*present, *wanted})
        if present.get(key) != wanted.get(key)
    ]
    if changes:
        raise CurationError(
            f"{job.out} holds crops of other settings ({'; '.join(changes)}); use another --out, "
            "or delete that folder"
        )


def _flat(tree: dict[str, Any]) -> dict[str, Any]:
    """Nested settings with names joined by dots."""
    flat = {}
    for key, value in tree.items():
        inner = _flat(value) if isinstance(value, dict) else {"": value}
        flat |= {f"{key}.{name}" if name else key: found for name, found in inner.items()}
    return flat
