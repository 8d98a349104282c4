"""Batches ahead: the next ones are made in the background while the model works on this one."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Generic, TypeVar

import torch

from .signals import follow_parent

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Calls ``make(step)`` in the background, ahead of whoever asks.

    ``make`` must depend on nothing but ``step``: then what is made ahead is what would have been
    made in time, and a run that is resumed sees the same batches. Its errors surface in ``take``.

    Args:
        make: makes the batch of a step; with workers it must be picklable.
        last: nothing is made from this step on.
        workers: processes that make one batch each at a time; 0 makes one ahead in a thread.
    """

    def __init__(self, make: Callable[[int], T], last: int, workers: int = 0) -> None:
        self.make = make
        self.last = last
        self.depth = max(workers, 1)
        """Batches made ahead."""
        self._pool: Executor
        if workers:
            # Workers have one thread each; numpy reads its number when it is imported there.
            os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
            # Spawned, not forked: a fork of a process with threads may hang.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
        else:
            self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._ahead: dict[int, Future[T]] = {}

    def take(self, step: int) -> T:
        """The batch of ``step``; the next ones are begun at once.

        Raises:
            RuntimeError: a worker process died.
        """
        for coming in range(step, min(step + self.depth + 1, self.last)):
            if coming not in self._ahead:
                self._ahead[coming] = self._pool.submit(self.make, coming)
        try:
            return self._ahead.pop(step).result()
        except BrokenProcessPool as error:
            raise RuntimeError(
                "a process that makes training batches died, perhaps for lack of memory; run the "
                "same command again to continue, with --run.data-workers 0 if it dies again"
            ) from error

    def close(self) -> None:
        """Wait for what is being made, and forget it."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()


def _start_worker() -> None:
    """One thread each; when to stop is the trainer's decision."""
    torch.set_num_threads(1)
    follow_parent()
