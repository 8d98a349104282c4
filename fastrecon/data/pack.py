"""Data sets to shards: what ``fastrecon data pack`` does.

Every shard appears whole or not at all, and ``OUT/pack.jsonl`` gets a line when it is there: its
samples, and the objects before its end that could not be used. The same command again goes on
behind the last such line. ``OUT/settings.json`` says what the shards are a function of, and another
function is refused; ``OUT/shards.json`` and ``OUT/report.json`` are written at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from tqdm import tqdm

from ..checkpoint import TEMPORARY, write_atomic
from ..curation.pool import Work, here, on_processes
from ..run_folder import keep_settings, only_run
from ..signals import StopRequest
from .camera_files import INPUT_VIEW, TRANSFORMS, CollectionError, frames_json
from .folders import remove_leftovers
from .layouts import view_names
from .pack_journal import JOURNAL, Line, append_line, line_of, whole_lines
from .pack_source import Source, kind_of, left_out, open_source
from .picture_files import encode_png
from .posed import Collection
from .posed.collection import Picture
from .posed.real import Intrinsics, RealCollection
from .rgbd import RGBDError, RGBDSet, open_rgbd
from .rgbd_shards import sample_fields
from .shard_index import INDEX, Shard, find_shards, index_bytes
from .shards import ShardWriter, sample_bytes

FORMAT = 1
"""Of what is written; a run does not continue a folder of another one."""
REPORT = "report.json"


class PackError(ValueError):
    """A set that cannot be packed as asked; the message says why and what to do."""


@dataclass(frozen=True)
class PackOptions:
    """Pack posed pictures of objects, single pictures, or pictures with depth into tar shards.

    Reads GObjaverse, Zero123, transforms.json (NeRF, OmniObject3D), CO3D, MVImgNet, folders of
    pictures with alpha, what fastrecon curate has written, class folders of pictures with depth
    (fastrecon data depth), and shards. Every picture is decoded once; objects that cannot be used
    are named in OUT/report.json with the reason, and the exit code is 1. The same command again
    continues an interrupted run.
    """

    source: tyro.conf.Positional[Path]
    """The data set's folder, or a tar file."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("shards")
    """Folder to write to: NNNNNN.tar, shards.json."""
    layout: Literal[
        "auto", "gobjaverse", "zero123", "nerf", "co3d", "mvimgnet", "shards", "photos", "rgbd"
    ] = "auto"
    """Of the data set; "photos": single pictures, or the first view of every object; "rgbd":
    <class>/<stem>.jpg beside <stem>_depth.png."""
    max_bytes: int = 1 << 28
    """Begin a new shard rather than exceed this; a larger object gets its own."""
    size: int = 0
    """Reduce pictures to this side, pixels; 0 keeps them, and their files byte for byte, as it has
    to be for "rgbd"."""
    intrinsics: Intrinsics = "protocol"
    """Of CO3D and MVImgNet: "protocol" as Real3D evaluates, "measured" for learning from views."""
    workers: int = os.cpu_count() or 1
    """Processes; 0 works in the command's own."""

    def check(self) -> None:
        """Raise ``ValueError`` for values that make no sense."""
        for name, least in (("max_bytes", 1), ("size", 0), ("workers", 0)):
            if getattr(self, name) < least:
                option = name.replace("_", "-")
                raise ValueError(f"--{option} must be at least {least}, got {getattr(self, name)}")
        if self.out.resolve() == self.source.resolve():
            raise ValueError(f"{self.out} is the source; use another --out")


@dataclass(frozen=True)
class Item:
    """One object of the source."""

    index: int
    name: str
    sample: Path  # where its sample is put, for the shard to be


@dataclass(frozen=True)
class Done:
    """What became of an item: its sample is there, or a reason why not."""

    index: int
    reason: str = ""


def pack(options: PackOptions) -> int:
    """Pack a data set. Returns the exit code.

    0: all of it; 1: some objects were skipped, the report says why; 128 + signal: stopped by SIGINT
    or SIGTERM, the same call continues.

    Raises:
        ValueError: the message says why; finished shards are whole.
        OSError: OUT cannot be written; finished shards are whole.
    """
    options.check()
    for cache in (_opened, open_rgbd):  # the source may have changed since an earlier call
        cache.cache_clear()
    source = _opened(options)
    if said := left_out(source):
        print(said)
    options.out.mkdir(parents=True, exist_ok=True)
    with only_run(options.out, PackError), StopRequest() as stop:
        begun = (options.out / JOURNAL).exists() or bool(find_shards(options.out))
        keep_settings(
            options.out,
            _settings(options, source),
            PackError,
            holds="shards",
            write=write_atomic,
            begun=begun,
            spelled=lambda key: "--" + key.replace("_", "-"),
        )
        remove_leftovers(options.out)
        kind = kind_of(source)
        lines = whole_lines(options.out)
        before = sum(len(line.names) for line in lines)
        for line in _shards(options, source, lines, kind, stop):
            lines.append(line)
            append_line(options.out, line)
        if stop.signum is not None and (lines[-1].following if lines else 0) < len(source):
            print(f"stopped; {len(lines)} shards are whole, the same command continues")
            return 128 + stop.signum
        report = _finish(options.out, lines, source)
    new, skipped = report["packed"] - before, len(report["skipped"])
    print(
        f"{len(source)} objects: {new} packed, {before} already there, {skipped} skipped; "
        f"{report['shards']} shards, {report['bytes'] / 1e6:.1f} MB; see {options.out / REPORT}"
    )
    return 1 if skipped else 0


def _shards(
    options: PackOptions, source: Source, lines: list[Line], kind: str, stop: StopRequest
) -> Iterator[Line]:
    """Write the shards that are not there yet, in the order of the source."""
    start = lines[-1].following if lines else 0
    if start == len(source):
        return
    run = uuid.uuid4().hex[:8]
    items = [
        Item(k, source.names[k], options.out / f"{TEMPORARY}{run}-{k}")
        for k in range(start, len(source))
    ]
    work = Work(items, partial(_pack_one, options=options), _lost)
    done = on_processes(work, options.workers, stop) if options.workers else here(work, stop)
    writer = ShardWriter(options.out, kind, sum(bool(line.file) for line in lines))
    skipped: dict[str, str] = {}
    following = start
    try:
        with (
            closing(done),
            tqdm(total=len(source), initial=start, unit="object", disable=None) as bar,
        ):
            for result in _in_order(done, start):
                item = items[result.index - start]
                bar.update()
                if result.reason:
                    skipped[item.name] = result.reason
                    tqdm.write(f"{item.name}: {result.reason}")
                else:
                    sample = item.sample.read_bytes()
                    item.sample.unlink()
                    if not writer.holds(len(sample), options.max_bytes):
                        yield line_of(writer.finish(), following, skipped)
                        skipped = {}
                    writer.add(item.name, sample)
                following = result.index + 1
        if following == len(source):
            if writer.names:
                yield line_of(writer.finish(), following, skipped)
            else:
                yield Line(following, skipped)
    finally:
        writer.discard()
        remove_leftovers(options.out)


def _in_order(done: Iterator[Done], start: int) -> Iterator[Done]:
    """Results in the order of the source; they come as they are finished."""
    early: dict[int, Done] = {}
    for result in done:
        early[result.index] = result
        while start in early:
            yield early.pop(start)
            start += 1


def _pack_one(item: Item, options: PackOptions) -> Done:
    """Put an object's sample where its item says; one that cannot be used gives a reason."""
    source = _opened(options)
    if source.names[item.index : item.index + 1] != [item.name]:
        return Done(item.index, f"{options.source} has changed during the run")
    try:
        if isinstance(source, Collection):
            fields = _views(source, item.index)
        elif isinstance(source, RGBDSet):
            fields = sample_fields(source, item.index)
        else:
            fields = [("png", _file(source.picture(item.index)))]
    except (CollectionError, RGBDError) as error:
        return Done(item.index, str(error))
    except MemoryError:
        return Done(item.index, "does not fit into memory; use fewer --workers or a --size")
    item.sample.write_bytes(sample_bytes(item.name, fields))
    return Done(item.index)


def _lost(item: Item) -> Done:
    return Done(
        item.index, "the process that read it died: out of memory, or a file that crashes a decoder"
    )


def _views(source: Collection, index: int) -> list[tuple[str, bytes]]:
    """The fields of an object's sample; its cameras come first, as they are read first."""
    cameras = source.cameras(index)
    names = view_names(len(cameras.names))
    fields: list[tuple[str, bytes]] = []
    sides: set[tuple[int, ...]] = set()
    for view, name in enumerate(names):
        picture = source.picture(index, view)
        sides.add(picture.pixels.shape[:2])
        fields.append((f"{name}.png", _file(picture)))
    side = next(iter(sides))[0]
    if sides != {(side, side)}:
        raise CollectionError(
            f"{source.names[index]} in {source.path} has pictures of {len(sides)} sizes, the first "
            f"{next(iter(sides))}; all must be squares of one size"
        )
    extra = {INPUT_VIEW: cameras.input_view}
    said = frames_json(cameras.c2w, cameras.fov_deg.tolist(), side, names, extra)
    return [(TRANSFORMS, said), *fields]


def _file(picture: Picture) -> bytes:
    return picture.file or encode_png(picture.pixels)


@lru_cache(maxsize=1)
def _opened(options: PackOptions) -> Source:
    """The source, once in every process."""
    return open_source(options.source, options.layout, options.size, options.intrinsics)


def _settings(options: PackOptions, source: Source) -> dict[str, Any]:
    """What the shards are a function of, besides the files."""
    real = isinstance(source, RealCollection)
    return {
        "format": FORMAT,
        "layout": source.layout if isinstance(source, Collection) else kind_of(source),
        "intrinsics": options.intrinsics if real else None,
        "max_bytes": options.max_bytes,
        "size": options.size,
        "objects": len(source),
        "names": _digest(source.names),
        "classes": _digest(source.classes) if isinstance(source, RGBDSet) else None,
    }


def _digest(names: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def _finish(out: Path, lines: list[Line], source: Source) -> dict[str, Any]:
    """Write the index and the report."""
    kind = kind_of(source)
    classes: tuple[str, ...] = ()
    labels: dict[str, int] = {}
    if isinstance(source, RGBDSet):
        classes = source.classes
        labels = {name: k for name, (_, k) in zip(source.names, source.files, strict=True)}
    shards = [
        Shard(
            out / line.file,
            line.size,
            kind,
            tuple(line.names),
            tuple(line.offsets),
            classes,
            tuple(labels[name] for name in line.names) if classes else (),
        )
        for line in lines
        if line.file
    ]
    write_atomic(out / INDEX, index_bytes(shards))
    report = {
        "objects": len(source),
        "packed": sum(len(shard.names) for shard in shards),
        "shards": len(shards),
        "bytes": sum(shard.size for shard in shards),
        "skipped": {name: why for line in lines for name, why in line.skipped.items()},
    }
    write_atomic(out / REPORT, json.dumps(report, indent=1).encode())
    return report
