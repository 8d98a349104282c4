"""Work on the processes of this machine, some of which may die of it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Generic, TypeVar

from ..signals import StopRequest, follow_parent
from .coco import CurationError

T = TypeVar("T")
R = TypeVar("R")
AHEAD = 4
"""Items handed to every worker ahead of its work."""


@dataclass(frozen=True)
class Work(Generic[T, R]):
    """What is done with every item; functions and items are pickled.

    Args:
        run: does one item. An exception of it ends all the work.
        lost: the result of an item whose processes have died ``attempts`` times.
    """

    items: Sequence[T]
    run: Callable[[T], R]
    lost: Callable[[T], R]
    attempts: int = 1


def here(work: Work[T, R], stop: StopRequest) -> Generator[R]:
    """Results in this process; none is begun once a stop is requested."""
    for item in work.items:
        if stop.signum is not None:
            return
        yield work.run(item)


def on_processes(work: Work[T, R], workers: int, stop: StopRequest) -> Generator[R]:
    """Results as they are finished; none is begun once a stop is requested.

    When a worker dies, nobody knows over which item. Those that were under way are done again one
    by one, each in a process of its own, so that the fatal one is known.
    """
    waiting = list(reversed(work.items))
    while waiting and stop.signum is None:
        flying: dict[Future[R], T] = {}
        suspects: list[T] = []
        with _pool(workers) as pool:
            while (waiting or flying) and not suspects:
                while waiting and len(flying) < AHEAD * workers and stop.signum is None:
                    item = waiting.pop()
                    try:
                        flying[pool.submit(work.run, item)] = item
                    except BrokenProcessPool:
                        suspects.append(item)
                        break
                if not flying:
                    break
                for future in wait(flying, return_when=FIRST_COMPLETED).done:
                    item = flying.pop(future)
                    try:
                        yield future.result()
                    except BrokenProcessPool:
                        suspects.append(item)
            if suspects:  # the pool is broken: all that is left has failed or will not change
                for future, item in flying.items():
                    if future.exception() is None:
                        yield future.result()
                    else:
                        suspects.append(item)
        for item in suspects:
            if stop.signum is not None:
                return
            yield _alone(work, item)


def _alone(work: Work[T, R], item: T) -> R:
    for _ in range(work.attempts):
        with _pool(1) as alone:
            _try_out(alone)
            try:
                return alone.submit(work.run, item).result()
            except BrokenProcessPool:
                continue
    return work.lost(item)


def _try_out(pool: ProcessPoolExecutor) -> None:
    """Tell processes that never start from an item that kills them."""
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
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=follow_parent)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
