"""One batch ahead: the next one is made in a thread while the model works on this one."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Prefetch(Generic[T]):
    """Calls ``make(step)`` in a background thread, one step ahead of whoever asks.

    ``make`` must depend on nothing but ``step``: then what is made ahead is what would have been
    made in time, and a run that is resumed sees the same batches. Its errors surface in ``take``.

    Args:
        make: makes the batch of a step.
        last: nothing is made from this step on.
    """

    def __init__(self, make: Callable[[int], T], last: int) -> None:
        self.make = make
        self.last = last
        self._pool = ThreadPoolExecutor(max_workers=1, thread_name_prefix="batches")
        self._ahead: dict[int, Future[T]] = {}

    def take(self, step: int) -> T:
        """The batch of ``step``; the next one is begun at once."""
        batch = self._begin(step).result()
        del self._ahead[step]
        if step + 1 < self.last:
            self._begin(step + 1)
        return batch

    def close(self) -> None:
        """Wait for the thread and forget what it made."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._ahead.clear()

    def _begin(self, step: int) -> Future[T]:
        if step not in self._ahead:
            self._ahead[step] = self._pool.submit(self.make, step)
        return self._ahead[step]
