"""A folder that a resumable run writes to: one run at a time, of one kind of settings."""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

SETTINGS = "settings.json"
"""What the folder's files are a function of, besides the inputs."""


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


def keep_settings(
    out: Path,
    wanted: Mapping[str, Any],
    error: type[Exception],
    *,
    holds: str,
    write: Callable[[Path, bytes], None],
    begun: bool = False,
    spelled: Callable[[str], str] = str,
) -> None:
    """Write ``settings.json``, or refuse a folder that was begun with other settings.

    Args:
        wanted: what results depend on, of values that JSON has.
        error: what is raised.
        holds: what the folder is said to hold, for example "objects".
        write: writes a file that appears whole or not at all.
        begun: whether results are there, so that the file must be too.
        spelled: a setting's name as the user knows it.

    Raises:
        error: the settings differ, or the file is damaged or missing; the message says which.
    """
    path = out / SETTINGS
    wanted = json.loads(json.dumps(wanted))
    if not path.exists():
        if begun:
            raise error(f"{path} is missing although {holds} are there; use another --out")
        write(path, json.dumps(wanted, indent=1).encode())
        return
    try:
        present = dict(json.loads(path.read_text()))
    except (OSError, ValueError, TypeError) as problem:
        raise error(f"{path} is damaged ({problem}); use another --out") from problem
    changes = [
        f"{spelled(key)} {present.get(key)} there, {wanted.get(key)} now"
        for key in sorted({*present, *wanted})
        if present.get(key) != wanted.get(key)
    ]
    if changes:
        raise error(
            f"{out} holds {holds} of other settings ({'; '.join(changes)}); use another --out, or "
            "delete that folder"
        )
