"""Many mesh files to many folders of views: what ``fastrecon data render`` does.

Every object's folder appears whole or not at all, so a run that was interrupted continues where it
stopped. ``OUT/manifest.jsonl`` says what became of every mesh, one JSON object per line;
``OUT/settings.json`` says what the pictures are a function of, and a run with other settings into
the same folder is refused.
"""

from __future__ import annotations

import contextlib
import glob
import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from torch import Tensor
from tqdm import tqdm

from ..checkpoint import write_atomic
from ..errors import MeshError
from ..run_folder import keep_settings, only_run
from ..signals import StopRequest
from .camera_files import TRANSFORMS
from .folders import remove_leftovers, replacing_folder, write_flushed
from .layouts import FULL, transforms_json, view_files, view_names
from .meshes.files import KINDS
from .meshes.mesh import Mesh, load_mesh
from .meshes.render import SOFT, UNLIT, MeshRenderer
from .render_options import RenderOptions
from .shards import write_shards

MANIFEST = "manifest.jsonl"
OBJECT = "object.json"
SHARDS = "shards"
PIXELS = 1 << 21
"""Drawn at once; some 80 bytes each, whatever the number of views."""


class RenderSetError(ValueError):
    """A set that cannot be rendered as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Record:
    """One line of the manifest."""

    name: str
    source: str
    status: Literal["ok", "failed"]
    reason: str = ""
    faces: int = 0
    views: int = 0
    notes: tuple[str, ...] = ()


def find_meshes(named: Sequence[str]) -> dict[str, Path]:
    """Mesh files by object name, in a stable order.

    A name is the path below the folder that was named (or the file's own name) without its ending,
    made of letters, digits, _ and -. Files whose names would coincide get a code from their paths.

    Raises:
        RenderSetError: something named does not exist, or there is no mesh.
    """
    found: dict[Path, str] = {}
    for text in named:
        path = Path(text)
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.is_file())
            for file in inside:
                if file.suffix.lower().lstrip(".") in KINDS:
                    found.setdefault(file, _plain(file.relative_to(path).with_suffix("")))
            continue
        files = (
            [path] if path.exists() else [Path(p) for p in sorted(glob.glob(text, recursive=True))]
        )
        if not files:
            raise RenderSetError(f"{text} does not exist; check the path (quote globs)")
        for file in files:
            if file.is_file():
                found.setdefault(file, _plain(Path(file.stem)))
    if not found:
        raise RenderSetError(
            f"no GLB, OBJ or PLY file in {', '.join(named)}; name mesh files or their folder"
        )
    # The same name in other letter case would be the same folder on some disks.
    taken = Counter([SHARDS, *(name.lower() for name in found.values())])
    result = {}
    for path, name in found.items():
        if taken[name.lower()] > 1:
            name += f"-{hashlib.sha256(os.path.abspath(path).encode()).hexdigest()[:8]}"
        result[name] = path
    return result


def _plain(path: Path) -> str:
    return re.sub(r"[^\w-]+", "_", "__".join(path.parts), flags=re.ASCII).strip("_") or "mesh"


def render_set(options: RenderOptions) -> int:
    """Render every mesh; one that fails does not stop the others. Returns the exit code.

    0: all are there; 1: some meshes failed; 128 + signal: stopped by SIGINT or SIGTERM.

    Raises:
        ValueError, RenderSetError: nothing was rendered; the message says why.
        OSError: OUT cannot be written; finished objects are whole.
    """
    options.check()
    meshes = find_meshes(options.meshes)
    options.out.mkdir(parents=True, exist_ok=True)
    with only_run(options.out, RenderSetError):
        keep_settings(
            options.out,
            options.settings(),
            RenderSetError,
            holds="objects",
            write=write_atomic,
            begun=any(options.out.glob("*/" + OBJECT)),
            spelled=lambda key: "--" + key.replace("_", "-"),
        )
        remove_leftovers(options.out)
        # The renderer starts with the first mesh to draw: a finished set needs no graphics.
        with contextlib.ExitStack() as stack, StopRequest() as stop:
            # What is there is listed anew: the last line of a killed run may be half of one.
            there = {name: _finished(options.out / name) for name in meshes}
            records = {name: record for name, record in there.items() if record is not None}
            drawn = 0
            _rewrite(options.out / MANIFEST, records)
            renderer: MeshRenderer | None = None
            for name, path in tqdm(
                meshes.items(), desc="meshes", unit="mesh", leave=False, disable=None
            ):
                if name in records:
                    continue
                if renderer is None:
                    light = SOFT if options.light == "soft" else UNLIT
                    renderer = stack.enter_context(MeshRenderer(options.backend, light))
                records[name] = record = _render(renderer, name, path, options)
                drawn += record.status == "ok"
                _append(options.out / MANIFEST, record)
                if record.status == "failed":
                    tqdm.write(f"{name}: {record.reason}")
                if stop.signum is not None:
                    print(f"stopped; {len(records)} of {len(meshes)} meshes done, all files whole")
                    return 128 + stop.signum
        records = {name: records[name] for name in meshes}
        _rewrite(options.out / MANIFEST, records)
        ready = [options.out / name for name, record in records.items() if record.status == "ok"]
        if options.shards is not None:
            write_shards(ready, options.out / SHARDS, round(options.shards * 1e6))
    failed = len(records) - len(ready)
    print(
        f"{len(records)} meshes: {drawn} rendered, {len(ready) - drawn} already there, "
        f"{failed} failed; see {options.out / MANIFEST}"
    )
    return 1 if failed else 0


def _render(renderer: MeshRenderer, name: str, path: Path, options: RenderOptions) -> Record:
    """One mesh to one folder; a mesh that cannot be used is a record, not an exception."""
    try:
        mesh = load_mesh(
            path,
            up=options.up,
            max_faces=options.max_faces,
            missing_texture=options.missing_texture,
        ).scaled(options.object_radius)
    except MeshError as error:
        return Record(name, str(path), "failed", str(error))
    c2w = options.c2w(name)
    record = Record(name, str(path), "ok", "", len(mesh.faces), len(c2w), mesh.notes)
    try:
        with replacing_folder(options.out / name) as folder:
            for kind in ("depth", "normal"):
                (folder / kind).mkdir()
            for file, data in _files(renderer, mesh, c2w, options):
                write_flushed(folder / file, data)
            write_flushed(folder / OBJECT, json.dumps(asdict(record)).encode())
    except MemoryError:
        reason = f"{path} does not fit into memory; decimate it or lower --size"
        return Record(name, str(path), "failed", reason)
    return record


def _files(
    renderer: MeshRenderer, mesh: Mesh, c2w: Tensor, options: RenderOptions
) -> Iterator[tuple[str, bytes]]:
    """The files of one object, a few views at a time."""
    scale = (options.distance + options.object_radius) / FULL
    names = view_names(len(c2w))
    views = max(1, PIXELS // options.size**2)
    for k in range(0, len(c2w), views):
        some = c2w[k : k + views]
        pictures = renderer.render(mesh, some, options.size, options.fov, options.supersample)
        yield from view_files(pictures, some, scale, names[k : k + views], options.layout)
    extra = {
        "distance": options.distance,
        "radius": options.object_radius,
        "mesh_to_world": mesh.transform.tolist(),
    }
    yield TRANSFORMS, transforms_json(c2w, options.fov, options.size, scale, extra)


def _finished(folder: Path) -> Record | None:
    """The record of an object whose folder is there; folders appear whole."""
    try:
        stored = json.loads((folder / OBJECT).read_text())
        return Record(**{**stored, "notes": tuple(stored["notes"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None


def _append(path: Path, record: Record) -> None:
    """Add a line that is on the disk before the next mesh begins."""
    with path.open("a") as file:
        file.write(json.dumps(asdict(record)) + "\n")
        file.flush()
        os.fsync(file.fileno())


def _rewrite(path: Path, records: dict[str, Record]) -> None:
    """The whole manifest, one line per mesh, in place of what runs have appended."""
    lines = [json.dumps(asdict(record)) + "\n" for record in records.values()]
    write_atomic(path, "".join(lines).encode())
