"""A folder that a resumable run writes to: one run at a time."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def only_run(out: Path, error: type[Exception]) -> Iterator[None]:
    """Keep a second run out of the folder while this one writes; a killed run frees it.

    Raises:
        error: another run holds the folder.
    """
    if os.name == "nt":
        yield
        return
    import fcntl

    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            # Other errors: a file system without locks.
            if problem.errno in (errno.EAGAIN, errno.EACCES):
                raise error(
                    f"another run is writing to {out}; wait for it, or use another --out"
                ) from problem
        yield
