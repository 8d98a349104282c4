"""Pictures for people: what was kept, what was dropped and why, and the test's stages (Fig. 6)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..errors import ImageError
from .coco import CurationError, Entry, decode
from .crops import Picture, png, write_whole
from .decide import Job, decide
from .filters import REASONS, Instance
from .manifest import read_manifest
from .masks import Bool, Mask, dilate
from .occlusion import Contacts, Depth, Verdict
from .samples import Shard
from .sources import Folders, Source

SHEET, STAGES = "sheet.png", "stages.png"
KEPT, PER_REASON = 24, 6
"""Instances on the sheet."""
EXAMPLES = 3
"""Rows of the stages, of instances in front and of instances behind each."""
AROUND = 0.15
"""What is shown around an instance, as a share of its scale."""
SIDE = 200
GREEN, RED, BLUE, YELLOW = (0, 150, 60), (215, 40, 40), (40, 90, 220), (250, 190, 0)


Found = tuple[Entry, Source] | None
"""A picture by its name in the manifest; None if it is not there any more."""


def of_folder(entries: Sequence[Entry], job: Job) -> Callable[[str], Found]:
    """Look pictures up among a folder's."""
    folders = Folders(job.images, job.depth)
    by_name = {entry.name: (entry, folders) for entry in entries}
    return by_name.get


def of_shards(shards: Sequence[Path], job: Job) -> Callable[[str], Found]:
    """Look pictures up in input shards."""
    by_name = {path.stem: path for path in shards}

    def find(name: str) -> Found:
        shard, _, inside = name.partition("/")
        if shard not in by_name:
            return None
        with Shard(by_name[shard], job.depth / f"{shard}.tar") as opened:
            key = PurePosixPath(inside).with_suffix("").as_posix()
            if key not in opened.keys:
                return None
            entry, source = opened.sample(key)
        return None if source is None else (entry, source)

    return find


def write_sheets(find: Callable[[str], Found], job: Job, seed: int = 0) -> list[str]:
    """Write sheet.png and stages.png of a run's folder; returns the names of those written.

    Instances are drawn evenly from the manifest. Without any there is no picture of them.

    Args:
        find: `of_folder` or `of_shards`.
    """
    # Not at the top: it imports torch, which workers do without.
    from ..export.pictures import contact_sheet

    chosen = _choose(job, random.Random(seed))
    cells: list[tuple[str, Picture]] = []
    stages: list[tuple[str, Picture]] = []
    for reason, found in chosen.items():
        for k, (name, number) in enumerate(found):
            try:
                picture = find(name)
                if picture is None:
                    continue  # of an earlier run with more pictures
                seen = _Seen(*picture, job)
            except (CurationError, ImageError):
                continue  # taken away since it was curated
            if reason != "in front":
                cells.append((reason or "kept", seen.outlined(number, RED if reason else GREEN)))
            if reason in ("in front", "occluded") and k < EXAMPLES:
                stages += seen.stages(number)
    written = []
    for file, content, columns in ((SHEET, cells, 8), (STAGES, stages, 6)):
        if content:
            write_whole(job.out / file, png(contact_sheet(content, columns, SIDE)))
            written.append(file)
    return written


def _choose(job: Job, draw: random.Random) -> dict[str, list[tuple[str, int]]]:
    """Picture and place of some instances for "" (kept), every reason, and "in front"."""
    limits = {"": KEPT, **dict.fromkeys(REASONS, PER_REASON), "in front": EXAMPLES}
    chosen: dict[str, list[tuple[str, int]]] = {key: [] for key in limits}
    seen = dict.fromkeys(limits, 0)
    for line in read_manifest(job.out):
        for number, instance in enumerate(line["instances"]):
            if not instance["box"]:
                continue
            for key in {instance["reason"], instance["basis"]} & limits.keys():
                if key == "" and not instance["kept"]:
                    continue
                seen[key] += 1
                if len(chosen[key]) < limits[key]:
                    chosen[key].append((line["image"], number))
                elif (place := draw.randrange(seen[key])) < limits[key]:
                    chosen[key][place] = (line["image"], number)
    return chosen


class _Seen:
    """A picture with everything that the test sees of it."""

    def __init__(self, entry: Entry, source: Source, job: Job) -> None:
        self.job = job
        self.picture = source.picture(entry)
        self.depth = source.depth(entry, job.depth_kind)
        self.instances = decode(entry)

    def outlined(self, number: int, colour: tuple[int, int, int]) -> Picture:
        """The instance in its surroundings, a line around it, the rest pale."""
        mask = _mask(self.instances[number])
        window = _surroundings(mask)
        inside = _paste(mask, mask.inside, window)
        shown = _pale(self.picture[window], inside)
        shown[_rim(inside)] = colour
        return _square(shown)

    def stages(self, number: int) -> Iterator[tuple[str, Picture]]:
        """Picture, masks, boundary, contact, points, depth: a row for one instance."""
        job, instance = self.job, self.instances[number]
        mask = _mask(instance)
        window = _surroundings(mask)
        verdict = decide(self.instances, self.depth, job)[number][1]
        assert verdict is not None
        near = [
            _mask(other)
            for other in self.instances
            if other.mask and other is not instance and other.score >= job.filters.min_score
        ]
        contacts = Contacts([mask, *near], job.occlusion)
        own = _paste(mask, mask.inside, window)
        colours = np.full((*own.shape, 3), 255, np.uint8)
        for k, other in enumerate(near):
            colours[_paste(other, other.inside, window)] = 150 + 40 * (k % 3)
        with_mask = colours.copy()
        with_mask[own] = BLUE
        with_band = colours.copy()
        with_band[own] = (190, 205, 250)
        with_band[_paste(mask, contacts.bands[0], window)] = BLUE
        with_contact = with_band.copy()
        with_contact[_paste(mask, contacts.of(0), window)] = YELLOW
        tones = _tones(self.depth[window])
        corner = (window[0].start, window[1].start)
        yield instance.category or "instance", _square(self.picture[window])
        yield "masks", _square(with_mask)
        yield "boundary", _square(with_band)
        yield "contact", _square(with_contact)
        yield "inside - outside", _square(_pairs(with_band, verdict, corner))
        total = f"{verdict.behind.sum()} of {len(verdict.behind)} behind"
        yield f"{job.depth_kind}: {total}", _square(_pairs(tones, verdict, corner))


def _mask(instance: Instance) -> Mask:
    assert instance.mask is not None
    return instance.mask


def _surroundings(mask: Mask) -> tuple[slice, slice]:
    rows, columns = mask.grown(round(AROUND * mask.scale) + 4)
    height, width = mask.shape
    return slice(rows.start, min(rows.stop, height)), slice(columns.start, min(columns.stop, width))


def _paste(mask: Mask, part: Bool, window: tuple[slice, slice]) -> Bool:
    """A part of the mask's box as it lies in a window of the picture."""
    whole = np.zeros(mask.shape, bool)
    whole[mask.window] = part
    return whole[window]


def _pale(picture: Picture, inside: Bool) -> Picture:
    return np.where(inside[..., None], picture, 170 + picture // 3).astype(np.uint8)


def _rim(inside: Bool) -> Bool:
    """A line around the inside, as thick as the eye needs at any scale."""
    return dilate(inside, 2 * (max(inside.shape) // 150) + 3) & ~inside


def _tones(depth: Depth) -> Picture:
    """Depth values as greys, over the window's own range."""
    values = np.nan_to_num(depth.astype(np.float64), posinf=np.nan, neginf=np.nan)
    low, high = np.nanmin(values), np.nanmax(values)
    grey = np.nan_to_num(60 + 195 * (values - low) / max(high - low, 1e-9))
    return np.repeat(grey.astype(np.uint8)[..., None], 3, -1)


def _pairs(picture: Picture, verdict: Verdict, corner: tuple[int, int]) -> Picture:
    """The compared points: a line from the inner to the outer, red where the instance is behind."""
    scale = max(1, 2 * SIDE // max(picture.shape[:2]))
    image = Image.fromarray(picture).resize(
        (picture.shape[1] * scale, picture.shape[0] * scale), Image.Resampling.NEAREST
    )
    draw = ImageDraw.Draw(image)
    for a, b, behind in zip(verdict.inner, verdict.outer, verdict.behind, strict=True):
        ends: list[tuple[float, float]] = [
            ((x - corner[1] + 0.5) * scale, (y - corner[0] + 0.5) * scale) for y, x in (a, b)
        ]
        draw.line(ends, fill=RED if behind else GREEN, width=max(1, scale))
    return np.asarray(image)


def _square(picture: NDArray[Any]) -> Picture:
    """On a white square, as the sheet scales to squares."""
    height, width = picture.shape[:2]
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.full((side, side, 3), 255, np.uint8)
    square[top : top + height, left : left + width] = picture
    return square
