"""Checkpoint files: safetensors and JSON, written whole or not at all.

A file is written under a temporary name in its own folder, flushed to the disk and renamed over
the old one; a training checkpoint is a folder written in the same manner. Whoever reads therefore
finds the old version or the new one, never a mixture, whatever was killed when. Nothing here reads
pickle.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import shutil
import uuid
import warnings
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

TEMPORARY = ".partial-"
"""Names of unfinished files and folders begin with this."""
STATE = "state.json"


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read; the message says what to do about it."""


def write_atomic(path: str | os.PathLike[str], data: bytes) -> None:
    """Write ``data`` to ``path``; after any failure the old file is untouched.

    Raises:
        CheckpointError: the folder cannot be written, or the disk is full.
    """
    with _replacing(Path(path)) as temporary:
        temporary.write_bytes(data)


def save_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write named tensors, from any device, as one safetensors file, atomically.

    Raises:
        CheckpointError: the folder cannot be written, or the disk is full.
    """
    owned: dict[str, Tensor] = {}
    storages: set[tuple[torch.device, int]] = set()
    for name, tensor in tensors.items():
        tensor = tensor.detach().contiguous()
        storage = (tensor.device, tensor.untyped_storage().data_ptr())
        # the format refuses tensors that share memory (tied weights, views): give each its own
        owned[name] = tensor.clone() if storage in storages else tensor
        storages.add(storage)
    with _replacing(Path(path)) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode  # the user's own; the library's is readable by one alone
        save_file(owned, temporary, metadata=dict(metadata or {"format": "pt"}))
        temporary.chmod(mode)


def load_tensors(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """Read every tensor of a safetensors file onto the CPU.

    Raises:
        CheckpointError: the file is missing, truncated, or in another format.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; check the path, or fetch the file again")
    try:
        return load_file(path, device="cpu")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(_diagnose(path, error)) from error


def _diagnose(path: Path, error: Exception) -> str:
    """What is wrong with a file that safetensors will not read, and what to do."""
    with path.open("rb") as file:
        head = file.read(64)
    size = path.stat().st_size
    if head.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04")):
        return (
            f"{path} is a PyTorch pickle, not a safetensors file; "
            "convert it with a tool that you trust, or load it with LRM.from_pretrained"
        )
    if head.startswith(b"version https://git-lfs"):
        return f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` and try again"
    header = int.from_bytes(head[:8], "little")
    if size < 8 or (head[8:9] == b"{" and header < 100_000_000):
        return (
            f"{path} is truncated or damaged ({size} bytes; {error}); "
            "copy or download it again, or use an older checkpoint"
        )
    return f"{path} is not a safetensors file ({error}); give a file written by save_tensors"


@contextlib.contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path``; move it there on success, remove it on failure."""
    temporary = path.with_name(f"{TEMPORARY}{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(_write_failure(path, error)) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def _write_failure(path: Path, error: Exception) -> str:
    """A failed write as a repair note; safetensors gives the system's error as text only."""
    full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    if getattr(error, "errno", None) in full or re.search(
        "|".join(rf"os error {code}\b" for code in full), str(error)
    ):
        return (
            f"no room to write {path} ({error}); free some space or choose another folder; "
            "what was there before is untouched"
        )
    return f"cannot write {path} ({error}); check that the folder exists and may be written"


def _flush(path: Path) -> None:
    """Have a file or folder reach the disk, where the system can do that."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Checkpoint:
    """One moment of a training run: ``tensors[file][name]`` and everything that is JSON."""

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any] = field(default_factory=dict)


class CheckpointStore:
    """The checkpoints of one run: ``folder/step_00000500/{model.safetensors, ..., state.json}``."""

    def __init__(self, folder: str | os.PathLike[str], keep: int = 2) -> None:
        if keep < 1:
            raise ValueError(f"keep must be at least 1 (the newest checkpoint), got {keep}")
        self.folder = Path(folder)
        self.keep = keep

    def folders(self) -> list[Path]:
        """Finished checkpoint folders, newest first; damage inside them is not looked for."""
        found = [p for p in self.folder.glob("step_*") if re.fullmatch(r"step_\d+", p.name)]
        return sorted(found, key=lambda p: int(p.name[5:]), reverse=True)

    def write(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, then delete those beyond ``keep`` and unfinished leftovers.

        Raises:
            CheckpointError: as ``save_tensors``; older checkpoints are still there.
        """
        final = self.folder / f"step_{checkpoint.step:08d}"
        temporary = self.folder / f"{TEMPORARY}{final.name}-{uuid.uuid4().hex[:8]}"
        try:
            sums = {}
            for name, tensors in checkpoint.tensors.items():
                path = temporary / f"{name}.safetensors"
                save_tensors(path, tensors)
                sums[path.name] = _checksum(path)
            state = {"step": checkpoint.step, "files": sums, **checkpoint.state}
            write_atomic(temporary / STATE, json.dumps(state, indent=1).encode())
            self._install(temporary, final)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
        self._prune()
        return final

    def newest(self) -> Checkpoint | None:
        """The newest whole checkpoint; damaged ones are skipped with a warning."""
        for folder in self.folders():
            try:
                return read_checkpoint(folder)
            except CheckpointError as error:
                warnings.warn(f"skipping a damaged checkpoint: {error}", stacklevel=2)
        return None

    def _install(self, temporary: Path, final: Path) -> None:
        """Rename a finished folder into place; a damaged one of the same step goes first."""
        try:
            if final.exists():
                os.rename(final, self.folder / f"{TEMPORARY}old-{uuid.uuid4().hex[:8]}")
            os.rename(temporary, final)
            _flush(self.folder)
        except OSError as error:
            raise CheckpointError(_write_failure(final, error)) from error

    def _prune(self) -> None:
        """Delete what nobody will resume from, once its successor is complete."""
        for old in [*self.folders()[self.keep :], *self.folder.glob(f"{TEMPORARY}*")]:
            shutil.rmtree(old, ignore_errors=True)


def read_checkpoint(folder: str | os.PathLike[str]) -> Checkpoint:
    """Read and verify one checkpoint folder.

    Raises:
        CheckpointError: a file is missing, unreadable, or differs from what was written.
    """
    folder = Path(folder)
    try:
        state = json.loads((folder / STATE).read_text())
        step, sums = int(state.pop("step")), dict(state.pop("files"))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder / STATE} is missing or damaged ({error})") from error
    tensors = {}
    for name, expected in sums.items():
        tensors[Path(name).stem] = load_tensors(folder / name)
        if _checksum(folder / name) != expected:
            raise CheckpointError(f"{folder / name} is not what was written (checksum differs)")
    return Checkpoint(step, tensors, state)


def _checksum(path: Path) -> str:
    """CRC-32 of a file: enough against bad disks and copies, and fast."""
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            crc = zlib.crc32(chunk, crc)
    return f"{crc:08x}"
