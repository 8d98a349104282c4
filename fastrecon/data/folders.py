"""Folders that appear whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from ..checkpoint import TEMPORARY


def write_flushed(path: Path, data: bytes) -> None:
    """Write a file and have it reach the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``path`` that takes its place when the block ends well.

    After any exception the old folder is untouched and the new one gone. Files are for the block to
    flush; names are flushed here.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        temporary.mkdir()
        yield temporary
        for folder in [temporary, *(p for p in temporary.rglob("*") if p.is_dir())]:
            flush_names(folder)
        if path.exists():
            old = path.with_name(f"{TEMPORARY}old-{uuid.uuid4().hex[:8]}")
            os.rename(path, old)
            os.rename(temporary, path)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.rename(temporary, path)
        flush_names(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def flush_names(folder: Path) -> None:
    """Have a folder's entries reach the disk, where the system can do that."""
    if os.name == "nt":
        return  # Windows cannot open folders
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> None:
    """Delete what killed runs left unfinished in ``folder``."""
    for left in folder.glob(f"{TEMPORARY}*"):
        shutil.rmtree(left, ignore_errors=True)
        if left.is_file():
            left.unlink(missing_ok=True)
