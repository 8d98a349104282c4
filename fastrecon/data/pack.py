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
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
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
from .picture_files import encode_png
from .posed import Collection, PhotoSet, open_collection, open_photos
from .posed.collection import Picture
from .posed.opening import detect_layout
from .posed.real import Intrinsics, RealCollection
from .shard_index import INDEX, PHOTOS, POSED, Shard, find_shards, index_bytes, open_shards
from .shards import ShardWriter, sample_bytes

FORMAT = 1
"""Of what is written; a run does not continue a folder of another one."""
JOURNAL = "pack.jsonl"
REPORT = "report.json"

Source = Collection | PhotoSet


class PackError(ValueError):
    """A set that cannot be packed as asked; the message says why and what to do."""


@dataclass(frozen=True)
class PackOptions:
    """Pack posed pictures of objects, or single pictures, into tar shards for training.

    Reads GObjaverse, Zero123, transforms.json (NeRF, OmniObject3D), CO3D, MVImgNet, folders of
    pictures with alpha, what fastrecon curate has written, and shards. Every picture is decoded
    once; objects that cannot be used are named in OUT/report.json with the reason, and the exit
    code is 1. The same command again continues an interrupted run.
    """

    source: tyro.conf.Positional[Path]
    """The data set's folder, or a tar file."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("shards")
    """Folder to write to: NNNNNN.tar, shards.json."""
    layout: Literal[
        "auto", "gobjaverse", "zero123", "nerf", "co3d", "mvimgnet", "shards", "photos"
    ] = "auto"
    """Of the data set; "photos": single pictures, or the first view of every object."""
    max_bytes: int = 1 << 28
    """Begin a new shard rather than exceed this; a larger object gets its own."""
    size: int = 0
    """Reduce pictures to this side, pixels; 0 keeps them, and their files byte for byte."""
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


@dataclass(frozen=True)
class Line:
    """One line of the journal: a finished shard, and how far the source has been dealt with."""

    following: int  # the next object's index
    skipped: dict[str, str]  # reasons by name
    file: str = ""  # "": nothing was left to pack
    size: int = 0
    names: tuple[str, ...] = ()
    offsets: tuple[int, ...] = ()


def pack(options: PackOptions) -> int:
    """Pack a data set. Returns the exit code.

    0: all of it; 1: some objects were skipped, the report says why; 128 + signal: stopped by SIGINT
    or SIGTERM, the same call continues.

    Raises:
        ValueError: the message says why; finished shards are whole.
        OSError: OUT cannot be written; finished shards are whole.
    """
    options.check()
    _opened.cache_clear()  # the source may have changed since an earlier call
    source = _opened(options)
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
        kind = _kind(source)
        lines = _whole_lines(options.out)
        before = sum(len(line.names) for line in lines)
        for line in _shards(options, source, lines, kind, stop):
            lines.append(line)
            _append(options.out / JOURNAL, line)
        if stop.signum is not None and (lines[-1].following if lines else 0) < len(source):
            print(f"stopped; {len(lines)} shards are whole, the same command continues")
            return 128 + stop.signum
        report = _finish(options.out, lines, kind, len(source))
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
                        yield _line(writer.finish(), following, skipped)
                        skipped = {}
                    writer.add(item.name, sample)
                following = result.index + 1
        if following == len(source):
            if writer.names:
                yield _line(writer.finish(), following, skipped)
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
        else:
            fields = [("png", _file(source.picture(item.index)))]
    except CollectionError as error:
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
    path, layout = options.source, options.layout
    if layout == "auto" and path.exists():
        shards = open_shards(path) if find_shards(path) else []
        posed = any(s.kind == POSED for s in shards) if shards else detect_layout(path)[0]
        layout = "auto" if posed else "photos"
    if layout == "photos":
        return open_photos(path, size=options.size)
    return open_collection(path, layout, size=options.size, intrinsics=options.intrinsics)


def _kind(source: Source) -> str:
    return POSED if isinstance(source, Collection) else PHOTOS


def _settings(options: PackOptions, source: Source) -> dict[str, Any]:
    """What the shards are a function of, besides the files."""
    real = isinstance(source, RealCollection)
    return {
        "format": FORMAT,
        "layout": source.layout if isinstance(source, Collection) else PHOTOS,
        "intrinsics": options.intrinsics if real else None,
        "max_bytes": options.max_bytes,
        "size": options.size,
        "objects": len(source),
        "names": hashlib.sha256("\n".join(source.names).encode()).hexdigest()[:16],
    }


def _line(shard: Shard, following: int, skipped: dict[str, str]) -> Line:
    return Line(following, skipped, shard.path.name, shard.size, shard.names, shard.offsets)


def _whole_lines(out: Path) -> list[Line]:
    """The journal up to the first line that is half written, or whose shard is not there."""
    path = out / JOURNAL
    if not path.exists():
        return []
    lines: list[Line] = []
    for text in path.read_text().splitlines(keepends=True):
        try:
            line = Line(**json.loads(text))
            if line.file and (out / line.file).stat().st_size != line.size:
                break
        except (OSError, ValueError, TypeError):
            break
        if not text.endswith("\n"):
            break
        lines.append(line)
    write_atomic(path, "".join(_text(line) for line in lines).encode())
    return lines


def _append(path: Path, line: Line) -> None:
    """Add a line that is on the disk before the next shard begins."""
    with path.open("a") as file:
        file.write(_text(line))
        file.flush()
        os.fsync(file.fileno())


def _text(line: Line) -> str:
    return json.dumps(asdict(line)) + "\n"


def _finish(out: Path, lines: list[Line], kind: str, count: int) -> dict[str, Any]:
    """Write the index and the report."""
    shards = [
        Shard(out / line.file, line.size, kind, tuple(line.names), tuple(line.offsets))
        for line in lines
        if line.file
    ]
    write_atomic(out / INDEX, index_bytes(shards))
    report = {
        "objects": count,
        "packed": sum(len(shard.names) for shard in shards),
        "shards": len(shards),
        "bytes": sum(shard.size for shard in shards),
        "skipped": {name: why for line in lines for name, why in line.skipped.items()},
    }
    write_atomic(out / REPORT, json.dumps(report, indent=1).encode())
    return report
