"""What a run of ``fastrecon data pack`` has finished: a line for every shard."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from ..checkpoint import write_atomic
from .shard_index import Shard

JOURNAL = "pack.jsonl"
"""In the folder that is written to."""


@dataclass(frozen=True)
class Line:
    """One line of the journal: a finished shard, and how far the source has been dealt with."""

    following: int  # the next object's index
    skipped: dict[str, str]  # reasons by name
    file: str = ""  # "": nothing was left to pack
    size: int = 0
    names: tuple[str, ...] = ()
    offsets: tuple[int, ...] = ()


def line_of(shard: Shard, following: int, skipped: dict[str, str]) -> Line:
    """The line of a shard that has just been finished."""
    return Line(following, skipped, shard.path.name, shard.size, shard.names, shard.offsets)


def whole_lines(out: Path) -> list[Line]:
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


def append_line(out: Path, line: Line) -> None:
    """Add a line that is on the disk before the next shard begins."""
    with (out / JOURNAL).open("a") as file:
        file.write(_text(line))
        file.flush()
        os.fsync(file.fileno())


def _text(line: Line) -> str:
    return json.dumps(asdict(line)) + "\n"
