"""``manifest.jsonl``: what became of every picture, one line each, and the counts over all.

A line is added when all of a picture's crops are on the disk; what has a line is done. A run that
was killed may leave half a line, which the next one removes.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from .coco import CurationError
from .crops import TEMPORARY, write_whole
from .decide import Record
from .filters import REASONS

MANIFEST = "manifest.jsonl"
REPORT = "report.json"


class Manifest:
    """The manifest of a run's folder, open for more lines. A context manager."""

    def __init__(self, out: Path) -> None:
        self.path = out / MANIFEST
        self.done: set[str] = set()
        """Pictures that need no more work; those that failed are tried again."""
        self._file: IO[str] | None = None

    def __enter__(self) -> Manifest:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._keep_finished()
        self._file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._file:
            self._file.close()

    def add(self, record: Record) -> None:
        """Add a line that is on the disk before this returns."""
        assert self._file is not None
        self._file.write(json.dumps(record.line()) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _keep_finished(self) -> None:
        """Drop the lines of failed pictures and the half of a line of a killed run."""
        if not self.path.exists():
            return
        temporary = self.path.with_name(TEMPORARY + self.path.name)
        with temporary.open("w", encoding="utf-8") as kept:
            for line in read_manifest(self.path.parent):
                if line["status"] == "ok":
                    self.done.add(line["image"])
                    kept.write(json.dumps(line) + "\n")
            kept.flush()
            os.fsync(kept.fileno())
        os.replace(temporary, self.path)


def read_manifest(out: Path) -> Iterator[dict[str, Any]]:
    """The lines of a run's manifest; the last may be half of one and is left out then.

    Raises:
        CurationError: a line in the middle is damaged.
    """
    path = out / MANIFEST
    with path.open(encoding="utf-8") as file:
        for number, text in enumerate(file, 1):
            if not text.endswith("\n"):
                return
            try:
                line = json.loads(text)
                if line["status"] not in ("ok", "failed"):
                    raise ValueError(f"status {line['status']!r}")
            except (ValueError, KeyError, TypeError) as error:
                raise CurationError(
                    f"{path}, line {number} is damaged ({error}); delete that line, and its "
                    "picture is done again"
                ) from error
            yield line


def write_report(out: Path) -> dict[str, Any]:
    """Count what the manifest says, write report.json, return it."""
    status, reasons, bases, categories = Counter(), Counter(), Counter(), Counter()
    for line in read_manifest(out):
        status[line["status"]] += 1
        for instance in line["instances"]:
            reasons[instance["reason"]] += 1
            if instance["kept"]:
                bases[instance["basis"]] += 1
                categories[instance["category"]] += 1
    kept = reasons.pop("", 0)
    report = {
        "pictures": {"ok": status["ok"], "failed": status["failed"]},
        "instances": kept + reasons.total(),
        "kept": kept,
        "kept_because": dict(bases),
        "dropped_because": {reason: reasons[reason] for reason in REASONS if reasons[reason]},
        "kept_categories": dict(categories.most_common()),
    }
    write_whole(out / REPORT, json.dumps(report, indent=1).encode())
    return report


def report_text(report: dict[str, Any]) -> str:
    """The report for a terminal."""
    total = report["instances"]
    pictures = report["pictures"]
    lines = [f"{pictures['ok']} pictures, {pictures['failed']} failed; {total} instances"]
    rows = [(f"kept, {basis}", n) for basis, n in report["kept_because"].items()]
    rows += [(f"{name}: {REASONS[name]}", n) for name, n in report["dropped_because"].items()]
    lines += [f"{n:8d}  {n / total:6.1%}  {name}" for name, n in rows]
    return "\n".join(lines)
