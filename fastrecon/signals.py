"""Ctrl-C and SIGTERM as a polite request: finish the step, then stop."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from types import FrameType


class Interrupted(Exception):
    """A run was asked to stop and has written its checkpoint; ``exit_code`` is 128 + signal."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(message)
        self.exit_code = 128 + signum


class StopRequest:
    """Context manager that remembers the first SIGINT or SIGTERM in ``signum``.

    A second signal acts as it would have without us. Signals can be caught in the main thread
    only; elsewhere this does nothing, and whoever owns the main thread decides.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._previous: dict[int, object] = {}

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                self._previous[signum] = signal.signal(signum, self._remember)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._restore()

    def _remember(self, signum: int, frame: FrameType | None) -> None:
        self.signum = signum
        self._restore()

    def _restore(self) -> None:
        for signum, handler in self._previous.items():
            signal.signal(signum, handler)  # type: ignore[arg-type]
        self._previous = {}


def follow_parent() -> None:
    """In a worker process: leave signals to the parent, and do not outlive it.

    A terminal sends Ctrl-C, and a batch scheduler SIGTERM, to a whole group of processes.
    """
    for signum in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
