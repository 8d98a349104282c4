"""One picture: what becomes of each of its instances and why, and the crops of those kept."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import ImageError
from .coco import CurationError, Entry, decode
from .crops import cut, png, write_whole
from .filters import FilterSettings, Instance, first_reason
from .occlusion import (
    DEFAULT,
    Contacts,
    Depth,
    DepthKind,
    OcclusionSettings,
    Verdict,
    judge,
)
from .sources import Folders, Source

CROPS = "crops"


@dataclass(frozen=True)
class Job:
    """Where pictures come from and go to, and the settings: the same for all of a run.

    When the pictures come in shards, ``images`` is not looked at, and ``depth`` is a folder of
    shards of the same names, with what networks found out about the samples.
    """

    images: Path
    depth: Path
    out: Path
    depth_kind: DepthKind
    filters: FilterSettings = FilterSettings()
    occlusion: OcclusionSettings = DEFAULT
    seed: int = 0


@dataclass(frozen=True)
class Decision:
    """What became of an instance: a part of the manifest's line about its picture."""

    id: int
    category: str | None
    score: float
    box: tuple[int, int, int, int] | None  # left, top, width, height of the mask
    kept: bool
    reason: str = ""  # why not: a key of `filters.REASONS`
    basis: str = ""  # why: "no contact" or "in front"
    behind: int = 0  # points at which it is behind a neighbour,
    points: int = 0  # of those that were drawn
    crop: str = ""  # its picture, below the run's folder, with /


@dataclass(frozen=True)
class Record:
    """One line of the manifest: a picture."""

    image: str
    status: Literal["ok", "failed"]
    reason: str = ""
    instances: tuple[Decision, ...] = ()

    def line(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def curate_picture(entry: Entry, job: Job) -> Record:
    """Decide about every instance of a folder's picture and write the crops of those kept.

    The result is a function of the files and settings alone, so that a picture done again gives
    the same.

    Raises:
        OSError: a crop cannot be written.
        ImportError: an extra is missing; the message names it.
    """
    record, crops = examine(entry, Folders(job.images, job.depth), job, f"{CROPS}/{stem(entry)}")
    for path, data in crops.items():
        write_whole(job.out / path, data)
    return record


def stem(entry: Entry) -> str:
    """A picture's name without its ending."""
    return entry.name.rpartition(".")[0] or entry.name


def examine(entry: Entry, source: Source, job: Job, prefix: str) -> tuple[Record, dict[str, bytes]]:
    """Decide about every instance of a picture.

    A picture that cannot be used is a record with the reason.

    Args:
        prefix: crops are named ``<prefix>_<id>.png``.

    Returns:
        The record, and the crops (PNG) of the instances that are kept, in their order.

    Raises:
        ImportError: an extra is missing; the message names it.
    """
    if entry.problem:
        return Record(entry.name, "failed", entry.problem), {}
    if not entry.annotations:
        return Record(entry.name, "ok"), {}
    try:
        picture = source.picture(entry)
        depth = source.depth(entry, job.depth_kind)
        instances = decode(entry)
    except (CurationError, ImageError) as error:
        return Record(entry.name, "failed", str(error)), {}
    except MemoryError:
        return Record(entry.name, "failed", "does not fit into memory; use fewer --workers"), {}
    decisions = []
    crops: dict[str, bytes] = {}
    for instance, (reason, verdict) in zip(instances, decide(instances, depth, job), strict=True):
        crop = ""
        if not reason and instance.mask:
            crop = f"{prefix}_{instance.id}.png"
            crops[crop] = png(cut(picture, instance.mask))
        decisions.append(_decision(instance, reason, verdict, crop))
    return Record(entry.name, "ok", "", tuple(decisions)), crops


def decide(
    instances: Sequence[Instance], depth: Depth, job: Job
) -> list[tuple[str, Verdict | None]]:
    """For every instance why it is dropped, "" if it is kept, and the occlusion test's verdict.

    The verdict is None for instances that another filter drops first. All instances but those with
    a low score are neighbours, however small.
    """
    neighbours = [
        k
        for k, instance in enumerate(instances)
        if instance.mask and instance.score >= job.filters.min_score
    ]
    masks = [mask for k in neighbours if (mask := instances[k].mask)]
    contacts = Contacts(masks, job.occlusion)
    found: list[tuple[str, Verdict | None]] = []
    for k, instance in enumerate(instances):
        if reason := first_reason(instance, job.filters):
            found.append((reason, None))
            continue
        # Seeded by what the instance is, not by its place, so that a rerun draws the same points.
        seed = zlib.crc32(
            repr((job.seed, instance.id, instance.mask and instance.mask.box)).encode()
        )
        verdict = judge(
            contacts, neighbours.index(k), depth, job.depth_kind, np.random.default_rng(seed)
        )
        found.append((verdict.reason, verdict))
    return found


def _decision(instance: Instance, reason: str, verdict: Verdict | None, crop: str) -> Decision:
    return Decision(
        instance.id,
        instance.category,
        round(instance.score, 4),
        instance.mask.box if instance.mask else None,
        not reason,
        reason,
        verdict.basis if verdict else "",
        int(verdict.behind.sum()) if verdict else 0,
        len(verdict.behind) if verdict else 0,
        crop,
    )
