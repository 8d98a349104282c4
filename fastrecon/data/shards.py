"""Folders of views packed into tar shards, as the library webdataset streams them.

One sample per object. A sample's key is the object's name; its fields are what follows the key's
dot: ``000.png``, ``000.depth.png``, ``000.normal.png``, ``000.npy`` (layout "zero123") and
``transforms.json``, with the contents that ``layouts.py`` describes. Reading them::

    import webdataset
    for sample in webdataset.WebDataset("out/shards/{000000..000003}.tar", shardshuffle=False):
        sample["__key__"], sample["000.png"], sample["transforms.json"]
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .folders import replacing_folder, write_flushed
from .layouts import TRANSFORMS

INDEX = "shards.json"


def sample_files(folder: Path) -> Iterator[tuple[str, Path]]:
    """Fields of one object's sample and the files that they come from, in order of the views."""
    for path in sorted(folder.glob("[0-9]*.png")):
        yield path.name, path
        for kind in ("depth", "normal"):
            if (folder / kind / path.name).exists():
                yield f"{path.stem}.{kind}.png", folder / kind / path.name
        if path.with_suffix(".npy").exists():
            yield f"{path.stem}.npy", path.with_suffix(".npy")
    yield TRANSFORMS, folder / TRANSFORMS


def sample_bytes(name: str, files: Iterable[tuple[str, Path]]) -> bytes:
    """One object's members of a tar file, without the end mark; the same bytes every time."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for field, path in files:
            data = path.read_bytes()
            member = tarfile.TarInfo(f"{name}.{field}")
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
        end = packed.tell()
    return packed.getvalue()[:end]


def write_shards(folders: Sequence[Path], out: Path, max_bytes: int) -> list[Path]:
    """Pack objects' folders into ``out/000000.tar`` and so on, and ``out/shards.json``.

    Everything is written under a temporary name beside ``out``, which is replaced at the end: a
    reader sees the old shards or the new ones, all of them. Shards that already hold these objects
    stay as they are.

    Args:
        folders: finished folders of views; their names become keys and must have no dot.
        max_bytes: begin a new shard rather than exceed this; a larger object gets its own.

    Returns:
        The shards, in order.

    Raises:
        OSError: the disk is full, or ``out`` cannot be written.
    """
    if max_bytes < 1:
        raise ValueError(f"max_bytes must be at least 1, got {max_bytes}")
    names = [folder.name for folder in folders]
    dotted = next((name for name in names if "." in name), None)
    if dotted is not None:
        raise ValueError(f"keys must have no dot, got {dotted!r}; rename the folder")
    wanted = {"max_bytes": max_bytes, "samples": names}
    present = _index(out)
    if {key: present.get(key) for key in wanted} == wanted and not _newer(folders, out):
        return [out / shard for shard in present["shards"]]
    shards: list[str] = []
    with replacing_folder(out) as temporary:
        batch: list[bytes] = []
        for folder in folders:
            sample = sample_bytes(folder.name, sample_files(folder))
            if batch and sum(map(len, batch)) + len(sample) > max_bytes:
                shards.append(_close(temporary, len(shards), batch))
            batch.append(sample)
        if batch:
            shards.append(_close(temporary, len(shards), batch))
        index = json.dumps({**wanted, "shards": shards}, indent=1)
        write_flushed(temporary / INDEX, index.encode())
    return [out / shard for shard in shards]


def _close(folder: Path, number: int, batch: list[bytes]) -> str:
    """Write one shard and empty the batch; returns its name."""
    name = f"{number:06d}.tar"
    with (folder / name).open("wb") as file:
        file.writelines(batch)
        file.write(bytes(2 * tarfile.BLOCKSIZE))
        file.flush()
        os.fsync(file.fileno())
    batch.clear()
    return name


def _newer(folders: Sequence[Path], out: Path) -> bool:
    """Whether an object was rendered after the shards were packed."""
    packed = (out / INDEX).stat().st_mtime_ns
    return any((folder / TRANSFORMS).stat().st_mtime_ns > packed for folder in folders)


def _index(out: Path) -> dict:
    try:
        return dict(json.loads((out / INDEX).read_text()))
    except (OSError, ValueError, TypeError):
        return {}
